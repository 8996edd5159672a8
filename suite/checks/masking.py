"""Check 3: what is left of the score on test samples when the highest, lowest or random heads see only the window?

The game over test samples, with the task's metric; masked sets as in suite/heads/masking.py. Means are over samples,
then over tasks; every comparison is paired.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cokv.types import FloatArray
from suite.checks.context import Context, Row, not_run
from suite.checks.games import CheckGame, Played, Wanted
from suite.checks.pooled import by_task, difference, share, total
from suite.checks.rules import RULES, judged
from suite.heads.masking import Cut, MaskingSpec, coalitions_of, cuts, samples_by_cut

NAME = "masking"
DRAWS = 3  # random orders
TOP_TENTH, BOTTOM_THIRD = 0.1, 1 / 3  # the paper's two shares
NEAR = 0.005  # shares in a file are written with few digits


def counts(context: Context) -> dict[int, float]:
    """Heads cut, and the share that they stand for."""
    return {max(1, round(share * context.num_players)): share for share in context.spec.masked_shares}


def _bar(kind: str, share: float) -> str | None:
    """The rule for the share that is left, where the paper states one."""
    if kind == "top":
        return "top tenth" if abs(share - TOP_TENTH) < NEAR else None
    return "bottom third" if abs(share - BOTTOM_THIRD) < NEAR else None


def _cuts(context: Context, task: str) -> list[Cut]:
    spec = MaskingSpec(counts=tuple(counts(context)), draws=DRAWS, seed=context.spec.seed)
    return cuts(context.scores[task].values, spec)


def _game(context: Context, task: str) -> CheckGame:
    return CheckGame(task, "metric", context.game.first_token, test=True)


def wanted(context: Context) -> Wanted:
    return {_game(context, task): coalitions_of(_cuts(context, task)) for task in context.tasks}


def rows(context: Context, played: Played) -> list[Row]:
    samples: dict[str, dict[tuple[str, int], FloatArray]] = {}
    full: dict[str, FloatArray] = {}
    for task in context.tasks:
        masked = _cuts(context, task)
        percent = 100 * played.per_prompt(_game(context, task), coalitions_of(masked))
        samples[task], full[task] = samples_by_cut(masked, percent), percent[0]
    return rows_of(samples, full, counts(context), context.num_players)


def rows_of(
    samples: dict[str, dict[tuple[str, int], FloatArray]],
    full: dict[str, FloatArray],
    shares: dict[int, float],
    num_players: int,
) -> list[Row]:
    """samples: by task, then by kind of cut and number of heads, scores [samples] in percent; full: with all heads.
    shares: the numbers of heads, with their share.
    """

    def of(kind: str, heads: int) -> dict[str, FloatArray]:
        return {task: np.asarray(table[kind, heads]) for task, table in samples.items()}

    out: list[Row] = []
    for heads, fraction in sorted(shares.items()):
        number = f"{heads} of {num_players}"
        for kind, words in (("top", "highest"), ("bottom", "lowest")):
            cut, random = of(kind, heads), of("random", heads)
            rule = _bar(kind, fraction)
            left = share(cut, full, None if rule is None else RULES[rule].bar / 100)
            facts: dict[str, Any] = {"check": NAME, "of": "samples", "heads": heads, "by_task": by_task(cut)}
            facts["left"] = left
            if not left:
                zero = "the full cache scores 0 on these samples, so no share of it can be left"
                out.append(not_run(NAME, f"The {words} {number} cut", zero))
                continue
            if rule is not None:
                out.append(
                    {
                        **facts,
                        "what": f"Left of the full score without the {words} {number}",
                        **left,
                        **judged(rule, left, total(full)),
                    }
                )
            sign = 1 if kind == "top" else -1
            gap = difference(random, cut) if sign > 0 else difference(cut, random)
            rule = "more than random" if kind == "top" else "less than random"
            what = f"Without the {words} {number}: " + ("below" if kind == "top" else "above") + " random heads cut?"
            out.append({**facts, "what": what, **gap, **judged(rule, gap, total(full))})
        gain = difference(of("bottom", heads), full)
        what = f"Without the lowest {number}: above the full cache?"
        facts = {"check": NAME, "of": "samples", "heads": heads}
        out.append({**facts, "what": what, **gain, **judged("gain", gain, total(full))})
    return out
