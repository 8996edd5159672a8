"""How a check's verdict is decided: the rules as data, and the one function that applies them.

A verdict looks at a 95 % interval, never at a mean alone: a claim holds where the whole interval is on its side of the
bar, does not hold where the whole interval is on the other side, and is undecided where the interval has the bar inside
it, or where there is too little to judge. The bars are the paper's where it has one (arXiv 2502.17501 and its README:
MAE < 1/n; cutting the top tenth of the heads leaves less than 30 %, the bottom third at least 80 %) and ours elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Verdict: TypeAlias = Literal["holds", "does not hold", "undecided"]
HOLDS: Verdict = "holds"
FAILS: Verdict = "does not hold"
UNDECIDED: Verdict = "undecided"

# Two-sided sign test: with fewer differing pairs p < 0.05 is out of reach (2 * 0.5**5 = 0.0625), whatever the interval.
MIN_DIFFERING = 6
FEWEST = 6  # samples or heads behind an interval; the bootstrap of fewer is no 95 % interval
FEWEST_ALIKE = 15  # samples behind a share without any spread: of n alike, events rarer than about 3 / n go unseen
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
PAIRED = ("gain", "more than random", "less than random")
SHARES = ("top tenth", "bottom third")


def judged(rule: str, estimate: Mapping[str, Any], n: int, blocked: str = "") -> dict[str, Any]:
    """The fields of a row that say what was decided: the rule's name, the verdict, and why nothing could be decided.

    estimate: score, low and high, in the rule's unit; of a paired difference also `differing`, how many samples' scores
    differ, since fewer than MIN_DIFFERING are never significant. n: samples or heads behind the interval. blocked: a
    reason why the comparison is not a fair one, whatever the interval.
    """
    verdict, why = UNDECIDED, blocked
    if not why and n < FEWEST:
        why = f"{n} behind the interval, expected at least {FEWEST}"
    if not why and ("low" not in estimate or "high" not in estimate):
        why = "no interval"
    if not why and rule in PAIRED and estimate["differing"] < MIN_DIFFERING:
        why = f"{estimate['differing']} of {n} samples differ, expected at least {MIN_DIFFERING}"
    if not why and rule in SHARES and estimate["low"] == estimate["high"] and n < FEWEST_ALIKE:
        why = f"{n} samples, all alike, expected at least {FEWEST_ALIKE} of them"
    if not why:
        verdict = RULES[rule].verdict(float(estimate["low"]), float(estimate["high"]))
    return {"rule": rule, "verdict": verdict, "n": n, **({"why": why} if why else {})}


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
