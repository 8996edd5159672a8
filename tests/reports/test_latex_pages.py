"""LaTeX tables lose no cell, are plain ASCII, and compile onto pages that they fit, whatever names the run holds."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reports.aggregate import aggregate
from reports.categories import CATEGORIES
from reports.errors import ReportError
from reports.labels import Labels
from reports.latex import HEAD, document, to_latex
from reports.latex_layout import TEXT_HEIGHT, layout
from reports.render_tables import compile_latex, main, render
from reports.score_tables import score_tables
from reports.table import Entry, Table, companion, escape_latex

needs_tex = pytest.mark.skipif(
    shutil.which("pdflatex") is None, reason="pdflatex is not installed (texlive-latex-base)"
)
HOSTILE = [
    r"\input{/etc/passwd}",
    r"\end{tabular}\end{document}",
    r"$\infty$ & \\ # % _ ^ ~ {",
    "[5pt] starts a row",
    "* starts a row",
    "\x1b[31mred\x07\x00",
    "a\N{RIGHT-TO-LEFT OVERRIDE}b\u200bc",
    "方法的名字很长很长很长很长很长很长很长很长很长很长",
    "x" * 500,
    "many words " * 50,
    "é ñ ß Ø ł ű Ž ά й 🙂",
    "--- `` '' << >> ?` !`",
    "\ud800 \ufffe \u2028",
    "",
]

RECORD: dict[str, Any] = {
    "benchmark": "ruler", "task": "vt", "seed": 0, "sample_id": "0", "method": "full", "preset": "normalized",
    "query_aware": True, "first_token": "prefill", "kv_budget": None, "score": 1.0, "infeasible": None,
}  # fmt: skip


def metrics_of(methods: int, budgets: int, benchmark: str = "longbench", names: list[str] | None = None) -> Any:
    """Metrics as `aggregate` gives them, of as many rows; the numbers are made up (SYNTHETIC)."""
    tasks = [task for members in CATEGORIES[benchmark].values() for task in members]
    named = names or [f"method_{number:02d}" for number in range(methods - 1)]
    places = [("full", None), *((name, 64 * 2**power) for power in range(budgets) for name in named)]

    def row(name: str, budget: int | None, place: int, **more: Any) -> dict[str, Any]:
        mean = 100.0 if name == "full" else (7 * place + 3 * sum(map(ord, name))) % 100 + 0.1
        return {
            "benchmark": benchmark, "method": name, "preset": "normalized", "query_aware": True,
            "first_token": "prefill", "kv_budget": budget, "n": 200, "mean": mean,
            "low": max(mean - 8, 0), "high": min(mean + 8, 100), **more,
        }  # fmt: skip

    cells = [row(*at, place, task=task, feasible=200) for place, task in enumerate(tasks) for at in places]
    averages = [row(*at, 50, tasks=len(tasks)) for at in places]
    pairs = [
        row(*at, place, task=task, significant=place % 2 == 0) for place, task in enumerate(tasks) for at in places
    ]
    whole = [{**pair, "significant": True} for pair in averages]
    return aggregate([RECORD]) | {
        "cells": cells, "averages": averages, "memory": averages, "differences": pairs, "differences_all_tasks": whole,
        "baseline": named[0],
    }  # fmt: skip


def tables_of(metrics: Any, titles: dict[str, str] | None = None) -> list[Table]:
    tables = score_tables(metrics, Labels(metrics["cells"], titles))
    return [part for table in tables for part in (table, companion(table, "intervals")) if part is not None]


def pages(folder: Path, tables: list[Table], columns: int) -> str:
    """The log of compiling the tables, on pages of one or two columns."""
    for table in tables:
        (folder / f"{table.name}.tex").write_text(HEAD + to_latex(table), encoding="ascii")
    text = document([table.name for table in tables], columns).replace("a4paper", "letterpaper")  # the lower page
    pdf = compile_latex(folder, text)
    assert pdf.stat().st_size > 0
    return (folder / "pages.log").read_text(encoding="utf-8", errors="replace").replace("\n", " ")


def assert_fits(log: str, most_pages: int) -> None:
    wide = [float(width) for width in re.findall(r"Overfull \\hbox \(([\d.]+)pt", log)]
    assert max(wide, default=0.0) <= 1, f"text sticks out by {max(wide)} points"
    assert "Float too large" not in log and "Overfull \\vbox" not in log
    printed = int(re.findall(r"Output written on \S+ \((\d+) page", log)[0])
    assert printed <= most_pages


@pytest.mark.parametrize(("methods", "budgets", "benchmark"), [(35, 4, "longbench"), (35, 4, "ruler"), (8, 5, "ruler")])
def test_no_cell_is_lost_and_no_page_overfull(methods: int, budgets: int, benchmark: str) -> None:
    for table in tables_of(metrics_of(methods, budgets, benchmark)):
        plan = layout(table)
        panels = [panel for page in plan.pages for panel in page]
        cells = [(row, column) for panel in panels for row in panel.rows for column in panel.columns[table.left :]]
        every = {(row, column) for row in range(len(table.rows)) for column in range(table.left, len(table.columns))}
        assert len(cells) == len(set(cells)) and set(cells) == every
        assert all(panel.columns[: table.left] == tuple(range(table.left)) for panel in panels)
        assert all(sum(panel.height for panel in page) <= TEXT_HEIGHT for page in plan.pages)


def test_few_methods_stand_on_one_page_in_one_piece() -> None:
    table = tables_of(metrics_of(8, 4, "ruler"))[0]
    ((panel,),) = layout(table).pages
    assert panel.columns == tuple(range(len(table.columns))) and panel.rows == tuple(range(len(table.rows)))


def test_a_group_of_columns_is_not_torn_apart() -> None:
    table = tables_of(metrics_of(8, 1))[0]
    starts, groups = 0, []
    for title, count in table.heads:
        groups.append((title, set(range(starts, starts + count))))
        starts += count
    for page in layout(table).pages:
        for panel in page:
            for title, members in groups:
                shown = members & set(panel.columns)
                assert not title or shown in (set(), members), f"{title} is torn apart"


@given(st.text(max_size=60))
def test_escaped_text_is_ascii_without_commands_of_its_own(text: str) -> None:
    latex = escape_latex(text)
    assert latex.isascii() and "\n" not in latex
    known = r"\\(text\w+|ss|ae|AE|oe|OE|o|O|l|L|i|j|\w+(?=\$)|dagger|ldots|times|pm|circ|[{}$&#%_`'^~=.\"uHvcr])"
    left = re.sub(known, "", latex)
    assert "\\" not in left, latex


@settings(max_examples=20)
@given(st.lists(st.text(max_size=400), min_size=1, max_size=12), st.integers(0, 3))
def test_any_text_can_be_laid_out(texts: list[str], left: int) -> None:
    columns = tuple(texts[:4])
    rows = tuple(tuple(Entry(text, text[:9]) for _ in columns) for text in texts)
    text = to_latex(Table("any", texts[0], columns, rows, tuple(texts), left=min(left, len(columns))))
    assert text.isascii() and text.count(r"\begin{tabular") == text.count(r"\end{tabular") > 0


@needs_tex
@pytest.mark.slow
@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize(("methods", "budgets", "benchmark", "most"), [(8, 4, "ruler", 4), (35, 4, "longbench", 32)])
def test_tables_fit_their_pages(
    tmp_path: Path, columns: int, methods: int, budgets: int, benchmark: str, most: int
) -> None:
    tables = tables_of(metrics_of(methods, budgets, benchmark))
    assert_fits(pages(tmp_path, tables, columns), most)


@needs_tex
@pytest.mark.slow
@pytest.mark.parametrize("columns", [1, 2])
def test_hostile_names_compile_and_can_be_read(tmp_path: Path, columns: int) -> None:
    names = [f"method_{number:02d}" for number in range(len(HOSTILE))]
    titles = dict(zip(names, HOSTILE, strict=True))
    tables = tables_of(metrics_of(0, 1, "ruler", names), titles)
    rows = tuple((Entry(text), Entry(text, text), Entry("1.0", text), Entry("2.0")) for text in HOSTILE)
    hostile = Table("hostile", HOSTILE[2], ("A", *HOSTILE[:3]), rows, tuple(HOSTILE), left=2)
    one_by_one = Table("numbers", HOSTILE[0], ("A", "B"), rows=tuple((Entry(t), Entry(t)) for t in HOSTILE), left=0)
    assert_fits(pages(tmp_path, [*tables, hostile, one_by_one], columns), 20)
    if shutil.which("pdftotext"):
        text = subprocess.run(["pdftotext", tmp_path / "pages.pdf", "-"], capture_output=True, text=True).stdout
        for sign in ("U+202E", "U+65B9", "U+001B", "U+1F642", r"\input{/etc/passwd}", "root:"):
            assert (sign in text) is (sign != "root:"), sign


@needs_tex
@pytest.mark.slow
def test_the_report_of_a_run_is_rendered(
    whole_report: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = whole_report.parent
    assert main([str(run), str(tmp_path / "tables.pdf")]) == 0
    assert (tmp_path / "tables.pdf").read_bytes().startswith(b"%PDF")
    picture = render(run, tmp_path / "page.png", ["scores_ruler"])
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main([str(run), str(tmp_path / "tables.pdf"), "--table", "nothing"]) == 2
    assert "no table 'nothing' in the report, expected among" in capsys.readouterr().err
    with pytest.raises(ReportError, match=r"ends in \.pdf or \.png"):
        render(run, tmp_path / "tables.svg")


def test_a_run_without_a_report_says_what_to_do(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="run `cokv report"):
        render(run_dir, tmp_path / "tables.pdf")


def test_without_tex_one_line_names_the_packages(
    whole_report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ReportError, match="pdflatex is not installed; on Debian: apt-get install texlive-latex-base"):
        render(whole_report.parent, tmp_path / "tables.pdf")
