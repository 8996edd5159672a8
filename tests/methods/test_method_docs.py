"""What a method is made of says what it is: every public class of these rooms has a docstring."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

COKV = Path(__file__).parents[2] / "cokv"
FILES = sorted(path for path in COKV.rglob("*.py") if "embedded" not in path.parts)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(COKV)))
def test_public_classes_say_what_they_are(path: Path) -> None:
    classes = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef)]
    silent = [node.name for node in classes if not node.name.startswith("_") and not ast.get_docstring(node)]
    assert not silent, f"{path.name}: {', '.join(silent)} without a docstring"
