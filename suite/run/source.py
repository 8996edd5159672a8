"""A digest of this project's code, so that a run with changed code is a different run.

It ignores comments, docstrings and layout, and includes each file's path.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
from pathlib import Path

ROOMS = ("cokv", "longbench", "ruler", "suite")  # `reports` only reads what a run has written


@functools.cache
def source_digest() -> str:
    """First 16 hex digits of the sha256 over every module."""
    digest = hashlib.sha256()
    for room in ROOMS:
        (folder,) = importlib.import_module(room).__path__
        for path in sorted(Path(folder).rglob("*.py")):
            digest.update(f"{room}/{path.relative_to(folder).as_posix()}\n".encode())
            digest.update(meaning(path.read_text(encoding="utf-8")).encode())
    return digest.hexdigest()[:16]


def meaning(source: str) -> str:
    """A module's syntax tree without docstrings, as text."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [statement for statement in body if not _is_text(statement)]  # type: ignore[attr-defined]
    return ast.dump(tree)


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
