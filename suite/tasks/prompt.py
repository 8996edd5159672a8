"""One sample of any benchmark, ready to run: token ids, when its answer ends, and a function that judges the text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedTokenizerBase

from cokv.decode.decode import Stop
from cokv.model.chat import has_chat_template
from cokv.model.loading import LoadedModel
from reports.chat import WITH_TEMPLATE, WITHOUT_TEMPLATE

VALIDATION_OFFSET = 1_000_000  # index of a generated task's first validation sample, of every seed


@dataclass(frozen=True)
class Prompt:
    """One sample ready to run. `context_ids` is compressed; `question_ids`, if any, follows on the compressed cache.

    A query-aware prompt has its question inside the context and no `question_ids`.
    """

    benchmark: str
    task: str
    sample_id: str
    seed: int
    context_ids: torch.Tensor  # int64 [seq_len]
    question_ids: torch.Tensor | None  # int64 [t]
    references: tuple[str, ...]
    stop: Stop
    metric: Callable[[str, tuple[str, ...]], float]  # percent
    notes: tuple[str, ...]
    all_classes: tuple[str, ...] | None = None  # labels of a classification, to judge texts again
    gold: str | None = None  # a full answer as it would follow the prompt, where the benchmark has one
    answer_prefix: str = ""  # the prompt's last words, which gold continues
    groups: dict[str, str] = field(default_factory=dict)  # LongBench's: length bucket, difficulty

    @property
    def prompt_tokens(self) -> int:
        return self.context_ids.numel() + (0 if self.question_ids is None else self.question_ids.numel())


def chat_notes(tokenizer: PreTrainedTokenizerBase, wrapped: bool) -> tuple[str, ...]:
    """What a record says about the chat template; nothing for a tokenizer without one."""
    if not has_chat_template(tokenizer):
        return ()
    return (WITH_TEMPLATE,) if wrapped else (WITHOUT_TEMPLATE,)


def continuation(tokenizer: PreTrainedTokenizerBase, before: str, text: str) -> list[int]:
    """Tokens of `text` as it continues `before`: a tokenizer may write a text's beginning otherwise than its middle.

    Where the two would share a token, those of `text` alone.
    """
    ids: list[int] = tokenizer.encode(before, add_special_tokens=False)
    both: list[int] = tokenizer.encode(before + text, add_special_tokens=False)
    return both[len(ids) :] if both[: len(ids)] == ids else tokenizer.encode(text, add_special_tokens=False)


def text_of(loaded: LoadedModel, tokens: list[int]) -> str:
    """An answer as the metrics read it: without special tokens."""
    text = loaded.tokenizer.decode(tokens, skip_special_tokens=True)
    assert isinstance(text, str), "one answer at a time"
    return text
