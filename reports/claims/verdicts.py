"""Claims and evidence -> verdicts. Always from intervals, never from a value alone.

A claim is *reproduced* where the whole interval lies on its side of the bar, *contradicted* where the whole interval
lies on the other side, and *inconclusive* where the interval covers both. Where the run does not meet the claim's
condition it is *not comparable here*, with why, and what would be needed.

All verdicts of a run are given at once: the confidence of each interval is raised so that all of them together hold
with 95 % (Bonferroni), m of them at 1 - 0.05 / m.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from reports.claims.entries import Claim, claims
from reports.claims.evidence import Evidence
from reports.claims.expressions import EXPRESSIONS
from reports.claims.parts import NotComparable, Part
from reports.intervals import CONFIDENCE
from reports.reported.names import same_models

Verdict: TypeAlias = Literal["reproduced", "contradicted", "inconclusive", "not comparable here"]
REPRODUCED: Verdict = "reproduced"
CONTRADICTED: Verdict = "contradicted"
INCONCLUSIVE: Verdict = "inconclusive"
NOT_COMPARABLE: Verdict = "not comparable here"
VERDICTS = (REPRODUCED, CONTRADICTED, INCONCLUSIVE, NOT_COMPARABLE)


@dataclass(frozen=True)
class Judged:
    """One claim on one run. value, low and high in the claim's unit; absent where it is not comparable.

    confidence: of this interval; together: how many were judged at once. why: of what is not comparable. low and high
    are None where the interval has no such end.
    """

    claim: Claim
    verdict: Verdict
    model: str
    where: str = ""
    why: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    of: str = ""
    basis: str = ""
    confidence: float | None = None
    together: int = 0

    @property
    def exact(self) -> bool:
        return self.value is not None and self.confidence is None

    def as_json(self) -> dict[str, Any]:
        claim = self.claim
        stated: dict[str, Any] = {
            "id": claim.id,
            "short": claim.short,
            "text": claim.text,
            "paper": claim.paper,
            "source": claim.source,
            "scope": claim.scope,
            "side": claim.side,
            "bar": round(claim.bar, 4),
            "tolerance": claim.tolerance,
            "bar_is": claim.bar_is or None,
            "published": None if claim.published is None else round(claim.published, 4),
            "unit": claim.unit,
            "verdict": self.verdict,
            "model": self.model,
            "where": self.where or None,
            "why": self.why or None,
            "needed": claim.needed if self.verdict == NOT_COMPARABLE else None,
            "n": self.n or None,
            "of": self.of or None,
            "basis": self.basis or None,
            "confidence": self.confidence,
        }
        for name in ("value", "low", "high"):
            number = getattr(self, name)
            stated[name] = None if number is None else round(number, 4) + 0.0
        return {key: value for key, value in stated.items() if value is not None}


def judge_claims(evidence: Evidence, listed: Sequence[Claim] | None = None) -> list[Judged]:
    """Every claim (those that ship, or `listed`) on one run, in their order."""
    asked: list[tuple[Claim, list[Part] | str]] = []
    for claim in claims() if listed is None else listed:
        try:
            unmet = _unmet(claim, evidence)
            asked.append((claim, "; ".join(unmet) if unmet else _parts(claim, evidence)))
        except NotComparable as reason:
            asked.append((claim, str(reason)))
    sampled = sum(not part.estimate.exact for _, parts in asked if not isinstance(parts, str) for part in parts)
    return [
        Judged(claim, NOT_COMPARABLE, evidence.model, why=parts)
        if isinstance(parts, str)
        else _judged(claim, evidence, parts, sampled)
        for claim, parts in asked
    ]


def verdict_of(side: str, bar: float, tolerance: float, low: float, high: float) -> Verdict:
    """Of an interval. `within` is two-sided: the value is the claim's, up to the tolerance."""
    if side == "within":
        if bar - tolerance <= low and high <= bar + tolerance:
            return REPRODUCED
        return CONTRADICTED if high < bar - tolerance or low > bar + tolerance else INCONCLUSIVE
    if side in ("above", "at least"):
        edge = bar - tolerance
        holds = low > edge if side == "above" else low >= edge
        fails = high <= edge if side == "above" else high < edge
    else:
        edge = bar + tolerance
        holds = high < edge if side == "below" else high <= edge
        fails = low >= edge if side == "below" else low > edge
    return REPRODUCED if holds else CONTRADICTED if fails else INCONCLUSIVE


def confidence_of_each(count: int) -> float:
    """Of each of `count` intervals, so that all hold together with CONFIDENCE."""
    return 1 - (1 - CONFIDENCE) / max(count, 1)


def _parts(claim: Claim, evidence: Evidence) -> list[Part]:
    return EXPRESSIONS[claim.expression].function(evidence, claim.arguments, claim.condition)


def _judged(claim: Claim, evidence: Evidence, parts: Sequence[Part], sampled: int) -> Judged:
    """By the part that decides; by the first where none does."""
    confidence = confidence_of_each(sampled)
    verdicts: list[tuple[Verdict, Part]] = []
    for part in parts:
        low, high = part.estimate.interval(confidence)
        verdict = verdict_of(claim.side, claim.bar, claim.tolerance, low, high)
        able = part.reproduces if verdict == REPRODUCED else part.contradicts
        verdicts.append((verdict if able else INCONCLUSIVE, part))
    decided = [pair for pair in verdicts if pair[0] != INCONCLUSIVE]
    agreed = len({verdict for verdict, _ in decided}) == 1
    verdict, part = decided[0] if agreed else (INCONCLUSIVE, verdicts[0][1])
    low, high = part.estimate.interval(confidence)
    return Judged(
        claim,
        verdict,
        evidence.model,
        where=part.where,
        why="" if verdict != INCONCLUSIVE else _undecided(part, parts, confidence),
        value=part.estimate.value,
        low=low if math.isfinite(low) else None,
        high=high if math.isfinite(high) else None,
        n=part.estimate.n,
        of=part.estimate.of,
        basis=part.estimate.basis,
        confidence=None if part.estimate.exact else round(confidence, 6),
        together=sampled,
    )


def _undecided(part: Part, parts: Sequence[Part], confidence: float) -> str:
    """Why nothing follows, beyond the interval that is shown; and what the other parts are."""
    why = [part.limit] if part.limit else []
    if not all(map(math.isfinite, part.estimate.interval(confidence))):
        why.append(f"no interval of {part.estimate.n} {part.estimate.of} at this confidence")
    for other in parts:
        if other is not part:
            low, high = other.estimate.interval(confidence)
            why.append(f"{other.estimate.value:.1f} [{low:.1f}, {high:.1f}] at {other.at}")
    return "; ".join(why)


def _unmet(claim: Claim, evidence: Evidence) -> list[str]:
    """Each condition that the run does not meet, for a reader."""
    condition, unmet = claim.condition, []
    if "models" in condition and not {*same_models(evidence.model)} & {*condition["models"]}:
        unmet.append(f"the model is {evidence.model}, not {' or '.join(condition['models'])}")
    if "device" in condition and evidence.device != condition["device"]:
        unmet.append(f"it ran on {evidence.device or 'a device that is not on record'}, not {condition['device']}")
    benchmark = condition.get("benchmark")
    names = {task for kind, task in evidence.tasks if benchmark in (None, kind)}
    if benchmark is not None and not names:
        unmet.append(f"the tasks are {evidence.task_words() or 'not on record'}, not of {benchmark}")
    elif "tasks" in condition and (missing := [task for task in condition["tasks"] if task not in names]):
        unmet.append(f"the tasks lack {', '.join(missing)}")
    if "protocol" in condition and names and evidence.longbench.get("protocol") != condition["protocol"]:
        unmet.append(f"LongBench's protocol is {evidence.longbench.get('protocol')}, not {condition['protocol']}")
    if benchmark is not None and condition.get("official_data") and names and not evidence.official_data(benchmark):
        unmet.append("the samples were generated here, not by the official generator")
    if "length" in condition and names and evidence.length != condition["length"]:
        unmet.append(f"the prompts are of {evidence.length} tokens, not {condition['length']}")
    if "query_aware" in condition and evidence.scores is not None:
        protocols = {variant.query_aware for _, variant in evidence.scores.scores}
        if condition["query_aware"] not in protocols:
            seen = (
                "inside the prompt when tokens are chosen" if True in protocols else "not seen when tokens are chosen"
            )
            unmet.append(f"the question is {seen}")
    return unmet
