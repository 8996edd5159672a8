"""The rules that decide whether a profile says anything of its model: one that does not is refused, never used.

A profiler states its evidence in the profile's provenance, under "evidence"; a rule reads it. What a published file
does not state cannot be judged and is not held against it. The rules:

    every kind       heads differ: scores that are all alike allocate as no scores do
                     reliability of at least 0.5: half of the variance between heads comes back with other prompts, or
                     other coalitions (split-half Pearson correlation, Spearman-Brown). It speaks of the heads that
                     stand out; the order of the others may be less certain
                     of a game, reliability over prompts above 0: what one prompt alone ranks says nothing of others
    HeadKV           at least 2 effective heads (of fewer than 4, half of them), (sum s)^2 / sum s^2: with one, the rule
                     says nothing of all others
    HeadKV-R         a query head with a score of at least 0.1, as Wu et al., arXiv 2404.15574, define retrieval heads
    HeadKV-R2        a query head whose attention on the needle is at least twice what even attention would give it
    RazorAttention   the model copies the probe: at least 80 percent of the repeated tokens are predicted right, and a
                     head has an induction score of at least 0.1
    DuoAttention     the model predicts at least half of the passkeys' tokens that gates were trained on; and of random
                     halves of the heads, kept whole, at most one in twenty loses less than the half by gate
    LU-KV            at a quarter of the cache, heads' shares differ by at least 0.01
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

from cokv.types import CokvError, FloatArray

MIN_RELIABILITY = 0.5
MIN_EFFECTIVE_HEADS = 2.0
MIN_RETRIEVAL = 0.1
MIN_TIMES_CHANCE = 2.0
MIN_COPY_ACCURACY = 0.8
MIN_ANSWERS_PREDICTED = 0.5
MAX_SHARE_BETTER = 0.05
MIN_SHARE_SPREAD = 0.01
QUARTER = 24  # line of LU-KV's curves: 25 percent

Evidence: TypeAlias = Mapping[str, Any]
Rule: TypeAlias = Callable[[FloatArray, Evidence], Iterator[str]]


@runtime_checkable
class ChecksShape(Protocol):
    """A profile that can check whether it fits a model: head scores, curves."""

    def require_shape(self, num_layers: int, num_kv_heads: int) -> Any: ...


def check_profile(profile: Any, wanted: str, kinds: tuple[str, ...], shape: tuple[int, int]) -> None:
    """Raises CokvError unless this is a valid profile of a method and a model; one without provenance may be.

    wanted: what the method needs, in words. kinds: accepted prefixes of the profile's kind. shape: (num_layers,
    num_kv_heads) of the model.
    """
    if profile is None:
        raise CokvError(f"needs {wanted} and got none; compute them on this model or load a file")
    kind = getattr(profile, "provenance", {}).get("kind")
    if isinstance(kind, str) and not kind.startswith(kinds):
        expected = " or ".join(map(repr, kinds))
        raise CokvError(f"needs {wanted} and got a profile of kind {kind!r}; expected kind {expected}")
    if isinstance(profile, ChecksShape):
        profile.require_shape(*shape)
    if reason := refusal(profile, kinds[0] if kinds else ""):
        raise CokvError(f"no valid profile: {reason}")


def refusal(profile: Any, kind: str = "") -> str:
    """Why a profile is not valid, in words that follow "no valid profile: "; "" for a valid one.

    kind: of a profile whose provenance does not state it.
    """
    values = getattr(profile, "values", None)
    if not isinstance(values, np.ndarray):
        return ""
    provenance = getattr(profile, "provenance", {})
    stated = provenance.get("kind")
    kind = stated if isinstance(stated, str) else kind
    reasons = [
        reason for prefix, rule in RULES if kind.startswith(prefix) for reason in rule(values, evidence(profile))
    ]
    return "; ".join(reasons)


def evidence(profile: Any) -> dict[str, Any]:
    """What a profile's provenance states of itself. A game's reliability is that of its stability."""
    provenance = getattr(profile, "provenance", {})
    stated = provenance.get("evidence")
    facts = dict(stated) if isinstance(stated, Mapping) else {}
    for name, of_game in (("reliability", "split_half"), ("prompt_reliability", "prompt_reliability")):
        if isinstance(provenance.get(of_game), (int, float)):
            facts.setdefault(name, provenance[of_game])
    for name, value in facts.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise CokvError(
                f"the profile's evidence {name!r} is {str(value)[:40]!r}, expected a number; compute it again"
            )
    return facts


def effective_heads(scores: FloatArray) -> float:
    """(sum s)^2 / sum s^2 of scores of 0 or more: n if n are equal, 1 if one head has all, 0 if none has any."""
    largest = scores.max()
    if largest <= 0:
        return 0.0
    shares = scores / largest
    return float(shares.sum() ** 2 / np.square(shares).sum())


def _reliable(values: FloatArray, facts: Evidence) -> Iterator[str]:
    value = facts.get("reliability", 1.0)
    if value is None:
        if values.size > 1:
            yield "its reliability could not be measured, from a single prompt or from halves without an order"
    elif value < MIN_RELIABILITY:
        yield f"split-half reliability {value:.2f}, expected at least {MIN_RELIABILITY}"
    over_prompts = facts.get("prompt_reliability")
    if over_prompts is not None and over_prompts <= 0:
        yield f"other prompts rank its heads otherwise: reliability over prompts {over_prompts:.2f}, not above 0"


def _heads_differ(values: FloatArray, facts: Evidence) -> Iterator[str]:
    if values.size > 1 and np.ptp(values) == 0:
        yield "all heads have the same score"


def _headkv(values: FloatArray, facts: Evidence) -> Iterator[str]:
    count, least = effective_heads(values), min(MIN_EFFECTIVE_HEADS, values.size / 2)
    if np.ptp(values) > 0 and values.min() >= 0 and count < least:
        yield f"one head has nearly all of the score, as if {count:.2f} heads shared it, expected at least {least:g}"


def _retrieval(values: FloatArray, facts: Evidence) -> Iterator[str]:
    largest = facts.get("largest")
    if largest is not None and largest < MIN_RETRIEVAL:
        yield f"the largest retrieval score of a head is {largest:.3f}, expected at least {MIN_RETRIEVAL}"


def _reasoning(values: FloatArray, facts: Evidence) -> Iterator[str]:
    largest, chance = facts.get("largest"), facts.get("chance")
    if largest is not None and chance is not None and largest < MIN_TIMES_CHANCE * chance:
        yield (
            f"the most that a head attends to the needle is {largest:.3f}, even attention would give {chance:.3f}; "
            "expected at least twice that"
        )


def _razor(values: FloatArray, facts: Evidence) -> Iterator[str]:
    accuracy, largest = facts.get("copy_accuracy"), facts.get("largest")
    if accuracy is not None and accuracy < MIN_COPY_ACCURACY:
        yield (
            f"the model copies {accuracy:.1%} of a probe that repeats every {facts.get('period')} tokens, expected at "
            f"least {MIN_COPY_ACCURACY:.0%}"
        )
    if largest is not None and largest < MIN_RETRIEVAL:
        yield f"the largest induction score of a head is {largest:.3f}, expected at least {MIN_RETRIEVAL}"


def _duo(values: FloatArray, facts: Evidence) -> Iterator[str]:
    predicted, draws, better = (facts.get(f) for f in ("answers_predicted", "random_halves", "random_halves_better"))
    if predicted is not None and predicted < MIN_ANSWERS_PREDICTED:
        yield (
            f"the model predicts {predicted:.1%} of the passkeys that gates were trained on, expected at least "
            f"{MIN_ANSWERS_PREDICTED:.0%}"
        )
    if draws is not None and better is not None and better > MAX_SHARE_BETTER * draws:
        yield f"{better} of {draws} random halves of the heads, kept whole, lose less than the half by gate"


def _lukv(values: FloatArray, facts: Evidence) -> Iterator[str]:
    if values.ndim == 3 and values[QUARTER].size > 1 and np.ptp(values[QUARTER]) < MIN_SHARE_SPREAD:
        yield (
            f"at a quarter of the cache all heads keep the same share, within {np.ptp(values[QUARTER]):.3f}; expected "
            f"a spread of at least {MIN_SHARE_SPREAD}"
        )


RULES: tuple[tuple[str, Rule], ...] = (  # by the prefix of the profile's kind
    ("", _heads_differ),
    ("HeadKV", _headkv),
    ("HeadKV-R ", _retrieval),
    ("HeadKV-R2", _reasoning),
    ("RazorAttention", _razor),
    ("DuoAttention", _duo),
    ("LU-KV", _lukv),
    ("", _reliable),
)
