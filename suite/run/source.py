"""A digest of the code that computes, so that a run with changed code is a different run, and a game likewise.

It ignores comments, docstrings and layout, and includes each file's path.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
from pathlib import Path

ROOMS = ("cokv", "longbench", "ruler", "suite")  # `reports` only reads what a run has written
SILENT = (  # change no answer of a run
    *(
        "suite.cli",
        "suite.doctor",
        "suite.embedded",
        "suite.experiment_files",
        "suite.integrations",
        "suite.known",
        "suite.spec.paper",
    ),
    *(
        f"suite.run.{name}"
        for name in ("estimate", "plan", "published", "requirements", "task_sizes", "shown", "trial", "work")
    ),
)
GAME = (  # what a utility of the head game depends on; how coalitions are drawn and averaged is no part of it
    *("cokv.cache", "cokv.decode", "cokv.model", "cokv.types", "longbench", "ruler", "suite.tasks"),
    *("cokv.game.players", "cokv.game.prefills", "cokv.game.teacher_forcing", "cokv.game.utility"),
    "suite.heads.games",
)


@functools.cache
def source_digest(parts: tuple[str, ...] = ROOMS, without: tuple[str, ...] = SILENT) -> str:
    """First 16 hex digits of the sha256 over every module of these packages and modules."""
    left_out, digest = {path for part in without for path in _files(part)}, hashlib.sha256()
    for part in parts:
        for path, name in _files(part).items():
            if path not in left_out:
                digest.update(f"{name}\n".encode())
                digest.update(meaning(path.read_text(encoding="utf-8")).encode())
    return digest.hexdigest()[:16]


def _files(part: str) -> dict[Path, str]:
    """The files of a package, or of one module, with their names inside it."""
    module = importlib.import_module(part)
    if not hasattr(module, "__path__"):
        return {Path(str(module.__file__)): part}
    (folder,) = module.__path__
    return {path: f"{part}/{path.relative_to(folder).as_posix()}" for path in sorted(Path(folder).rglob("*.py"))}


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
