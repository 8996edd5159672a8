"""Small LongBench-shaped worlds of our own, and the way to the official files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from longbench.tasks import TASKS, base_name, official_count


class World:
    """Makes valid records with known answers, in the official schema, and their bytes."""

    @staticmethod
    def record(index: int, dataset: str = "qasper", **changes: Any) -> dict[str, Any]:
        """One valid record."""
        task = TASKS[base_name(dataset)]
        answers = {
            "retrieval_score": [f"Paragraph {index + 1}"],
            "retrieval_zh_score": [f"段落{index + 1}"],
            "count_score": [str(index + 1)],
            "classification_score": ["Planet"],
            "code_sim_score": [f"    total = total + step_{index}"],
        }.get(task.metric, [f"the lantern number {index} is green.", "a green lantern"])
        record = {
            "input": f"Which lantern is number {index}?",
            "context": f"On shelf {index} stands a lantern. It is green.",
            "answers": answers,
            "length": 1000 * (index % 12),
            "dataset": dataset,
            "language": task.language,
            "all_classes": ["Planet", "River", "Dwarf Planet"] if task.metric == "classification_score" else None,
            "_id": f"{dataset}-{index:04d}",
        }
        return record | changes

    @staticmethod
    def records(dataset: str = "qasper", count: int | None = None) -> list[dict[str, Any]]:
        return [World.record(index, dataset) for index in range(official_count(dataset) if count is None else count)]

    @staticmethod
    def to_bytes(records: list[dict[str, Any]]) -> bytes:
        return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()

    @classmethod
    def good(cls) -> bytes:
        """One valid line."""
        return cls.to_bytes([cls.record(0)])

    @classmethod
    def changed(cls, **changes: Any) -> bytes:
        """Three lines, the second with these fields changed."""
        return cls.to_bytes([cls.record(0), cls.record(1, **changes), cls.record(2)])


@pytest.fixture
def world() -> type[World]:
    return World


@pytest.fixture
def data_root() -> Path:
    root = os.environ.get("COKV_TEST_DATA")
    if not root:
        pytest.skip("COKV_TEST_DATA is not set: the official files are not available")
    return Path(root)


@pytest.fixture
def golden(data_root: Path) -> Callable[[str], list[dict[str, Any]]]:
    def read(name: str) -> list[dict[str, Any]]:
        path = data_root / "golden" / "longbench" / f"{name}.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    return read


class WordTokenizer:
    """Words and the spaces between them as tokens; 0 begins, 1 ends, both special."""

    eos_token_id = 1
    chat_template = "[user] {text} [assistant]"

    def __init__(self) -> None:
        self.pieces: list[str] = ["<s>", "</s>"]
        self.ids: dict[str, int] = {}

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        ids = [0] if add_special_tokens else []
        piece = ""
        for char in text:
            if char.isspace() or (piece and piece[-1].isspace()):
                ids += [self._id(piece)] if piece else []
                piece = ""
            piece += char
        return ids + ([self._id(piece)] if piece else [])

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> str:
        return "".join(self.pieces[token] for token in token_ids if not (skip_special_tokens and token < 2))

    def apply_chat_template(self, messages: list[dict[str, str]], **how: bool) -> str:
        assert how == {"tokenize": False, "add_generation_prompt": True}
        return self.chat_template.format(text=messages[0]["content"])

    def _id(self, piece: str) -> int:
        if piece not in self.ids:
            self.ids[piece] = len(self.pieces)
            self.pieces.append(piece)
        return self.ids[piece]


@pytest.fixture
def tokenizer() -> WordTokenizer:
    return WordTokenizer()
