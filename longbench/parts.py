"""Where a prompt is cut for methods that compress before the question is read: context, question, cue.

Released code: NVIDIA/kvpress 0.5.5 `evaluation/benchmarks/longbench/create_huggingface_dataset.py` writes the parts out
for sixteen data sets; the rules here give the same parts from the official templates.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from string import Formatter
from typing import Any, Literal, NamedTuple

from longbench.tasks import V2, get_task
from longbench.v2 import MARKS, check_template

Cut = Literal["context_end", "input_line"]


class Parts(NamedTuple):
    """Together they are the prompt."""

    context: str
    question: str
    cue: str


class _Piece(NamedTuple):
    """Literal text of a template, or the value of one of its fields."""

    text: str
    field: str | None = None


def pieces(dataset: str, template: str, record: Mapping[str, Any]) -> list[_Piece]:
    """The prompt as its template's literals and fields, in order. Version 2's texts are stripped, as officially."""
    if get_task(dataset) is V2:
        check_template(template)
        marks = "|".join(map(re.escape, MARKS))
        texts = re.split(f"({marks})", template)
        return [_Piece(record[MARKS[text]].strip(), MARKS[text]) if text in MARKS else _Piece(text) for text in texts]
    parts = []
    for literal, field, _, _ in Formatter().parse(template):
        parts.append(_Piece(literal))
        if field is not None:
            parts.append(_Piece(str(record[field]), field))
    return parts


def split_prompt(dataset: str, template: str, record: Mapping[str, Any], cut: Cut = "context_end") -> Parts:
    """`context_end` cuts right after the context. `input_line` cuts at the line the question stands on, so that the
    instruction between the two is still context; without a question, after the line ends that follow the context.

    The cue is the last line of the template's last words, such as `Answer:`, or of the question where nothing follows
    it; version 2 has none.
    """
    all_pieces = pieces(dataset, template, record)
    place = next((i + 1 for i, piece in enumerate(all_pieces) if piece.field == "context"), 0)
    head, rest = _text(all_pieces[:place]), all_pieces[place:]
    moved = _moved(rest) if cut == "input_line" else 0
    tail = _text(rest)
    context, tail = head + tail[:moved], tail[moved:]
    cue = "" if get_task(dataset) is V2 else _cue(rest, tail)
    return Parts(context, tail[: len(tail) - len(cue)], cue)


def _text(part: Sequence[_Piece]) -> str:
    return "".join(piece.text for piece in part)


def _moved(rest: Sequence[_Piece]) -> int:
    """How many characters after the context belong to it."""
    before = 0
    for piece in rest:
        if piece.field is not None:
            text = _text(rest)[:before]
            return text.rfind("\n") + 1
        before += len(piece.text)
    text = _text(rest)
    return len(text) - len(text.lstrip("\n"))


def _cue(rest: Sequence[_Piece], tail: str) -> str:
    """The last line, with the line ends behind it, of what follows the last field, else of everything."""
    last = next((i for i in reversed(range(len(rest))) if rest[i].field is not None), -1)
    words = _text(rest[last + 1 :])
    if not words.strip("\n"):
        words = tail
    body = words.rstrip("\n")
    line = words[body.rfind("\n") + 1 :]
    return line if tail.endswith(line) else ""
