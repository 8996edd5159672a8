"""A comparison on the screen, and as files: a strip per method shows where in the prompt its heads kept tokens."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cokv.cache.policies.prune_channels import PruneChannels
from cokv.cache.policies.quantize import Quantize
from cokv.cache.policies.recall import Recall
from cokv.methods.method import Method
from cokv.types import Selection
from reports.kept_tokens import Kept, kept_figure
from reports.style import save
from reports.text import visible
from suite.cli.screen import screen
from suite.errors import SuiteError
from suite.run.compare import Compared, Comparison

BLOCKS = " ▁▂▃▄▅▆▇█"
STRIP = 48  # characters


def shares(selection: Selection, bins: int) -> Any:
    """Share of each (head, stretch of the prompt) that is kept: [num_layers * num_kv_heads, at most bins]."""
    mask = selection.mask().flatten(0, 1).numpy()
    edges = np.linspace(0, selection.seq_len, min(bins, selection.seq_len) + 1).astype(int)
    return np.add.reduceat(mask, edges[:-1], axis=1, dtype=np.float64) / np.diff(edges)


def strip(selection: Selection, width: int = STRIP) -> str:
    """The prompt from left to right: the fuller a block, the more of its (head, token) pairs are kept."""
    share = shares(selection, width).mean(axis=0)
    steps = np.ceil(share * (len(BLOCKS) - 1)).astype(int)  # whatever is kept at all shows
    return "".join(BLOCKS[step] for step in steps)


def spread(selection: Selection) -> str:
    """Slots per head: one number, or the least and the most; by layer where layers differ."""
    counts = selection.counts
    low, high = int(counts.min()), int(counts.max())
    if low == high:
        return str(low)
    layers = counts.mean(axis=1)
    by_layer = "" if len(layers) > 8 else "\n" + " ".join(f"{mean:.0f}" for mean in layers)
    return f"{low} to {high}{by_layer}"


def show(comparison: Comparison, console: Console | None = None) -> None:
    console = console or screen(170)
    table = Table(
        "method", "kept, from the prompt's beginning to its end", "slots per head\n(by layer)", "answer", "as full",
        title=_title(comparison), title_justify="left",
    )  # fmt: skip
    for row in (comparison.full, *comparison.methods):
        if row.selection is None:
            table.add_row(row.method.label, Text(row.infeasible, style="dim"), "-", "-", "-")
            continue
        kept = Text(strip(row.selection), "cyan")
        if stored := stored_as(row.method):
            kept.append(f"\n{stored}", "dim")
        answer = Text(visible(json.dumps(row.answer, ensure_ascii=False)), overflow="ellipsis", no_wrap=True)
        answer.truncate(40, overflow="ellipsis")
        mark = Text("yes", "green") if comparison.same(row) else Text("no", "red")
        table.add_row(row.method.label, kept, spread(row.selection), answer, mark)
    console.print(table)
    if comparison.template_unused:
        console.print(Text("This model has a chat template, and the prompt is read without it; --chat uses it.", "dim"))
    for origin, names in _origins(comparison).items():
        console.print(Text(f"profile {origin}: {', '.join(names)}", "dim"))


def _origins(comparison: Comparison) -> dict[str, list[str]]:
    """The methods that used a profile, by where it comes from."""
    names: dict[str, list[str]] = {}
    for row in comparison.methods:
        if row.profile:
            names.setdefault(row.profile, []).append(row.method.name)
    return names


def _title(comparison: Comparison) -> str:
    share = f" ({comparison.kv_budget} of the prompt)" if isinstance(comparison.kv_budget, str) else ""
    chat = ", in the chat template" if comparison.chat else ""
    return f"{comparison.seq_len} prompt tokens{chat}, {comparison.kv_slots} KV slots per head{share}"


def stored_as(method: Method) -> str:
    """How a method stores the tokens it keeps, where it changes them: fewer bits, other memory, fewer channels.

    "" for a method that stores them unchanged.
    """
    parameters = method.parameters
    if isinstance(method.policy, Quantize):
        by = {"scores": ", more where heads score best", "random": ", more in heads drawn at random"}
        split = str(parameters["split"])
        return f"in {parameters['bits']:g} bits{' on average' * (split != 'even')}{by.get(split, '')}"
    if isinstance(method.policy, PruneChannels):
        return f"keys without {parameters['pruned']:.0%} of their channels"
    if isinstance(method.policy, Recall):
        return f"in pages of {parameters['page']} in CPU memory, the best brought back at each step"
    return ""


def check_folder(folder: Path) -> None:
    """Raises where files could not be written into this folder, because it or a parent of it is a file."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise SuiteError(f"--out {folder}: {existing} is a file; name a folder, new or not")


def write(comparison: Comparison, folder: Path) -> list[Path]:
    """compare.json, every selection as safetensors, and the picture as PNG and SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "compare.json"]
    paths[0].write_text(json.dumps(comparison.as_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for row in comparison.methods:
        if row.selection is not None:
            paths.append(folder / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', row.method.name)}.safetensors")
            row.selection.save(paths[-1])
    panels = [_panel(comparison, row) for row in comparison.methods if row.selection is not None]
    if panels:
        missing = {row.method.label: row.infeasible for row in comparison.methods if row.selection is None}
        figure = kept_figure(panels, comparison.seq_len, comparison.kv_slots, comparison.full.answer, missing)
        paths += save(figure, folder, "kept", "svg")
    return paths


def _panel(comparison: Comparison, row: Compared) -> Kept:
    assert row.selection is not None
    return Kept(
        row.method.label, shares(row.selection, 512), row.selection.counts, row.answer, comparison.same(row),
        stored_as(row.method),
    )  # fmt: skip
