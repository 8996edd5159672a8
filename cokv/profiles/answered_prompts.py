"""Prompts that profilers learn from, answered greedily by the full cache, and their attention once the answer is known.

By causality one pass over the prompt and its answer has the attention of every decode step, so profilers are observers
(cokv/model/observe.py) of such a pass: blocks of queries, one number per head or token kept. Knows no profile and no
benchmark: a prompt is token ids, and a function says whether an answer is right.
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
    """What a method would compress, int64 [seq_len]; what is read after it, int64 [t] or None; when the answer ends."""

    input_ids: torch.Tensor
    stop: Stop
    suffix: torch.Tensor | None = None

    @property
    def read(self) -> torch.Tensor:
        """All that is read before the answer."""
        return self.input_ids if self.suffix is None else torch.cat([self.input_ids, self.suffix])


@dataclass(frozen=True, eq=False)
class Needle:
    """A prompt whose answer stands at positions start..end of what is read, and a judge of generated tokens.

    answer_tokens: how many tokens the right answer has; None: as many as stand there.
    """

    asked: ProfilingPrompt
    start: int
    end: int
    right: Callable[[list[int]], bool]
    answer_tokens: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end <= self.asked.read.numel():
            raise CokvError(
                f"a needle at positions {self.start}..{self.end} of a prompt of {self.asked.read.numel()} tokens; "
                "expected at least one token inside it"
            )
        tokens = self.answer_tokens
        if tokens is not None and (isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1):
            raise CokvError(
                f"answer_tokens is {tokens!r}, expected a positive whole number, or None: the needle's size"
            )


def answer(model: PreTrainedModel, made: Prefill, asked: ProfilingPrompt) -> list[int]:
    """Greedy tokens on the full cache, a stop token included."""
    full = Selection.full(made.shape.num_layers, made.shape.num_kv_heads, made.seq_len)
    return decode(model, made, [Row(full)], asked.stop, suffix=asked.suffix)[0].tokens


def observed(model: PreTrainedModel, ids: torch.Tensor, observer: Observer) -> list[Observation]:
    """What an observer saw of each full-attention layer while `ids` were read, or its error."""
    return [layer.observation(observer) for layer in prefill(model, ids, 1, [observer]).layers]


def at_least_one(prompts: Sequence[object], what: str) -> None:
    if not prompts:
        raise CokvError(f"no {what} to learn a profile from, expected at least one")
