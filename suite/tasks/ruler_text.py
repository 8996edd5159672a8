"""How a RULER prompt is written for a model: bare, or in the model's own chat template.

As in NVIDIA/RULER `scripts/data/prepare.py`: context and question are the user's turn, and the answer prefix stands
behind the template's generation prompt, unchanged, its leading space included. The template's tokens count into the
length (`scripts/data/synthetic/*.py`, which subtract them). Differs: the template is the tokenizer's own, where the
official `template.py` writes one out per model family, and its tokens are counted in the whole prompt, not apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from cokv.model.chat import has_chat_template, user_turn_around
from ruler.sample import Draft, Sample
from suite.spec import RulerSpec
from suite.tasks.prompt import chat_notes


@dataclass(frozen=True)
class RulerText:
    """The text of samples for a tokenizer. chat: in its chat template, with these arguments."""

    tokenizer: PreTrainedTokenizerBase
    chat: bool
    prepared: bool = False
    chat_arguments: tuple[tuple[str, bool | int | str], ...] = ()

    @classmethod
    def of(cls, spec: RulerSpec, tokenizer: PreTrainedTokenizerBase) -> RulerText:
        """Files of the official generator are never wrapped: it has written a template into `input` already (unless
        it ran with --prepare_for_ns, which the file does not say). kvpress's rows on the hub hold none, and its
        pipeline wraps context and question as is done here."""
        prepared = spec.data is not None and spec.hub_revision is None
        chat = spec.chat == "task" and not prepared and has_chat_template(tokenizer)
        return cls(tokenizer, chat, prepared, tuple(sorted(spec.chat_arguments.items())))

    def parts(self, sample: Sample | Draft) -> tuple[str, str]:
        """(what ends with the context, what begins with the question); joined they are the whole prompt."""
        if not self.chat:
            return sample.context, sample.question + sample.answer_prefix
        before, after = user_turn_around(self.tokenizer, sample.context, sample.question, **dict(self.chat_arguments))
        return before, after + sample.answer_prefix

    def whole(self, sample: Sample | Draft) -> str:
        return "".join(self.parts(sample))

    def begin(self, text: str) -> torch.Tensor:
        """int64 [t]: tokens of a text that begins a prompt. A template has its own special tokens: none are added."""
        return torch.tensor(self.tokenizer.encode(text, add_special_tokens=self.adds_specials(text)), dtype=torch.int64)

    def adds_specials(self, text: str) -> bool:
        """Prepared data may begin with BOS in writing, which then is the only one."""
        bos = self.tokenizer.bos_token
        return not self.chat and not (isinstance(bos, str) and text.startswith(bos))

    def go_on(self, text: str) -> torch.Tensor:
        """int64 [t]: tokens of a text that continues a prompt."""
        return torch.tensor(self.tokenizer.encode(text, add_special_tokens=False), dtype=torch.int64)

    @property
    def notes(self) -> tuple[str, ...]:
        """Of a record. What prepared data holds is not known here."""
        return () if self.prepared else chat_notes(self.tokenizer, self.chat)
