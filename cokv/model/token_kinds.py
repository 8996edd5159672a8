"""What kind of token an id is, by what it says: special, punctuation, or neither."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from cokv.types import CokvError

if TYPE_CHECKING:
    from cokv.model.observe import LayerView, ModelParts, Observation

SPECIAL, PUNCTUATION, OTHER = 4, 3, 0


class Kinds:
    """Kinds of ids, each looked up once. Needs the tokenizer, and raises CokvError where there is none."""

    def __init__(self, parts: ModelParts) -> None:
        self.parts, self.special = parts, parts.special_ids()
        self.known: dict[int, int] = {}

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """4 where a token is special, 3 where it is punctuation, else 0: int64 like ids, on the CPU."""
        return torch.tensor([self._of(token) for token in ids.reshape(-1).tolist()], dtype=torch.int64).view(ids.shape)

    def _of(self, token: int) -> int:
        if token not in self.known:
            kind = PUNCTUATION if _punctuation(self.parts.text(token)) else OTHER
            self.known[token] = SPECIAL if token in self.special else kind
        return self.known[token]


def _punctuation(text: str) -> bool:
    text = text.strip()
    return text != "" and all(unicodedata.category(c).startswith("P") for c in text)


@dataclass(frozen=True)
class TokenKinds:
    """Observer: the kind of every prompt token, [seq_len]."""

    needs_tokenizer: ClassVar[bool] = True
    last_queries: ClassVar[int] = 0

    def observe(self, view: LayerView) -> Observation:
        if view.input_ids is None:
            raise CokvError("needs the ids of the prompt's tokens, and the model was given embeddings; pass input_ids")
        return (Kinds(view.parts)(view.input_ids).to(view.keys.device),)
