"""Tokenizers of different kinds, and the way to the official files."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest


class Whitespace:
    """A token is what stands between white space: long tokens, few of them."""

    def encode(self, text: str, add_special_tokens: bool = False) -> Sequence[str]:
        return text.split()


class Thirds:
    """A token is three characters: what a tokenizer needs for numbers, codes and rare words."""

    def encode(self, text: str, add_special_tokens: bool = False) -> Sequence[int]:
        return range(-(-len(text) // 3))


class Embedded:
    """The embedded model's tokenizer."""

    def __init__(self) -> None:
        from suite.embedded.tokenizer import build

        self.tokenizer = build()

    def encode(self, text: str, add_special_tokens: bool = False) -> Sequence[int]:
        return self.tokenizer.encode(text, add_special_tokens=add_special_tokens).ids


@pytest.fixture(scope="session")
def tokenizer() -> Callable[[str], object]:
    """A tokenizer by name, made once."""
    by_kind = {"whitespace": Whitespace(), "thirds": Thirds(), "embedded": Embedded()}
    return by_kind.__getitem__


@pytest.fixture(scope="session")
def official() -> Callable[[str], Path]:
    """The path of an official file; the test is skipped where there are none."""

    def find(relative: str) -> Path:
        root = os.environ.get("COKV_TEST_DATA")
        if not root:
            pytest.skip("COKV_TEST_DATA is not set: the official files are not available")
        return Path(root) / relative

    return find
