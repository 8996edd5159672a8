"""A run folder -> `<run_dir>/report/`: report.md, pictures (PNG, PDF), and each table in files of its own (tables/).

Everything comes from the files of the run. What stands in report.md, and in which order: sections.py.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from reports.latex import document
from reports.rundir import Run, load_run
from reports.screen import terminal_table
from reports.section import FOLDER
from reports.sections import sections
from reports.table import escape_markdown
from reports.table_files import write_table
from reports.text import file_stem

__all__ = ["terminal_table", "write_report"]
DOCUMENT = "tables.tex"  # shows them all


def write_report(run_dir: str | Path, allow_unfinished: bool = False) -> Path:
    """Write the whole report and return its folder. An earlier report of the run is replaced."""
    run = load_run(run_dir, allow_unfinished)
    folder = run.path / "report"
    with tempfile.TemporaryDirectory(prefix=".report-", dir=run.path) as temporary:
        draft = Path(temporary) / "report"
        draft.mkdir()
        _write_all(run, draft)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(draft, folder)
    return folder


def _write_all(run: Run, folder: Path) -> None:
    parts = [f"# {escape_markdown(_title(run))}\n"]
    if not run.finished:
        parts.append("**This run is not finished: the numbers are those of the records so far.**\n")
    tables = folder / FOLDER
    tables.mkdir()
    names = []
    for section in sections(run, _draw(run, folder), folder):
        parts.append(section.markdown())
        for table in section.tables:
            write_table(table, tables)
            names.append(table.name)
    (folder / "report.md").write_text("\n".join(parts), encoding="utf-8")
    (tables / DOCUMENT).write_text(document(names), encoding="utf-8")


def _draw(run: Run, folder: Path) -> tuple[str, ...]:
    # Here, because matplotlib takes longer to load than a table to print.
    from reports import head_plots, style
    from reports.needle_plot import needle_figure
    from reports.overview_plot import overview_figure
    from reports.plots import score_figure

    figures = {"overview": overview_figure(run.metrics, run.labels)}
    for benchmark in sorted({row["benchmark"] for row in run.metrics["cells"]}):
        figures[f"scores_{file_stem(benchmark)}"] = score_figure(run.metrics, run.labels, benchmark)
    figures["needle_grid"] = needle_figure(run.records, run.labels)
    if run.stability:
        figures["head_scores"] = head_plots.heads_figure(run.stability)
        figures["head_removal"] = head_plots.removal_figure(run.stability)
    for stem, figure in figures.items():
        if figure is not None:
            style.save(figure, folder, stem)
    return tuple(stem for stem, figure in figures.items() if figure is not None)


def _title(run: Run) -> str:
    name = run.spec.get("name") or run.spec.get("experiment")
    return str(name) if isinstance(name, str) and name else run.path.name
