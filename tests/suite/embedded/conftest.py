"""The embedded tokenizer, built once: it draws a small corpus to find its pieces."""

import pytest
from tokenizers import Tokenizer

from suite.embedded.tokenizer import build


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return build()
