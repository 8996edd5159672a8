"""The tables of scores, of differences from the baseline and of memory, built from the metrics of `aggregate`.

Missing stays missing: a dash where nothing was run, "(k)" with its reason below the table where a method could not
meet the budget. Neither is ever best, and neither enters an average.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from reports.kv_budget import Budget, budget_order, budget_text, slots_text
from reports.labels import Labels, is_full
from reports.records import Variant, variant_of
from reports.table import MISSING, Entry, Table, group_starts
from reports.variants import fact_words

Row = Mapping[str, Any]
PARTIAL = "†"


def score_tables(metrics: Row, labels: Labels) -> list[Table]:
    """Per benchmark: methods x tasks for every budget, the full cache on top, best of each budget in bold."""
    benchmarks = sorted({row["benchmark"] for row in metrics["cells"]})
    return [_score_table(metrics, labels, benchmark) for benchmark in benchmarks]


def _score_table(metrics: Row, labels: Labels, benchmark: str) -> Table:
    cells = [row for row in metrics["cells"] if row["benchmark"] == benchmark]
    tasks = sorted({row["task"] for row in cells})
    columns = {task: _with_partial([row for row in cells if row["task"] == task]) for task in tasks}
    if len(tasks) > 1:
        averages = [row for row in metrics["averages"] if row["benchmark"] == benchmark]
        columns["Average"] = {
            place: {**row, "partial": any(column[place]["partial"] for column in columns.values() if place in column)}
            for place, row in ((_place(row), row) for row in averages)
        }
    places = sorted({_place(row) for row in cells}, key=lambda place: (budget_order(place[0]), labels.order(place[1])))
    sizes = {_place(row): row for row in metrics["memory"] if row["benchmark"] == benchmark}
    reasons: list[str] = []
    rows = []
    for place in places:
        group = [rival for rival in places if rival[0] == place[0] and not is_full(rival[1])]
        row = [Entry(labels.name(place[1])), budget_entry(sizes[place])]
        for column in columns.values():
            best = _best([column[rival] for rival in group if rival in column]) if labels.ranks else None
            row.append(_score_entry(column.get(place), best if place in group else None, reasons))
        rows.append(tuple(row))
    interval = f" with its {interval_words(metrics)}" if any("low" in row for row in cells) else ""
    notes = [f"Score in percent{interval}; {_sample_words(cells)}."]
    if labels.ranks:
        notes.append("Best of each budget in bold, ties within rounding alike; the full cache does not compete.")
    if any(PARTIAL in cell.text for row in rows for cell in row):
        notes.append(f"{PARTIAL} over fewer samples than the other methods of its column: not comparable, never bold.")
    if any("low" in row and row["low"] == row["high"] for row in cells):
        notes.append("No width: every sample scored the same. Events rarer than about 3/n go unseen with n samples.")
    notes += [f"({number}) {reason}." for number, reason in enumerate(reasons, start=1)]
    if reasons:
        notes.append("A reason's numbers are those of its first prompt.")
    notes += fact_notes(metrics, labels, benchmark)
    return Table(
        name=f"scores_{benchmark}",
        title=f"Scores on {benchmark}",
        columns=("Method", "KV budget", *columns),
        rows=tuple(rows),
        notes=tuple(notes),
        rules=group_starts([place[0] for place in places]),
        left=2,
    )


def fact_notes(metrics: Row, labels: Labels, benchmark: str | None = None) -> list[str]:
    """What budgets decided in methods' own terms, such as how many heads stay whole: a note per method and fact."""
    order = sorted(metrics["memory"], key=lambda row: (labels.order(variant_of(row)), budget_order(row["kv_budget"])))
    texts: dict[tuple[Variant, str], dict[str, list[str]]] = {}
    for row in order:
        if benchmark not in (None, row["benchmark"]):
            continue
        for name, value in (row.get("facts") or {}).items():
            by_benchmark = texts.setdefault((variant_of(row), name), {})
            by_benchmark.setdefault(row["benchmark"], []).append(f"{value:.2f} at {budget_text(row['kv_budget'])}")
    notes = []
    for (variant, name), by_benchmark in texts.items():
        parts = [("" if benchmark else f"{where} ") + ", ".join(values) for where, values in by_benchmark.items()]
        notes.append(f"{labels.name(variant)}, {fact_words(name)}, mean where feasible: {'; '.join(parts)}.")
    return notes


def _place(row: Row) -> tuple[Budget, Variant]:
    return (row["kv_budget"], variant_of(row))


def _with_partial(rows: Sequence[Row]) -> dict[Any, Row]:
    """Rows by place; "partial": whether a row rests on fewer samples than its column has."""
    most = max(row["n"] for row in rows)
    return {_place(row): {**row, "partial": row["feasible"] < most} for row in rows}


def score_text(row: Row) -> str:
    return f"{row['mean']:.1f}"


def interval_text(row: Row, digits: int = 1, sign: bool = False) -> str:
    if "low" not in row:
        return ""
    form = f"{'+' if sign else ''}.{digits}f"
    return f"[{_signed(row['low'], form)}, {_signed(row['high'], form)}]"


def _signed(value: float, form: str) -> str:
    text = format(value, form)
    return text[1:] if text[0] in "+-" and float(text) == 0 else text


def budget_entry(row: Row) -> Entry:
    return Entry(budget_text(row.get("kv_budget")), slots_text(row))


def _best(rows: Iterable[Row]) -> str | None:
    """The best printed mean; None where fewer than two methods compete."""
    means = [float(score_text(row)) for row in rows if "mean" in row and not row.get("partial")]
    return f"{max(means):.1f}" if len(means) > 1 else None


def no_average(row: Row) -> str:
    """Of an average without a mean: how many of its tasks were run on all samples."""
    done, missing = row["tasks"], len(row["missing"])
    without = "no valid profile" if row.get("why") == "unsupported" else "infeasible"
    return f"{done} of {done + missing} tasks" if done else without


def _score_entry(row: Row | None, best: str | None, reasons: list[str]) -> Entry:
    if row is not None and "mean" not in row and row.get("missing"):
        return Entry(no_average(row))
    why = [] if row is None else [f"Infeasible: {r}" for r in row.get("infeasible", {})]
    why += [] if row is None else list(row.get("unsupported", {}))
    if row is None or ("mean" not in row and not why):
        return Entry(MISSING)
    if "mean" not in row:
        kinds: dict[str, str] = {}
        for reason in why:
            kinds.setdefault(_without_numbers(reason), reason)
        numbered = [_without_numbers(reason) for reason in reasons]
        kind = "; ".join(kinds)
        if kind not in numbered:
            numbered.append(kind)
            reasons.append("; ".join(kinds.values()))
        return Entry(f"({numbered.index(kind) + 1})")
    text = score_text(row)
    partial = bool(row.get("partial"))
    return Entry(text + PARTIAL * partial, interval_text(row), bold=text == best and not partial)


def _without_numbers(reason: str) -> str:
    """What reasons have in common that differ in their prompts' lengths only."""
    return re.sub(r"\d+", "#", reason)


def interval_words(metrics: Row) -> str:
    return f"{metrics['confidence']:.0%} small-sample interval over questions"


def _sample_words(cells: Sequence[Row]) -> str:
    counts = {row["feasible"] for row in cells if row["feasible"]}
    if not counts:
        return "no feasible sample"
    low, high = min(counts), max(counts)
    if low == high:
        return "1 sample per cell" if low == 1 else f"{low} samples per cell"
    return f"{low} to {high} samples per cell"


def difference_tables(metrics: Row, labels: Labels) -> list[Table]:
    """Method minus baseline on the same samples, over all tasks and per task. Empty without the baseline."""
    out = []
    base = labels.title(metrics["baseline"])
    for name, key, title in (
        ("differences", "differences_all_tasks", f"Difference from {base}, mean over all tasks"),
        ("differences_by_task", "differences", f"Difference from {base}, per task"),
    ):
        rows = sorted(metrics[key], key=lambda row: (*_group(row), labels.order(variant_of(row))))
        if rows:
            out.append(_difference_table(metrics, labels, name, title, rows))
    return out


def _group(row: Row) -> tuple[Any, ...]:
    return (row["benchmark"], row.get("task", ""), budget_order(row["kv_budget"]))


def _difference_table(metrics: Row, labels: Labels, name: str, title: str, rows: Sequence[Row]) -> Table:
    per_task = "task" in rows[0]
    body = []
    for row in rows:
        leading = [Entry(row["benchmark"]), *([Entry(row["task"])] if per_task else []), budget_entry(row)]
        if "mean" in row:
            size = [Entry(_signed(row["mean"], "+.1f")), Entry(interval_text(row, sign=True) or MISSING)]
            counts = [Entry(str(row["n"])), Entry(str(row["differing"]))]
            verdict = Entry(row["verdict"], bold=row["verdict"] != "no difference shown")
        else:
            size, counts = [Entry(), Entry()], [Entry(str(row["n"])), Entry()]
            verdict = Entry(f"no pairs in {len(row['missing'])} tasks" if row.get("missing") else "no pairs")
        body.append((*leading, Entry(labels.name(variant_of(row))), *size, *counts, verdict))
    notes = [
        f"Score minus the baseline's, in points, on the same samples; paired {interval_words(metrics)}. 'better' and "
        "'worse' only where the interval excludes 0 and at least 6 pairs differ."
    ]
    shown = [row for row in rows if "low" in row]
    if len(shown) > 1:
        chance = len(shown) * (1 - metrics["confidence"])
        notes.append(f"Of {len(shown)} such intervals about {chance:.1f} exclude 0 by chance if no method differs.")
    columns = ["Benchmark", *(["Task"] if per_task else []), "KV budget", "Method"]
    return Table(
        name=name,
        title=title,
        columns=(*columns, "Difference", "Interval", "Pairs", "Differing", "Shown"),
        rows=tuple(body),
        notes=tuple(notes),
        rules=group_starts([_group(row) for row in rows]),
        left=len(columns),
    )


_MEMORY: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("Nominal share", "nominal_share", lambda value: f"{value:.1%}"),
    ("Kept tokens", "kept_tokens", lambda value: f"{value:,.0f}"),
    ("Kept KiB", "kept_bytes", lambda value: f"{value / 1024:,.1f}"),
    ("Kept share", "kept_share", lambda value: f"{value:.1%}"),
    ("Slack KiB", "slack_bytes", lambda value: f"{value / 1024:,.1f}"),
    ("Slack share", "slack_share", lambda value: f"{value:.1%}"),
)


def memory_table(metrics: Row, labels: Labels) -> Table:
    """Nominal budget beside the measured bytes of kept tokens; append slack apart."""
    rows = sorted(metrics["memory"], key=lambda row: (*_group(row), labels.order(variant_of(row))))
    body = []
    for row in rows:
        leading = (Entry(row["benchmark"]), budget_entry(row), Entry(labels.name(variant_of(row))))
        sizes = (Entry(form(row[name])) if row.get(name) is not None else Entry() for _, name, form in _MEMORY)
        body.append((*leading, *sizes))
    return Table(
        name="memory",
        title="Nominal and measured size",
        columns=("Benchmark", "KV budget", "Method", *(column for column, _, _ in _MEMORY)),
        rows=tuple(body),
        notes=(
            "Means per prompt over all tasks. Nominal: budget over prompt length. Kept: counted bytes of the tokens "
            "that stay, and their share of the full cache. Slack: room for tokens still to come, beside them.",
        ),
        rules=group_starts([_group(row) for row in rows]),
        left=3,
    )
