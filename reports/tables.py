"""The tables of differences from the baseline and of memory, built from the metrics of `aggregate`; and how numbers,
intervals and budgets are written in every table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reports.kv_budget import budget_order, budget_text, slots_text
from reports.labels import Labels
from reports.raw_numbers import difference_numbers
from reports.records import Variant, variant_of
from reports.table import MISSING, Entry, Table, group_starts
from reports.variants import fact_words

Row = Mapping[str, Any]
ALPHA = 0.05


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


def no_average(row: Row) -> str:
    """Of an average without a mean: how many of its tasks were run on all samples."""
    done, missing = row["tasks"], len(row["missing"])
    without = "no valid profile" if row.get("why") == "unsupported" else "infeasible"
    return f"{done} of {done + missing} tasks" if done else without


def interval_words(metrics: Row) -> str:
    return f"{metrics['confidence']:.0%} interval over questions ({metrics['interval']})"


def significance_notes(metrics: Row, labels: Labels, sign: str) -> list[str]:
    """What a sign at a number says of its difference to the baseline, and how that was corrected."""
    base = labels.title(metrics["baseline"])
    return [f"{sign} differs significantly from {base} on the same questions{correction_words(metrics)}."]


def correction_words(metrics: Row) -> str:
    """How differences are tested and corrected for their number, in brackets; "" where the metrics do not say."""
    words = str(metrics.get("correction") or "").rstrip(".")
    return f" ({words})" if words else ""


def out_of_reach(metrics: Row, rows: str, benchmark: str | None = None) -> list[str]:
    """Where no difference of a benchmark can be significant, as too few questions were asked for its many methods."""
    short = [
        entry
        for entry in metrics.get("families") or []
        if entry["rows"] == rows and benchmark in (None, entry["benchmark"]) and entry["least_p_holm"] > ALPHA
    ]
    what = "averages" if rows == "differences_all_tasks" else "cells of single tasks"
    return [
        f"No difference of the {what} on {entry['benchmark']} can be significant, whatever the methods do: with so few "
        f"questions for {entry['size']} differences the smallest possible p_holm is {entry['least_p_holm']:.2g}."
        for entry in short
    ]


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
            counts = [Entry(str(row["n"])), Entry(str(row["differing"])), _p_value(row)]
            verdict = Entry(row["verdict"], bold=row["verdict"] != "no difference shown")
        else:
            size, counts = [Entry(), Entry()], [Entry(str(row["n"])), Entry(), Entry()]
            verdict = Entry(f"no pairs in {len(row['missing'])} tasks" if row.get("missing") else "no pairs")
        body.append((*leading, Entry(labels.name(variant_of(row))), *size, *counts, verdict))
    notes = [
        f"Score minus the baseline's, in points, on the same questions; paired {interval_words(metrics)}. 'better' and "
        f"'worse' where the difference is significant{correction_words(metrics)}.",
        *out_of_reach(metrics, "differences" if per_task else "differences_all_tasks"),
    ]
    columns = ["Benchmark", *(["Task"] if per_task else []), "KV budget", "Method"]
    return Table(
        name=name,
        title=title,
        columns=(*columns, "Difference", "Interval", "Pairs", "Differing", "p (Holm)", "Shown"),
        rows=tuple(body),
        notes=tuple(notes),
        rules=group_starts([_group(row) for row in rows]),
        left=len(columns),
        data=tuple(difference_numbers(rows, labels)),
    )


def _p_value(row: Row) -> Entry:
    p = row.get("p_holm")
    return Entry() if p is None else Entry("< 0.001" if p < 0.001 else f"{p:.3f}")


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
