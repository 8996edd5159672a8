"""Prompts of profilers, answered greedily by the full cache, and the attention of one pass over prompt and answer.

By causality that pass has the attention of every decode step, so profilers are observers (cokv/model/observe.py) of it:
they read blocks of queries and store one number per head or token. Knows no profile and no benchmark: a prompt is token
ids, and a function judges whether an answer is right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from cokv.cache.prefill import Prefill, prefill
from cokv.decode.batches import Row
from cokv.decode.decode import Stop, decode
from cokv.model.observe import Observation, Observer
from cokv.types import CokvError, Selection


@dataclass(frozen=True, eq=False)
class ProfilingPrompt:
    """Ids that a method would compress, int64 [seq_len], and a suffix that it would not, int64 [t]."""

    input_ids: torch.Tensor
    stop: Stop
    suffix: torch.Tensor | None = None

    @property
    def read(self) -> torch.Tensor:
        """All ids before the answer."""
        return self.input_ids if self.suffix is None else torch.cat([self.input_ids, self.suffix])


@dataclass(frozen=True, eq=False)
class Needle:
    """A prompt with a needle at positions start..end of `prompt.read`, the sentence with its answer, and a judge of
    generated tokens.

    answer_tokens: how many tokens the right answer has; None: end - start.
    """

    prompt: ProfilingPrompt
    start: int
    end: int
    right: Callable[[list[int]], bool]
    answer_tokens: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end <= self.prompt.read.numel():
            raise CokvError(
                f"a needle at positions {self.start}..{self.end} of a prompt of {self.prompt.read.numel()} tokens; "
                "expected at least one token inside it"
            )
        tokens = self.answer_tokens
        if tokens is not None and (isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1):
            raise CokvError(
                f"answer_tokens is {tokens!r}, expected a positive whole number, or None: the needle's size"
            )


def full_cache_answer(model: PreTrainedModel, prefilled: Prefill, prompt: ProfilingPrompt) -> list[int]:
    """Greedy tokens on the full cache, a stop token included."""
    full = Selection.full(prefilled.shape.num_layers, prefilled.shape.num_kv_heads, prefilled.seq_len)
    return decode(model, prefilled, [Row(full)], prompt.stop, suffix=prompt.suffix)[0].tokens


def observe_pass(model: PreTrainedModel, ids: torch.Tensor, observer: Observer) -> list[Observation]:
    """What an observer returns for each full-attention layer in a pass over `ids`."""
    return [layer.observation(observer) for layer in prefill(model, ids, 1, [observer]).layers]


def require_prompts(prompts: Sequence[object], kind: str) -> None:
    if not prompts:
        raise CokvError(f"no {kind} to learn a profile from, expected at least one")
