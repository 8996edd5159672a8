"""A run beside published values: sentences and tables for a report, or for `cokv report RUN --against PAPER`.

Every row names the fields of the protocol in which the two differ; a table says for each field what it is here, what it
is there, and where that is stated. Where nothing can stand beside, the sentences say why and what would be needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from statistics import fmean
from typing import Any

from reports.comparisons import Comparison, compare_averages, compare_cells
from reports.kv_budget import budget_order, budget_text
from reports.published_cells import of_paper, published_benchmarks, published_budgets, published_for, why_not
from reports.records import FULL, variant_of
from reports.reported.sources import NOT_STATED
from reports.reported.table import RATIO_TO_FULL, published_values
from reports.rundir import Run
from reports.table import MISSING, Entry, Table, group_starts

NO_NUMBER = "no number"
FIELDS_TABLE = "beside_papers_fields"
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
    sentences = [*_counts(run, cells, averages, paper), *_why_nothing(run, cells, paper)]
    tables = []
    if averages:
        tables.append(_table("beside_papers_averages", "Averages beside published ones", run, averages))
    if cells:
        tables.append(_table("beside_papers", "Scores beside published ones", run, cells))
    if cells or averages:
        of_cells = {c.published.paper for c in cells}
        tables.append(_fields_table(run, [*cells, *(c for c in averages if c.published.paper not in of_cells)]))
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


def _why_nothing(run: Run, cells: Sequence[Comparison], paper: str | None) -> list[str]:
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


def _table(name: str, title: str, run: Run, comparisons: Sequence[Comparison]) -> Table:
    """One block per paper and published model: the same model first, then where fewer fields differ or are unknown."""
    fields: dict[_Group, list[int]] = {}
    for c in comparisons:
        fields.setdefault(_group(c), []).append(len(c.differences))
    ordered = sorted(comparisons, key=lambda c: (c.relative, fmean(fields[_group(c)]), _order(run, c)))
    groups = [f"{c.published.paper}, {c.published.model}" for c in ordered]
    starts = [place for place, group in enumerate(groups) if place == 0 or group != groups[place - 1]]
    lines = [(run.labels.name(variant_of(c.cell)), budget_text(c.cell["kv_budget"]), c) for c in ordered]
    notes = [f"{NO_NUMBER.capitalize()}: {m} at {budget}: {c.why}." for m, budget, c in lines if c.measured is None]
    if any(not c.printed for c in ordered):
        notes.append("Row means: the source prints no average; the mean of the values it prints.")
    return Table(
        name=name,
        title=title,
        columns=("Data set", "Method", "KV budget", "Fields that differ", "Here", "Published", "Difference"),
        rows=tuple(_row(run, c) for c in ordered),
        notes=tuple(dict.fromkeys(notes)),
        left=4,
        blocks=tuple((place, groups[place]) for place in starts),
        data=tuple(_data(run, c) for c in ordered),
    )


def _row(run: Run, c: Comparison) -> tuple[Entry, ...]:
    here = Entry(NO_NUMBER) if c.measured is None else Entry(_number(c.measured, c.relative), _interval(c, 0.0))
    difference = Entry() if c.difference is None else Entry(_signed(c.difference), _interval(c, c.value, sign=True))
    method, budget = run.labels.name(variant_of(c.cell)), budget_text(c.cell["kv_budget"])
    published = Entry(_number(c.value, c.relative))
    return (Entry(_over(c)), Entry(method), Entry(budget), Entry(_words(c)), here, published, difference)


def _data(run: Run, c: Comparison) -> dict[str, Any]:
    """A row in full precision; relative: all scores are in percent of the full cache's."""
    return {
        "paper": c.published.paper,
        "published_model": c.published.model,
        "published_benchmark": c.published.benchmark,
        "data_sets": ", ".join(c.over),
        "method": c.cell["method"],
        "preset": c.cell["preset"],
        "kv_budget": None if c.cell["kv_budget"] is None else str(c.cell["kv_budget"]),
        "published_method": c.published.method,
        "published_budget": c.published.budget,
        "relative": c.relative,
        "here": c.measured,
        "low": c.low,
        "high": c.high,
        "n": c.n,
        "published": c.value,
        "difference": c.difference,
        "differ": ", ".join(d.field for d in c.differences if d.known),
        "not_known": ", ".join(d.field for d in c.differences if not d.known),
        "why": c.why,
        "source": c.published.source,
        "note": c.published.note,
    }


_Group = tuple[str, str, bool]


def _group(c: Comparison) -> _Group:
    return c.published.paper, c.published.model, c.relative


def _order(run: Run, c: Comparison) -> tuple[object, ...]:
    """As the published table has it."""
    row, budget, method = c.published, budget_order(c.cell["kv_budget"]), run.labels.order(variant_of(c.cell))
    return row.paper, row.model, budget, method, row.source, row.note, _places().get(c.over[0], 0)


@cache
def _places() -> dict[str, int]:
    """The order of the data sets in the published tables."""
    return {name: place for place, name in enumerate(dict.fromkeys(row.dataset for row in published_values()))}


def _over(c: Comparison) -> str:
    if c.published.dataset == RATIO_TO_FULL:
        return f"ratio of averages of {len(c.over)}"
    if len(c.over) == 1:
        return c.over[0]
    return f"average of {len(c.over)}" if c.printed else f"row mean of {len(c.over)}"


def _words(c: Comparison) -> str:
    """The fields that differ, and how many are not known of one of the two."""
    known = [d.field for d in c.differences if d.known]
    unknown = sum(not d.known for d in c.differences)
    words = ", ".join(known) or "none"
    return words + (f"; {unknown} not known" if unknown else "")


def _number(value: float, relative: bool) -> str:
    return f"{value:.2f}" + (" % of full" if relative else "")


def _interval(c: Comparison, shift: float, sign: bool = False) -> str:
    if c.low is None or c.high is None:
        return ""
    low, high = c.low - shift, c.high - shift
    return f"[{_signed(low)}, {_signed(high)}]" if sign else f"[{low:.2f}, {high:.2f}]"


def _signed(value: float) -> str:
    return f"{round(value, 2) + 0.0:+.2f}"  # + 0.0 turns -0.0 into 0.0


def _fields_table(run: Run, comparisons: Sequence[Comparison]) -> Table:
    """What each field is here and there, by source; what is stated nowhere is named below."""
    seen: dict[tuple[str, str, str, str, str], dict[str, None]] = {}
    unknown: dict[str, dict[str, None]] = {}
    for c in comparisons:
        for d in c.differences:
            if d.field == "model":  # named in every row
                continue
            if not d.known and NOT_STATED in (d.there, d.here):
                unknown.setdefault(c.published.paper, {})[d.field] = None
                continue
            key = (c.published.paper, d.field, d.here, d.there, d.where)
            seen.setdefault(key, {})[run.labels.title(c.cell["method"])] = None
    many = {paper: {m for key, ms in seen.items() if key[0] == paper for m in ms} for paper, *_ in seen}
    rows = [
        (
            Entry(paper), Entry(field), Entry(here or MISSING), Entry(there),
            Entry("all" if set(members) == many[paper] else ", ".join(members)), Entry(where or MISSING),
        )
        for (paper, field, here, there, where), members in _merged(seen).items()
    ]  # fmt: skip
    notes = [
        f"{paper} does not state, as far as could be read: {', '.join(names)}." for paper, names in unknown.items()
    ]
    said = dict.fromkeys((c.published.paper, c.published.note) for c in comparisons)
    notes += [f"Of {paper}: {note}." for paper, note in sorted(said)]
    return Table(
        name=FIELDS_TABLE,
        title="Protocol: what differs",
        columns=("Published by", "Field", "Here", "There", "Methods", "Stated in"),
        rows=tuple(rows),
        notes=tuple(notes),
        rules=group_starts([row[0].text for row in rows]),
        left=6,
    )


def _merged(
    seen: Mapping[tuple[str, str, str, str, str], Mapping[str, None]],
) -> dict[tuple[str, str, str, str, str], dict[str, None]]:
    """One row per paper, field and place, however many values the data sets have; papers in order of their names."""
    places: dict[tuple[str, str, str], list[tuple[str, str, Mapping[str, None]]]] = {}
    for (paper, field, here, there, where), members in seen.items():
        places.setdefault((paper, field, where), []).append((here, there, members))
    out = {}
    for (paper, field, where), values in sorted(places.items(), key=lambda item: item[0][0]):
        if len(values) <= 2:
            for here, there, members in values:
                out[paper, field, here, there, where] = dict(members)
            continue
        here, there = _few([value[0] for value in values]), _few([value[1] for value in values])
        out[paper, field, here, there, where] = {m: None for *_, members in values for m in members}
    return out


def _few(words: Sequence[str]) -> str:
    unique = list(dict.fromkeys(words))
    return "; ".join(unique[:3]) + (f" and {len(unique) - 3} more" if len(unique) > 3 else "")
