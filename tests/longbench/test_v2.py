"""LongBench v2: the letter, the prompt and the table."""

from __future__ import annotations

from typing import Any

import pytest

from longbench.errors import LongBenchError
from longbench.v2 import accuracy, build_prompt, extract_answer, judge

TEMPLATE = "$DOC$ | $Q$ | $C_A$ $C_B$ $C_C$ $C_D$"


def record(**changes: Any) -> dict[str, Any]:
    choices = {f"choice_{letter}": f" {letter.lower()} " for letter in "ABCD"}
    return {"context": " shelf\n", "question": " which? "} | choices | changes


def test_the_bracketed_wording_wins_wherever_it_is() -> None:
    assert extract_answer("The correct answer is B. No: the correct... The correct answer is **(C)**") == "C"
    assert extract_answer("The correct answer is B") == "B"
    assert extract_answer("the correct answer is (A)") is None
    assert judge("The correct answer is (A)", "A") and not judge("I do not know", "A")


def test_the_prompt_holds_stripped_texts() -> None:
    assert build_prompt(TEMPLATE, record()) == "shelf | which? | a b c d"


def test_a_template_without_a_mark_is_refused() -> None:
    with pytest.raises(LongBenchError, match="C_D"):
        build_prompt(TEMPLATE.replace("$C_D$", ""), record())


def test_accuracy_is_per_group_with_one_decimal() -> None:
    hard = {"pred": "A", "judge": True, "difficulty": "hard", "length": "long"}
    rows = [hard, *[hard | {"judge": False, "difficulty": "easy"}] * 2]
    assert accuracy(rows) == {"overall": 33.3, "easy": 0.0, "hard": 100.0, "long": 33.3}
    assert accuracy([]) == {}
