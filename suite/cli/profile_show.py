"""Profiles on the screen: a small heat table of head scores with their intervals, and what they rest on.

Published files too: CoKV's and LU-KV's .npy, HeadKV's .json, DuoAttention's .tsv.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cokv.game.ledger import Ledger
from cokv.game.plan import distinct
from cokv.game.recorded import RecordedGame
from cokv.methods.profile_rules import evidence, refusal
from cokv.profiles.load import SUFFIXES, load_profile, profile_path
from cokv.profiles.lukv_file import RatioCurves
from cokv.types import CokvError, HeadScores
from reports.text import visible
from suite.cli.screen import show
from suite.errors import SuiteError
from suite.heads.ledger_scores import from_record, planned
from suite.heads.score_provenance import head_scores, intervals_of

WIDEST = 16  # KV heads of a layer that are shown with intervals
LONG = 160  # characters of one fact
SHOWN_RATIO = 0.25  # of curves: of all tokens kept
EXPECTED = f"a ledger, or a profile ending in {', '.join(SUFFIXES)}"
COMPARE = "cokv profile compare"


def tables_of(path: Path, game: str | None = None, shape: tuple[int, int] | None = None) -> RenderableType:
    """A profile's table, or a ledger's games and the scores of the game that is named, or that is the only one.

    shape: (num_layers, num_kv_heads) of the model, for published files that do not say it.
    """
    path = profile_path(path)
    if path.is_dir():
        raise SuiteError(f"{path} is a folder; name a profile in it, or put its files side by side: {COMPARE} {path}")
    if not path.is_file():
        raise SuiteError(f"{path}: no such file, expected {EXPECTED}; check the path")
    with path.open("rb") as file:
        is_ledger = file.read(6) == b"SQLite"
    if not is_ledger:
        return _profile(path, shape)
    with Ledger(path, create=False) as ledger:
        games = ledger.games()
        parts: list[RenderableType] = [ledger_table(games)]
        if game is not None or len(games) == 1:
            record = game_of(ledger, game)
            try:
                parts.append(profile_table(head_scores(record, from_record(record)), record.name))
            except (CokvError, SuiteError) as error:
                parts.append(Text(f"no scores yet: {error}"))
        return Group(*parts)


def _profile(path: Path, shape: tuple[int, int] | None) -> RenderableType:
    """A profile that cokv wrote, whatever its name, or a published one, by its suffix."""
    if path.suffix not in SUFFIXES:
        try:
            return profile_table(HeadScores.load(path), path.stem)
        except CokvError:
            raise SuiteError(f"{path} is neither a profile nor a ledger; expected {EXPECTED}") from None
    profile = load_profile(path, shape)
    if isinstance(profile, RatioCurves):
        shares = HeadScores(profile.at(SHOWN_RATIO), profile.provenance)
        title = f"{path.stem}: share of its tokens a head keeps, of {SHOWN_RATIO:.0%} of the cache"
        return profile_table(shares, title, refusal(profile))
    files: Any = profile.provenance.get("files")  # of CoKV's released sums and counts
    drawn = f": {files[0]['samples']} coalitions of {files[0]['size']} heads" if files else ""
    return profile_table(profile, f"{path.stem}{drawn}")


def game_of(ledger: Ledger, name: str | None) -> RecordedGame:
    """The game of that name, or the only one."""
    games = {game.name: game for game in ledger.games()}
    if name is None and len(games) == 1:
        return next(iter(games.values()))
    if name not in games:
        got = f"{len(games)} games" if name is None else f"no game {name!r}"
        raise SuiteError(f"{ledger.path} holds {got}; name one of {', '.join(games) or 'none'} with --game")
    return games[name]


def ledger_table(games: list[RecordedGame]) -> Table:
    table = Table("game", "hash", "content", "players", "prompts", "coalitions", "planned", "missing", title="ledger")
    for game in games:
        plans = planned(game)
        rows = distinct(np.concatenate([plan.coalitions for plan in plans]))[0] if plans else None
        counts = ["", ""] if rows is None else [str(len(rows)), str(int((~game.known(rows)).sum()))]
        about = (game.hash, game.digest, str(game.num_players), str(game.num_prompts), str(len(game)))
        table.add_row(game.name, *about, *counts)
    return table


def profile_table(scores: HeadScores, title: str, reason: str | None = None) -> RenderableType:
    """A row per layer, a column per KV head; under each score its interval, where it is known and fits.

    reason: why methods refuse the profile, "" if they do not; None: as the scores say.
    """
    intervals = intervals_of(scores) if scores.num_kv_heads <= WIDEST else None
    table = Table("layer", *(f"head {head}" for head in range(scores.num_kv_heads)), title=title, pad_edge=False)
    low, high = float(scores.values.min()), float(scores.values.max())
    for layer, row in enumerate(scores.values):
        cells = []
        for head, value in enumerate(row):
            cell = Text(f"{value:.4g}", style=_heat(float(value), low, high), justify="right")
            if intervals is not None:
                bounds = intervals[layer, head]
                known = "no interval" if math.isnan(bounds[0]) else f"{bounds[0]:.3g} to {bounds[1]:.3g}"
                cell.append(f"\n{known}", style="not bold")
            cells.append(cell)
        table.add_row(str(layer), *cells)
    facts = [Text(f"{visible(name)}: {_short(value)}") for name, value in _facts(scores.provenance)]
    reason = refusal(scores) if reason is None else reason
    valid = "valid profile, by its evidence" if evidence(scores) else "states no evidence: only its scores were judged"
    verdict = Text(f"no valid profile: {reason}", "red") if reason else Text(valid, "green")
    return Group(table, *facts, verdict)


def _heat(value: float, low: float, high: float) -> str:
    """From white to red over the profile's own range."""
    share = 0.0 if high == low else (value - low) / (high - low)
    return f"black on rgb(255,{int(255 - 155 * share)},{int(255 - 175 * share)})"


def _facts(provenance: dict[str, Any]) -> list[tuple[str, Any]]:
    """The provenance without what the table shows."""
    in_table = {"interval", "standard_error", "runs", "level"}
    facts = [(name, value) for name, value in provenance.items() if name not in in_table and name != "game"]
    game = provenance.get("game")
    if isinstance(game, dict):
        facts += [(f"game.{name}", value) for name, value in game.items()]
    return facts


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return _cut(", ".join(f"{k} {_short(v)}" for k, v in value.items()))
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return f"{len(value)} of them, the first {_short(value[0])}"
    return _cut(str(value))


def _cut(text: str) -> str:
    text = visible(text)
    return text if len(text) <= LONG else f"{text[: LONG - 3]}..."


def render(table: RenderableType) -> None:
    show(table, width=400)
