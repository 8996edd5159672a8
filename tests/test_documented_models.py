"""The page of models says what the tests check: its tables are their lists."""

from __future__ import annotations

import re

from documented import ROOT
from models import MAY_BE_REFUSED

from tests.cache.test_architectures import CASES
from tests.conftest import FAMILIES

PAGE = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    """Cells of the table in that column's first row's table."""
    table = PAGE[PAGE.index(f"| {heading} |") :].split("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_models_that_are_checked_closely() -> None:
    named = {re.sub("`", "", row[1]) for row in rows("model")}
    assert named == {FAMILIES[family][1].__name__ for family, _ in CASES}


def test_models_that_are_refused() -> None:
    expected = {why: {name.split("-")[0] for name in names.split()} for why, names in MAY_BE_REFUSED.items()}
    assert {why: set(re.findall(r"`(\w+)`", names)) for why, names in rows("refused for")} == expected
