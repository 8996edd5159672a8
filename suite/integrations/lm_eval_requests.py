"""The generation options of an lm-eval task, and the cut at its stop texts. Knows no model and needs no lm-eval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cokv.types import CokvError

LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # the first one set counts
WITHOUT_EFFECT = {"top_p", "top_k", "min_p", "typical_p"}  # in greedy decoding


@dataclass(frozen=True)
class GenerationOptions:
    """When a generation ends."""

    max_new_tokens: int
    until: tuple[str, ...]  # texts that end the answer


def generation_options(options: Mapping[str, Any], default_length: int) -> GenerationOptions:
    """Reads a task's generation_kwargs. Options that greedy decoding cannot honour are refused, never ignored."""
    rest = {key: value for key, value in options.items() if value is not None}
    lengths = [rest.pop(name) for name in LENGTHS if name in rest]
    until = rest.pop("until", ())
    until = (until,) if isinstance(until, str) else tuple(until)
    if any(not isinstance(term, str) for term in until):
        raise CokvError(f"until is {list(until)}, expected texts")
    temperature, samples = rest.pop("temperature", 0), rest.pop("do_sample", False)
    if samples or (temperature and options.get("do_sample") is not False):
        raise CokvError(
            f"a task asks for sampling (do_sample={samples}, temperature={temperature}); this back end decodes "
            "greedily: add --gen_kwargs do_sample=False,temperature=0"
        )
    if unknown := sorted(set(rest) - WITHOUT_EFFECT):
        raise CokvError(
            f"a task sets {unknown[0]}={rest[unknown[0]]!r}, which greedy decoding here does not know; "
            f"expected until, do_sample, temperature or {', '.join(LENGTHS)}"
        )
    length = int(lengths[0] if lengths else default_length)
    if length < 1:
        raise CokvError(f"{length} tokens to generate, expected at least 1")
    return GenerationOptions(length, until)


def cut(text: str, until: Sequence[str]) -> str:
    """The text before the first occurrence of any of these."""
    for term in until:
        if term:
            text = text.split(term)[0]
    return text
