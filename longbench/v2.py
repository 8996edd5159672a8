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

GROUPS = ("overall", "easy", "hard", "short", "medium", "long")
"""The columns of the official result table."""


def _belongs(record: Mapping[str, Any], column: str) -> bool:
    """As officially, whatever is not easy is hard, and what is neither short nor medium is long."""
    difficulty = "easy" if record["difficulty"] == "easy" else "hard"
    length = record["length"] if record["length"] in ("short", "medium") else "long"
    return column in ("overall", difficulty, length)


def extract_answer(response: str) -> str | None:
    """The letter the response commits to, asterisks aside: the bracketed wording anywhere first, then the bare one."""
    plain = response.replace("*", "")
    match = _WITH_BRACKETS.search(plain) or _WITHOUT.search(plain)
    return match.group(1) if match else None


def judge(response: str, answer: str) -> bool:
    """Did the response commit to the gold letter?"""
    return extract_answer(response) == answer


def accuracy(records: Sequence[Mapping[str, Any]], *, compensated: bool = False) -> dict[str, float]:
    """Percent right, one decimal, overall and per group; a group without records is absent.

    A record holds `judge` (bool), `difficulty`, `length` and, where `compensated` counts an unreadable response as a
    quarter (the official option for guessing), `pred`, a letter or None.
    """
    table: dict[str, float] = {}
    for column in GROUPS:
        group = [record for record in records if _belongs(record, column)]
        if group:
            points = [0.25 if compensated and record["pred"] is None else int(record["judge"]) for record in group]
            table[column] = round(100 * sum(points) / len(group), 1)
    return table


MARKS = {
    "$DOC$": "context",
    "$Q$": "question",
    "$C_A$": "choice_A",
    "$C_B$": "choice_B",
    "$C_C$": "choice_C",
    "$C_D$": "choice_D",
}
"""Mark in the official template -> field of the record that replaces it, in the official order."""


def check_template(template: str, place: str = "the v2 template") -> None:
    """Raise unless the template has all six marks."""
    missing = [mark for mark in MARKS if mark not in template]
    if missing:
        raise LongBenchError(
            f"{place}: no {', '.join(missing)}, expected prompts/0shot.txt of THUDM/LongBench; fetch it again"
        )


def build_prompt(template: str, record: Mapping[str, Any]) -> str:
    """The official zero-shot template (`prompts/0shot.txt`) with the record's stripped texts in place of its marks.

    As officially, a mark that a text itself holds is replaced too.
    """
    check_template(template)
    for mark, field in MARKS.items():
        template = template.replace(mark, record[field].strip())
    return template
