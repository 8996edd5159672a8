"""Tables of published head profiles: their scores, the budgets they lead to, their agreement; and a page of heat maps.

No model is loaded.
"""

from __future__ import annotations

import re
from pathlib import Path

from rich.console import Console
from rich.text import Text

from cokv.profiles.published_summary import SummarySettings, summarize
from reports.profile_page import profile_tables, write_profiles
from reports.table import to_rich
from suite.errors import SuiteError


def show(paths: list[Path], setting: SummarySettings, console: Console, out: Path | None = None) -> None:
    """Prints the tables of these files and folders, and writes the page into `out`."""
    record = summarize(paths, setting)
    page = None if out is None else write_profiles(record, out)  # before anything can fail to be printed
    for table in profile_tables(record):
        console.print(to_rich(table))
        console.print(Text("\n".join(table.notes), style="dim"))
        console.print()
    if page is not None:
        print(page)


def shape_of(text: str | None) -> tuple[int, int] | None:
    """(num_layers, num_kv_heads) of a text such as "32x8"."""
    if text is None:
        return None
    match = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", text)
    if match is None:
        raise SuiteError(f"shape {text!r}, expected LAYERSxKV_HEADS such as 32x8")
    return int(match[1]), int(match[2])
