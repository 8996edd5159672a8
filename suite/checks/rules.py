"""How a check's verdict is decided: the rules as data, and the functions that apply them.

A verdict looks at a 95 % interval, never at a mean alone: a claim holds where the whole interval is on its side of the
bar, does not hold where the whole interval is on the other side, and is undecided where the interval has the bar inside
it, or where there is too little to judge. A check asks several questions at once, so its rows are corrected together
(`corrected`): by Holm's procedure over their p-values, each of the row's value being at the bar.

The bars are the paper's where it has one (arXiv 2502.17501 and its README: MAE < 1/n; cutting the top tenth of the
heads leaves less than 30 %, the bottom third at least 80 %) and ours elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from reports.significance import ALPHA, holm

Verdict: TypeAlias = Literal["holds", "does not hold", "undecided"]
HOLDS: Verdict = "holds"
FAILS: Verdict = "does not hold"
UNDECIDED: Verdict = "undecided"

FEWEST = 6  # samples or heads behind an interval
WITHIN = 0.3  # correlation of two runs of one ranking, below which nothing can be said of two rankings
BYTES = 0.03  # relative difference of measured bytes up to which two arms count as equal


@dataclass(frozen=True)
class Rule:
    """side: of the bar on which the interval must lie; "at least" has the bar itself on it, the other two have not.

    sentence: when the claim holds, for a reader. digits, unit, sign: how its numbers are written.
    """

    sentence: str
    side: Literal["at least", "above", "below"]
    bar: float
    unit: str = ""
    digits: int = 1
    sign: bool = False

    def verdict(self, low: float, high: float) -> Verdict:
        """Of an interval. One that has the bar inside it decides nothing."""
        if self.side == "below":
            return HOLDS if high < self.bar else FAILS if low >= self.bar else UNDECIDED
        if self.side == "at least":
            return HOLDS if low >= self.bar else FAILS if high < self.bar else UNDECIDED
        return HOLDS if low > self.bar else FAILS if high <= self.bar else UNDECIDED


RULES: Mapping[str, Rule] = {
    "mae": Rule("the mean absolute difference of two runs is below 1/n", "below", 1.0, "x 1/n", 2),
    "reliability": Rule("the split-half reliability of both runs together is at least 0.9", "at least", 0.9, "", 2),
    "same order": Rule(
        "two rankings correlate (Spearman) at least 0.8 times as well with each other as each with a second run of "
        f"itself; undecided where two runs of one ranking correlate below {WITHIN}",
        "at least",
        0.8,
        "",
        2,
    ),
    "exact order": Rule(
        "both rankings are exact and their Spearman correlation is at least 0.8", "at least", 0.8, "", 2
    ),
    "top tenth": Rule("less than 30 % of the full score is left", "below", 30.0, "%"),
    "bottom third": Rule("at least 80 % of the full score is left", "at least", 80.0, "%"),
    "more than random": Rule(
        "the score lost is more than with as many random heads cut", "above", 0.0, "points", 1, True
    ),
    "less than random": Rule(
        "the score lost is less than with as many random heads cut", "above", 0.0, "points", 1, True
    ),
    "gain": Rule("the paired difference of scores is above 0", "above", 0.0, "points", 1, True),
}
REACHED = "reached"
REACHED_SENTENCE = (
    "the bar is passed for good within the evaluated coalitions in at least 95 % of random orders of the draws; it "
    "does not hold where it is in fewer than 5 %"
)
EXACT = ("exact order", REACHED)  # no estimates from a sample, hence no p-value and no correction


def judged(rule: str, estimate: Mapping[str, Any], n: int, blocked: str = "") -> dict[str, Any]:
    """The fields of a row that say what was decided: the rule's name, the verdict, and why nothing could be decided.

    estimate: score, low and high, in the rule's unit, and p, two-sided, of the score being at the bar. n: samples or
    heads behind the interval. blocked: a reason why the comparison is not a fair one, whatever the interval. The
    verdict is this row's alone; `corrected` makes it one among the rows of its check.
    """
    verdict, why = UNDECIDED, blocked
    if not why and n < FEWEST:
        why = f"{n} behind the interval, expected at least {FEWEST}"
    if not why and ("low" not in estimate or "high" not in estimate):
        why = "no interval"
    if not why:
        verdict = RULES[rule].verdict(float(estimate["low"]), float(estimate["high"]))
    return {"rule": rule, "verdict": verdict, "n": n, **({"why": why} if why else {})}


def corrected(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of one check with p_holm, and undecided where it is above 0.05. Rows without a verdict or without an
    estimate stay as they are. Needs nothing but what a record of the checks holds.
    """
    out = [dict(row) for row in rows]
    family = [row for row in out if "p" in row and "low" in row and row["rule"] not in EXACT]
    for row, p_holm in zip(family, holm([row["p"] for row in family]), strict=True):
        row["p_holm"] = p_holm
        if p_holm > ALPHA and row["verdict"] != UNDECIDED:
            row["verdict"] = UNDECIDED
            row["why"] = f"p {row['p']:.2g}, corrected for {len(family)} rows {p_holm:.2g}"
    return out


def judged_reached(low: int | None, high: int | None, n: int) -> dict[str, Any]:
    """Of a number of coalitions until a bar is passed for good: the 2.5 and 97.5 % quantiles over random orders, None
    where it is not passed.
    """
    verdict = HOLDS if high is not None else FAILS if low is None else UNDECIDED
    return {"rule": REACHED, "verdict": verdict, "n": n}


def rules_as_json() -> dict[str, dict[str, Any]]:
    """Every rule by name, as a record keeps it: its sentence, and how its numbers are written."""
    rules = {
        name: {"sentence": rule.sentence, "unit": rule.unit, "digits": rule.digits, "sign": rule.sign}
        for name, rule in RULES.items()
    }
    return {**rules, REACHED: {"sentence": REACHED_SENTENCE, "unit": "coalitions", "digits": 0, "sign": False}}


def judged_order(result: Mapping[str, Any], n: int) -> dict[str, Any]:
    """Of an agreement (suite/checks/order.py): undecided, too, where a ranking does not even agree with itself."""
    within = result.get("within")
    noisy = (
        "" if within is None or within >= WITHIN else f"two runs of one ranking correlate {within:.2f}, below {WITHIN}"
    )
    return judged("same order", result, n, noisy or ("" if within is not None else "a run gives all heads one score"))
