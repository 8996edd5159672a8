"""A run beside published values: sentences and tables for a report, or for `cokv report RUN --against PAPER`.

Every row names the fields of the protocol in which the two differ; a table says for each field what it is here, what it
is there, and where that is stated. Where nothing can stand beside, the sentences say why and what would be needed.
"""

from __future__ import annotations

from collections.abc import Sequence

from reports.beside_tables import comparison_table, fields_table
from reports.comparisons import Comparison, compare_averages, compare_cells
from reports.kv_budget import budget_order, budget_text
from reports.published_cells import of_paper, published_benchmarks, published_budgets, published_for, why_not
from reports.records import FULL, variant_of
from reports.reported.table import published_values
from reports.rundir import Run
from reports.table import Table

RELATIVE = (
    "Rows in % of full are of another model than this run's: both sides are in percent of their own full cache, here "
    "on the same samples, there of the same table."
)
INTERVALS = (
    "A published value has no interval, so those given are of this run's samples alone; a difference outside its "
    "interval may come from any of the fields named beside it."
)


def beside_papers(run: Run, paper: str | None = None) -> tuple[list[str], list[Table]]:
    """(sentences, tables) of what papers have published of this run's cells.

    paper: only this one, as `cokv reported --paper` means it; an unknown one raises ReportError.
    """
    cells, averages = compare_cells(run, paper), compare_averages(run, paper)
    sentences = [*_counts(run, cells, averages, paper), *_why_nothing(run, paper)]
    tables = []
    if averages:
        tables.append(comparison_table("beside_papers_averages", "Averages beside published ones", run, averages))
    if cells:
        tables.append(comparison_table("beside_papers", "Scores beside published ones", run, cells))
    if cells or averages:
        of_cells = {c.published.paper for c in cells}
        tables.append(fields_table(run, [*cells, *(c for c in averages if c.published.paper not in of_cells)]))
        sentences += [INTERVALS] + ([RELATIVE] if any(c.relative for c in [*cells, *averages]) else [])
    return sentences, tables


def _counts(run: Run, cells: Sequence[Comparison], averages: Sequence[Comparison], paper: str | None) -> list[str]:
    if not cells and not averages:
        named = dict.fromkeys(row.paper for row in of_paper(paper))
        of = "of any paper" if paper is None else f"of {', '.join(named)}"
        return [f"No score of this run stands beside a published one {of}."]
    papers = list(dict.fromkeys(c.published.paper for c in [*averages, *cells]))
    places = {(c.cell["benchmark"], c.cell["task"], variant_of(c.cell), str(c.cell["kv_budget"])) for c in cells}
    same = sum(not c.relative for c in cells)
    return [
        f"{len(places)} of this run's {len(run.metrics['cells'])} cells stand beside {len(cells)} published values "
        f"({same} of the same model, {len(cells) - same} of others), and {len(averages)} averages, of "
        f"{', '.join(papers)}."
    ]


def _why_nothing(run: Run, paper: str | None) -> list[str]:
    """Per benchmark: why it stands beside nothing, or which of its tasks, methods and budgets do not."""
    out = []
    for benchmark in sorted({cell["benchmark"] for cell in run.metrics["cells"]}):
        if reason := why_not(run, benchmark):
            out.append(reason[0].upper() + reason[1:])
            continue
        names = published_benchmarks(run, benchmark)
        if benchmark == "longbench":
            out.append(
                "LongBench was read in the official templates, byte for byte; its data files are taken as the official "
                "ones (their sha256 is in spec.json)."
            )
        elif benchmark == "ruler":
            out.append("RULER's samples are data that was prepared outside this run, with the official generator.")
        out += _unpublished(run, benchmark, names, paper)
    return out


def _unpublished(run: Run, benchmark: str, names: tuple[str, ...], paper: str | None) -> list[str]:
    """The run's tasks that nobody published, and its methods at budgets that nobody published."""
    cells = [cell for cell in run.metrics["cells"] if cell["benchmark"] == benchmark]
    of = "" if paper is None else f" of {paper}"
    published = [row for row in published_values() if row.benchmark in names]
    if not published:
        return [f"Nothing{of} is published of {' or '.join(names)}; there is {_others(names)}."]
    sets = {row.dataset for row in published}
    missing = sorted({cell["task"] for cell in cells} - sets)
    out = [f"No published values here: data sets {', '.join(missing)}."] if missing else []
    lines = {(cell["method"], cell["kv_budget"]) for cell in cells}
    lacking: dict[str, list[str]] = {}
    for method, budget in sorted(lines, key=lambda line: (line[0], budget_order(line[1]))):
        if not any(published_for(names, dataset, method, budget, paper) for dataset in sets):
            lacking.setdefault(method, []).append(budget_text(budget))
    for method, budgets in lacking.items():
        there = published_budgets(names, method, paper)
        where = f"published at {there}" if there else "published at no budget"
        title = run.labels.title(method)
        if method != FULL:
            out.append(f"{title} at {', '.join(budgets)} stands beside nothing{of}; it is {where}.")
    return out


def _others(names: tuple[str, ...]) -> str:
    stem = names[0].partition("-")[0]
    return ", ".join(dict.fromkeys(row.benchmark for row in published_values() if row.benchmark.startswith(stem)))
