"""What was run, and where: facts of the records, and the specification, a line for each of its parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from reports.rundir import Run
from reports.table import Entry, Table, escape_markdown
from reports.tables import interval_words
from reports.text import clip, visible

LONGEST = 300  # characters of one value


def facts(run: Run) -> list[str]:
    """Lines of Markdown: of the records, the interval, the time."""
    records = run.records
    tokens = [r["prompt_tokens"] for r in records if isinstance(r.get("prompt_tokens"), int | float)]
    tasks = sorted({f"{r['benchmark']}/{r['task']}" for r in records})
    samples = len({(r["benchmark"], r["task"], r["seed"], r["sample_id"]) for r in records})
    infeasible = sum(r["score"] is None and bool(r["infeasible"]) for r in records)
    unsupported = sum(r["score"] is None and not r["infeasible"] for r in records)
    question = sorted({"seen" if r["query_aware"] else "not seen" for r in records})
    lines = {
        "Run": run.path.name,
        "Tasks": f"{len(tasks)}: {', '.join(tasks)}",
        "Samples": f"{samples}, data seeds {', '.join(str(s) for s in sorted({r['seed'] for r in records}))}",
        "Records": f"{len(records)}, one per sample, method and budget; {infeasible} of them infeasible"
        + (f", {unsupported} without a valid profile" if unsupported else ""),
        "Question when tokens are chosen": " and ".join(question),
        "First answer token from": " and ".join(sorted({r["first_token"] for r in records})),
    }
    if tokens:
        lines["Prompt tokens"] = f"{min(tokens)} to {max(tokens)}, mean {sum(tokens) / len(tokens):.0f}"
    lines["Intervals"] = interval_words(run.metrics)
    if run.stages:
        lines["Wall time"] = wall_time(run.stages)
    notes = Counter(note for record in records for note in record.get("notes") or [])
    return [f"* {key}: {escape_markdown(value)}" for key, value in lines.items()] + [
        f"* Note: {escape_markdown(clip(visible(str(note)), LONGEST))} ({count} of {len(records)} records)"
        for note, count in sorted(notes.items())
    ]


def wall_time(stages: Sequence[Mapping[str, Any]]) -> str:
    """Stages that ended, of all starts of the run."""
    workers = max(stage["workers"] for stage in stages)
    by_stage: dict[str, float] = {}
    for stage in stages:
        by_stage[stage["stage"]] = by_stage.get(stage["stage"], 0.0) + stage["seconds"]
    parts = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in by_stage.items())
    by = "one process" if workers == 1 else f"{workers} processes"
    return f"{sum(by_stage.values()):.0f} s by {by}: {parts}"


def specification(run: Run) -> Table:
    """One row per leaf of the spec, of the machine and of the versions."""
    spec = [(key, text) for key, text in _flat(run.spec) if not key.startswith(("about.titles.", "about.variants"))]
    for name in ("machine", "versions"):
        spec += [(f"{name}.{key}", text) for key, text in _flat((run.measurements or {}).get(name) or {})]
    rows = tuple((Entry(clip(visible(key), LONGEST)), Entry(text)) for key, text in dict.fromkeys(spec))
    return Table("specification", "Specification, machine and versions", ("Key", "Value"), rows, left=2)


def in_parts(table: Table) -> list[str]:
    """The rows of a specification as lines of Markdown, one for each part of it."""
    parts: dict[str, list[str]] = {}
    for key, value in ((row[0].text, row[1].text) for row in table.rows):
        part, _, leaf = key.rpartition(".")
        part = ".".join(part.split(".")[:2])
        parts.setdefault(part, []).append(f"{key.removeprefix(f'{part}.') if part else leaf} {value}")
    return [f"* {f'**{escape_markdown(part)}**: ' if part else ''}{escape_markdown('; '.join(leaves))}"
            for part, leaves in parts.items()]  # fmt: skip


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Leaves of nested mappings as ("a.b", text); lists on one line; long texts cut, with their length."""
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _flat(item, f"{prefix}{key}.")
            continue
        text = visible(", ".join(str(part) for part in item) if isinstance(item, list) else str(item))
        yield f"{prefix}{key}", text if len(text) <= LONGEST else f"{text[: LONGEST - 20]}… ({len(text)} characters)"
