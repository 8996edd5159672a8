"""What a GGUF file says of its model: metadata by name, and its tensors' sizes. A damaged file is refused here.

Needs the package `gguf`. Knows nothing of transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cokv.types import CokvError

MAGIC = b"GGUF"
CONTROL = 3  # the token type of special tokens
ENDS = {"<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>"}
END_IDS = ("eos_token_id", "eot_token_id", "eom_token_id")


def check_magic(file: Path) -> None:
    """Raises CokvError for what cannot be read, or is no GGUF file."""
    try:
        with file.open("rb") as stream:
            magic = stream.read(len(MAGIC))
    except OSError as error:
        raise CokvError(f"{file}: {error.strerror}; expected a GGUF file, or another model") from None
    if magic != MAGIC:
        raise CokvError(f"{file}: no GGUF file: it begins with {magic!r}, expected {MAGIC!r}; download it again")


class Header:
    """A file's metadata and tensors. Raises CokvError for a file that is not whole."""

    def __init__(self, file: Path) -> None:
        from gguf import GGUFReader

        try:
            reader = GGUFReader(file)
        except (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError, OSError) as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
            raise CokvError(f"{file}: truncated or damaged ({reason}); download it again") from None
        self.fields = reader.fields
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}
        self.architecture = self.text("general.architecture") or "unknown"
        parts = self.value("split.count")
        if isinstance(parts, int) and parts > 1:
            raise CokvError(f"{file}: one of {parts} parts of a model; join them first (llama-gguf-split --merge)")
        if not self.tensors:
            raise CokvError(f"{file}: holds no tensors; expected the weights of a model")

    def value(self, name: str) -> Any:
        """None where the file does not say."""
        field = self.fields.get(name)
        return None if field is None else field.contents()

    def text(self, name: str) -> str:
        value = self.value(name)
        return value if isinstance(value, str) else ""

    def number(self, name: str) -> float | None:
        """Of this architecture's metadata. None where the file does not say."""
        value = self.value(f"{self.architecture}.{name}")
        return None if value is None else float(value)

    def require_tokenizer(self) -> None:
        if not self.text("tokenizer.ggml.model") or "tokenizer.ggml.tokens" not in self.fields:
            raise CokvError("no tokenizer inside (tokenizer.ggml.tokens); expected a file that holds its vocabulary")

    def end_ids(self) -> list[int]:
        """Every token that ends an answer: those the file names, first, and its special tokens known to do so."""
        named = [self.value(f"tokenizer.ggml.{name}") for name in END_IDS]
        ids = [int(value) for value in named if value is not None]
        tokens, types = self.value("tokenizer.ggml.tokens"), self.value("tokenizer.ggml.token_type") or []
        kinds = enumerate(zip(tokens, types, strict=False))
        ids += [place for place, (token, kind) in kinds if kind == CONTROL and token in ENDS]
        return list(dict.fromkeys(ids))
