"""What a report says about a model's chat template, from the notes of the records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

WITH_TEMPLATE = "in the model's chat template"
WITHOUT_TEMPLATE = "an instruct model without its chat template"


def template_line(records: Iterable[Mapping[str, Any]]) -> str:
    """One sentence where prompts of a model that has a chat template were read without it; "" where none were."""
    read, without = set(), set()
    for record in records:
        task = f"{record['benchmark']}/{record['task']}"
        read.add(task)
        if WITHOUT_TEMPLATE in (record.get("notes") or []):
            without.add(task)
    if not without:
        return ""
    which = "all tasks" if without == read else ", ".join(sorted(without))
    return f"The model has a chat template and read {which} without it: an instruct model may answer worse so."
