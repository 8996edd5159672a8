"""LongBench v2: four-option questions, how the chosen letter is read, and accuracy.

Paper: LongBench v2, arXiv 2412.15204. Released code: THUDM/LongBench, `pred.py` and `result.py` at the top level.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from longbench.errors import LongBenchError

_WITH_BRACKETS = re.compile(r"The correct answer is \(([A-D])\)")
_WITHOUT = re.compile(r"The correct answer is ([A-D])")

GROUPS = {
    "overall": (None, None),
    "easy": ("difficulty", "easy"),
    "hard": ("difficulty", "hard"),
    "short": ("length", "short"),
    "medium": ("length", "medium"),
    "long": ("length", "long"),
}
"""Column -> (field, value) of the official result table."""


def extract_answer(response: str) -> str | None:
    """The letter the response commits to, asterisks aside: the bracketed wording anywhere first, then the bare one."""
    plain = response.replace("*", "")
    found = _WITH_BRACKETS.search(plain) or _WITHOUT.search(plain)
    return found.group(1) if found else None


def judge(response: str, answer: str) -> bool:
    """Did the response commit to the gold letter?"""
    return extract_answer(response) == answer


def accuracy(records: Sequence[Mapping[str, Any]], *, compensated: bool = False) -> dict[str, float]:
    """Percent right, one decimal, overall and per group; a group without records is absent.

    A record holds `pred` (letter or None), `judge` (bool), `difficulty` and `length`. `compensated` counts an
    unreadable response as a quarter, the official option for guessing.
    """
    table: dict[str, float] = {}
    for column, (field, value) in GROUPS.items():
        group = [record for record in records if field is None or record[field] == value]
        if group:
            points = [0.25 if compensated and record["pred"] is None else int(record["judge"]) for record in group]
            table[column] = round(100 * sum(points) / len(group), 1)
    return table


def build_prompt(template: str, record: Mapping[str, Any]) -> str:
    """The official zero-shot template (`prompts/0shot.txt`) with the record's stripped texts in place of its marks."""
    marks = {
        "$DOC$": "context",
        "$Q$": "question",
        "$C_A$": "choice_A",
        "$C_B$": "choice_B",
        "$C_C$": "choice_C",
        "$C_D$": "choice_D",
    }
    for mark, field in marks.items():
        if mark not in template:
            raise LongBenchError(f"the v2 template has no {mark}, expected prompts/0shot.txt of THUDM/LongBench")
        template = template.replace(mark, record[field].strip())
    return template
