"""The page's tables: typed columns, so that numbers sort and filter as numbers, with the same words as the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reports.checks import checks_table
from reports.claims import claims_sentences, claims_table, evidence_of_run, judge_claims
from reports.kv_budget import budget_order, budget_text
from reports.labels import Labels
from reports.overview import overview_table
from reports.records import variant_of
from reports.rundir import Run
from reports.side_tables import RUNTIMES
from reports.table import Entry, Table
from reports.tables import fact_notes, interval_words

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """kind: "text"; "number" with its decimals; "choice", text with few values; "budget", sorted by place."""

    field: str
    title: str
    kind: str = "text"
    digits: int = 0
    sign: bool = False

    def facts(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if value or key in ("field", "digits")}


def score_rows(run: Run) -> dict[str, Any]:
    """Scores by task and budget."""
    rows = [
        {
            "benchmark": cell["benchmark"],
            "task": cell["task"],
            **_variant(cell, run.labels),
            **_estimate(cell),
            "n": cell.get("feasible"),
            "kept": _percent(cell.get("kept_share")),
            "why": "; ".join([*(cell.get("infeasible") or {}), *(cell.get("unsupported") or {})]),
        }
        for cell in _in_order(run.metrics["cells"], run.labels)
    ]
    columns = [
        Column("benchmark", "Benchmark", "choice"),
        Column("task", "Task", "choice"),
        *_METHOD,
        Column("mean", "Score (%)", "number", 1),
        Column("low", "Low", "number", 1),
        Column("high", "High", "number", 1),
        Column("n", "Questions", "number"),
        Column("kept", "Cache kept (%)", "number", 1),
        Column("why", "Why there is no score"),
    ]
    notes = [
        f"Score in percent with its {interval_words(run.metrics)}.",
        *fact_notes(run.metrics, run.labels),
        *run.labels.notes(),
    ]
    return _table("scores", "Scores by task and budget", columns, rows, notes)


def difference_rows(run: Run) -> dict[str, Any] | None:
    """Paired differences from the baseline, over all tasks and by task."""
    metrics, labels = run.metrics, run.labels
    over_all = [{"task": "all tasks", **row} for row in _in_order(metrics["differences_all_tasks"], labels)]
    listed = [*over_all, *_in_order(metrics["differences"], labels)]
    rows = [
        {
            "benchmark": row["benchmark"],
            "task": row["task"],
            **_variant(row, labels),
            **_estimate(row),
            "n": row.get("n"),
            "differing": row.get("differing"),
            "p": row.get("p"),
            "p_holm": row.get("p_holm"),
            "verdict": row.get("verdict", ""),
        }
        for row in listed
        if "mean" in row
    ]
    columns = [
        Column("benchmark", "Benchmark", "choice"),
        Column("task", "Task", "choice"),
        *_METHOD,
        Column("mean", "Difference (points)", "number", 1, sign=True),
        Column("low", "Low", "number", 1, sign=True),
        Column("high", "High", "number", 1, sign=True),
        Column("n", "Pairs", "number"),
        Column("differing", "Pairs that differ", "number"),
        Column("p", "p", "number", 4),
        Column("p_holm", "p, Holm", "number", 4),
        Column("verdict", "Verdict", "choice"),
    ]
    base = labels.title(metrics["baseline"])
    notes = [
        f"Score minus that of {base} on the same samples, with the interval of the paired difference.",
        *([metrics["correction"]] if metrics.get("correction") else []),
    ]
    return _table("differences", f"Differences from {base}", columns, rows, notes) if rows else None


def memory_rows(run: Run) -> dict[str, Any]:
    """Nominal and measured size of the kept tokens."""
    rows = [
        {
            "benchmark": row["benchmark"],
            **_variant(row, run.labels),
            "nominal": _percent(row.get("nominal_share")),
            "kept": _percent(row.get("kept_share")),
            "slack": _percent(row.get("slack_share")),
            "tokens": row.get("kept_tokens"),
            "mib": _mib(row.get("kept_bytes")),
            "full": _mib(row.get("full_bytes")),
        }
        for row in _in_order(run.metrics["memory"], run.labels)
    ]
    columns = [
        Column("benchmark", "Benchmark", "choice"),
        *_METHOD,
        Column("nominal", "Budget (% of the prompt)", "number", 1),
        Column("kept", "Bytes kept (% of full)", "number", 1),
        Column("slack", "Slack (% of full)", "number", 1),
        Column("tokens", "Tokens kept, all heads", "number"),
        Column("mib", "Kept (MiB)", "number", 2),
        Column("full", "Full cache (MiB)", "number", 2),
    ]
    notes = ["Means over samples. Bytes are measured: keys, values, scales and digests, of all layers and KV heads."]
    return _table("memory", "Memory of the kept tokens", columns, rows, notes)


def latency_rows(run: Run) -> dict[str, Any] | None:
    """Decode latency and memory as measured on the run's machine; absent where nothing was measured."""
    listed = (run.measurements or {}).get("decode") or []
    if not listed:
        return None
    rows = [
        {
            "method": run.labels.preset_name(row["method"], row.get("preset", "normalized")),
            "runtime": RUNTIMES.get(row.get("runtime", ""), row.get("runtime")),
            **_budget(row),
            "batch": row.get("batch"),
            "prompt": row.get("prompt_tokens"),
            "prefill": _median(row.get("prefill_ms")),
            "first": _median(row.get("first_token_ms")),
            "between": _median(row.get("between_tokens_ms")),
            "decode": _median(row.get("decode_ms_per_token")),
            "dynamic": _median(_part(row, "ratio_to").get("dynamic_cache")),
            "ours": _median(_part(row, "ratio_to").get("ragged_full")),
            "cache": _mib(row.get("cache_bytes")),
            "rss": _mib(_part(row, "peak_bytes").get("rss")),
            "cuda": _mib(_part(row, "peak_bytes").get("cuda")),
            "energy": _median(row.get("energy_mj_per_token")),
        }
        for row in listed
    ]
    columns = [
        Column("method", "Method", "choice"),
        Column("runtime", "Runtime", "choice"),
        _BUDGET,
        Column("batch", "Batch", "number"),
        Column("prompt", "Prompt tokens", "number"),
        Column("prefill", "Prefill (ms)", "number", 1),
        Column("first", "First token (ms)", "number", 1),
        Column("between", "Between tokens (ms)", "number", 2),
        Column("decode", "Decode (ms/token)", "number", 2),
        Column("dynamic", "Time / DynamicCache", "number", 2),
        Column("ours", "Time / ours at full", "number", 2),
        Column("cache", "Cache (MiB)", "number", 2),
        Column("rss", "Peak RSS (MiB)", "number", 1),
        Column("cuda", "Peak CUDA (MiB)", "number", 1),
        Column("energy", "Energy (mJ/token)", "number", 1),
    ]
    measured = [c for c in columns if c.kind != "number" or any(row[c.field] is not None for row in rows)]
    notes = ["Medians. Ratios: decode time over the baseline's, below 1 is faster."]
    absent = [column.title for column in columns if column not in measured]
    notes += [f"Not measured on this machine: {', '.join(absent)}."] if absent else []
    return _table("latency", "Decode latency and memory", measured, rows, notes)


def overview(run: Run) -> dict[str, Any] | None:
    """The report's table of averages, as it prints there."""
    return plain(table) if (table := overview_table(run.metrics, run.labels)) else None


def claims(run: Run) -> dict[str, Any]:
    """What papers claim, judged on this run: three sentences, then every claim in the order of verdicts."""
    judged = judge_claims(evidence_of_run(run))
    return {"sentences": claims_sentences(judged), **plain(claims_table(judged))}


def checks(run: Run) -> dict[str, Any] | None:
    return plain(checks_table(run.checks)) if run.checks else None


def plain(table: Table) -> dict[str, Any]:
    """A table of the report for the page: cells as [text with its mark, detail, "bold", "underline" or ""]."""
    return {
        "id": table.name,
        "title": table.title,
        "heads": [list(head) for head in table.heads],
        "columns": list(table.columns),
        "left": table.left,
        "rows": [[_cell(entry) for entry in row] for row in table.rows],
        "notes": list(table.notes),
    }


def _cell(entry: Entry) -> list[str]:
    return [entry.text + entry.mark, entry.detail, "bold" if entry.bold else "underline" if entry.underline else ""]


_BUDGET = Column("budget", "KV budget", "budget")
_METHOD = (Column("method", "Method", "choice"), _BUDGET)


def _table(
    name: str, title: str, columns: Sequence[Column], rows: Sequence[Row], notes: Iterable[str]
) -> dict[str, Any]:
    return {"id": name, "title": title, "columns": [c.facts() for c in columns], "rows": list(rows), "notes": [*notes]}


def _in_order(rows: Iterable[Row], labels: Labels) -> list[Row]:
    """By benchmark, task and budget, then in the order of the labels."""

    def key(row: Row) -> tuple[Any, ...]:
        budget = budget_order(row["kv_budget"])
        return row["benchmark"], row.get("task", ""), budget, labels.order(variant_of(row))

    return sorted(rows, key=key)


def _variant(row: Row, labels: Labels) -> dict[str, Any]:
    return {"method": labels.name(variant_of(row)), **_budget(row)}


def _budget(row: Row) -> dict[str, Any]:
    """The budget's text, and its place among budgets for sorting."""
    kind, size = budget_order(row.get("kv_budget"))
    return {"budget": budget_text(row.get("kv_budget")), "place": kind * 1e9 + size}


def _estimate(row: Row) -> dict[str, Any]:
    return {key: row.get(key) for key in ("mean", "low", "high")}


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _mib(value: float | None) -> float | None:
    return None if value is None else value / 2**20


def _part(row: Row, name: str) -> Row:
    part = row.get(name)
    return part if isinstance(part, Mapping) else {}


def _median(value: Any) -> float | None:
    """A number, or the median of interleaved repeats."""
    number = value.get("median") if isinstance(value, Mapping) else value
    return None if number is None else float(number)
