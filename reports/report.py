"""A run folder -> `<run_dir>/report/`: report.md, tables (Markdown, LaTeX), figures (PNG, PDF); and a screen table.

Everything comes from the files of the run. One line stands for a section whose file is absent.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from reports.chat import template_line
from reports.checks import checks_table, pages
from reports.head_experiments import head_experiments
from reports.intervals import CONFIDENCE
from reports.labels import Labels
from reports.longbench import category_table, longbench_table
from reports.overview import overview_table
from reports.page import write_page
from reports.rundir import Run, load_run
from reports.side_tables import decode_table, removal_table, stability_table
from reports.table import Table, column_words, escape_markdown, to_latex, to_markdown, to_rich
from reports.tables import difference_tables, fact_notes, memory_table, score_tables

PLAIN_WIDTH = 100
FEW = 10  # methods, the full cache among them, whose tables by task are printed on a screen
LATEX_HEAD = "% \\usepackage[T1]{fontenc} \\usepackage{booktabs,graphicx}\n\n"


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
    labels = run.labels
    scores = [_with_notes(table, labels) for table in score_tables(run.metrics, labels)]
    overview = overview_table(run.metrics, labels)
    overview = overview and _with_notes(overview, labels)
    figures = _draw(run, folder)
    parts = [f"# {escape_markdown(_title(run))}\n", *_context(run), "## Scores\n"]
    parts += [f"{escape_markdown(line)}\n"] if (line := template_line(run.records)) else []
    parts += [to_markdown(overview)] if overview else []
    parts += [_image("overview", "Average scores of all methods")] if "overview" in figures else []
    parts += [to_markdown(table) for table in scores]
    parts += [_image(stem, "Score against KV budget") for stem in figures if stem.startswith("scores_")]

    differences = [_with_notes(table, labels) for table in difference_tables(run.metrics, labels)]
    base = labels.title(run.metrics["baseline"])
    parts.append(f"## Differences from {escape_markdown(base)}\n")
    parts += [to_markdown(table) for table in differences[:1]]
    parts += [
        f"<details><summary>{table.title}</summary>\n\n{to_markdown(table)}\n</details>\n" for table in differences[1:]
    ]
    if not differences:
        parts.append(f"Left out: the run has no {escape_markdown(base)}, or no method beside it.\n")

    official = [t for make in (longbench_table, category_table) if run.longbench and (t := make(run.longbench, labels))]
    parts += ["## LongBench, official numbers\n", *map(to_markdown, official)] if official else []

    memory = _with_notes(memory_table(run.metrics, labels), labels)
    parts += ["## Memory of the kept tokens\n", to_markdown(memory)]
    tables = [*([overview] if overview else []), *scores, *differences, memory, *official]

    parts.append("## Head scores\n")
    stability = stability_table(run.stability) if run.stability else None
    removal = removal_table(run.stability) if run.stability else None
    parts += _section(
        stability, "stability.json holds no stability" if run.stability else "the run has no stability.json"
    )
    parts += [_image("head_scores", "Head scores, layers x KV heads")] if "head_scores" in figures else []
    parts.append("## Removing heads\n")
    parts += _section(removal, "no head removal was run")
    parts += [_image("head_removal", "Score after removing heads")] if "head_removal" in figures else []
    experiments, experiment_tables = head_experiments(run.masking, run.transfer, folder)
    parts += experiments

    checks = checks_table(run.checks) if run.checks else None
    parts += ["## Checks of the paper's claims\n", to_markdown(checks)] if checks else []

    parts.append("## Decode latency and memory\n")
    decode = decode_table(run.measurements, labels) if run.measurements else None
    decode = decode and _with_notes(decode, labels)
    parts += _section(decode, "nothing was measured" if run.measurements else "the run has no measurements.json")
    tables += [table for table in (stability, removal, *experiment_tables, checks, decode) if table is not None]
    write_page(run, folder)

    (folder / "report.md").write_text("\n".join(parts), encoding="utf-8")
    (folder / "table.tex").write_text(LATEX_HEAD + "\n".join(to_latex(table) for table in scores), encoding="utf-8")
    for table in tables:
        (folder / f"{table.name}.md").write_text(to_markdown(table), encoding="utf-8")
        (folder / f"{table.name}.tex").write_text(LATEX_HEAD + to_latex(table), encoding="utf-8")
    if checks is not None:
        (folder / "checks.tex").write_text(LATEX_HEAD + "\n".join(map(to_latex, pages(checks))), encoding="utf-8")


def _with_notes(table: Table, labels: Labels) -> Table:
    """With what differs from the papers' parameters below it."""
    return replace(table, notes=table.notes + labels.notes())


def _section(table: Table | None, absent: str) -> list[str]:
    return [to_markdown(table)] if table is not None else [f"Left out: {absent}.\n"]


def _image(stem: str, alt: str) -> str:
    return f"![{alt}]({stem}.png)\n"


def _draw(run: Run, folder: Path) -> list[str]:
    # Here, because matplotlib takes longer to load than a table to print.
    from reports import head_plots, style
    from reports.overview_plot import overview_figure
    from reports.plots import score_figure

    figures = {"overview": overview_figure(run.metrics, run.labels)}
    for benchmark in sorted({row["benchmark"] for row in run.metrics["cells"]}):
        figures[f"scores_{benchmark}"] = score_figure(run.metrics, run.labels, benchmark)
    if run.stability:
        figures["head_scores"] = head_plots.heads_figure(run.stability)
        figures["head_removal"] = head_plots.removal_figure(run.stability)
    for stem, figure in figures.items():
        if figure is not None:
            style.save(figure, folder, stem)
    return [stem for stem, figure in figures.items() if figure is not None]


def _title(run: Run) -> str:
    name = run.spec.get("name") or run.spec.get("experiment")
    return str(name) if isinstance(name, str) and name else run.path.name


def _context(run: Run) -> list[str]:
    """What was run: facts of the records first, then the whole spec as it stands."""
    records = run.records
    tokens = [r["prompt_tokens"] for r in records if isinstance(r.get("prompt_tokens"), int | float)]
    tasks = sorted({f"{r['benchmark']}/{r['task']}" for r in records})
    samples = len({(r["benchmark"], r["task"], r["seed"], r["sample_id"]) for r in records})
    infeasible = sum(r["score"] is None and bool(r["infeasible"]) for r in records)
    unsupported = sum(r["score"] is None and not r["infeasible"] for r in records)
    question = sorted({"seen" if r["query_aware"] else "not seen" for r in records})
    facts = {
        "Run": run.path.name,
        "Tasks": f"{len(tasks)}: {', '.join(tasks)}",
        "Samples": f"{samples}, data seeds {', '.join(str(s) for s in sorted({r['seed'] for r in records}))}",
        "Records": f"{len(records)}, one per sample, method and budget; {infeasible} of them infeasible"
        + (f", {unsupported} without a valid profile" if unsupported else ""),
        "Question when tokens are chosen": " and ".join(question),
        "First answer token from": " and ".join(sorted({r["first_token"] for r in records})),
    }
    if tokens:
        facts["Prompt tokens"] = f"{min(tokens)} to {max(tokens)}, mean {sum(tokens) / len(tokens):.0f}"
    facts["Intervals"] = (
        f"{CONFIDENCE:.0%} over samples; {'; '.join(f'{k}: {v}' for k, v in run.metrics['intervals'].items())}"
    )
    if run.stages:
        facts["Wall time"] = _wall_time(run.stages)
    lines = [f"* {key}: {escape_markdown(value)}" for key, value in facts.items()]
    notes = Counter(note for record in records for note in record.get("notes") or [])
    lines += [
        f"* Note: {escape_markdown(note)} ({count} of {len(records)} records)" for note, count in sorted(notes.items())
    ]
    if not run.finished:
        lines.insert(0, "* **This run is not finished: the numbers are those of the records so far.**")
    spec = [(key, value) for key, value in _flat(run.spec) if not key.startswith(("about.titles.", "about.variants"))]
    for name in ("machine", "versions"):
        spec += [(f"{name}.{key}", value) for key, value in _flat((run.measurements or {}).get(name) or {})]
    table = ["\n<details><summary>Specification, machine and versions</summary>\n", "| Key | Value |", "|:--|:--|"]
    table += [f"| {escape_markdown(key)} | {escape_markdown(value)} |" for key, value in spec]
    return ["\n".join(lines), "\n".join([*table, "\n</details>\n"])]


def _wall_time(stages: Sequence[Mapping[str, Any]]) -> str:
    """Stages that ended, of all starts of the run."""
    workers = max(stage["workers"] for stage in stages)
    by_stage: dict[str, float] = {}
    for stage in stages:
        by_stage[stage["stage"]] = by_stage.get(stage["stage"], 0.0) + stage["seconds"]
    parts = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in by_stage.items())
    by = "one process" if workers == 1 else f"{workers} processes"
    return f"{sum(by_stage.values()):.0f} s by {by}: {parts}"


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Leaves of nested mappings as ("a.b", text); lists on one line; long texts cut, with their length."""
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _flat(item, f"{prefix}{key}.")
            continue
        text = ", ".join(str(part) for part in item) if isinstance(item, list) else str(item)
        yield f"{prefix}{key}", text if len(text) <= 300 else f"{text[:280]}… ({len(text)} characters)"


def terminal_table(run_dir: str | Path, console: Console | None = None, allow_unfinished: bool = False) -> None:
    """Print scores and differences: with bold on a terminal, else plain text of 100 columns with a star for bold."""
    run = load_run(run_dir, allow_unfinished)
    console = console or Console()
    if console.is_terminal:
        _print(run, console, star="")
        return
    plain = Console(file=io.StringIO(), width=PLAIN_WIDTH, color_system=None, highlight=False)
    with plain.capture() as capture:
        _print(run, plain, star="*")
    encoding = console.encoding
    lines = [line.rstrip() for line in capture.get().encode(encoding, "replace").decode(encoding).splitlines()]
    console.file.write("\n".join(lines) + "\n")


def _print(run: Run, console: Console, star: str) -> None:
    if not run.finished:
        console.print(Text("This run is not finished: the numbers are those of the records so far."))
    if line := template_line(run.records):
        console.print(Text(line, style="dim"))
    labels = run.labels
    for table in _averages(run):
        console.print(to_rich(_starred(table, star)))
        console.print()
    if len(labels.variants) > FEW:
        notes = [*fact_notes(run.metrics, labels), *labels.notes()]
        console.print(Text("\n".join([*notes, "Scores by task, and differences, are in the report."]), style="dim"))
        return
    for table in score_tables(run.metrics, labels):
        for block in _blocks(_starred(table, star), console.width):
            console.print(to_rich(block))
            console.print()
        table = _with_notes(table, labels)
        notes = [note.replace("in bold", "starred") if star else note for note in table.notes]
        console.print(Text("\n".join(notes), style="dim"))
        console.print()
    for table in difference_tables(run.metrics, labels)[:1]:
        console.print(to_rich(table))
        console.print()
        console.print(Text("\n".join(table.notes), style="dim"))


def _averages(run: Run) -> list[Table]:
    """A table per benchmark."""
    names = sorted({row["benchmark"] for row in run.metrics["averages"]})
    tables = [overview_table(run.metrics, run.labels, name) for name in names]
    return [table for table in tables if table is not None]


def _starred(table: Table, star: str) -> Table:
    rows = tuple(tuple(replace(c, text=c.text + star) if c.bold else c for c in row) for row in table.rows)
    return replace(table, rows=rows)


def _blocks(table: Table, width: int) -> Iterator[Table]:
    """The table cut by columns to fit; the last column (the average) comes first and alone shows intervals."""
    last = len(table.columns) - 1
    cells = [[c if place == last else replace(c, detail="") for place, c in enumerate(row)] for row in table.rows]

    def text_width(place: int) -> int:
        texts = [f"{row[place].text} {row[place].detail}".strip() for row in cells]
        return max(len(text) for text in [*column_words(table.columns[place]), *texts]) + 2

    fixed = sum(text_width(place) for place in range(table.left))
    parts: list[list[int]] = [[]]
    used = fixed
    for place in [last, *range(table.left, last)]:
        if parts[-1] and used + text_width(place) > width:
            parts.append([])
            used = fixed
        parts[-1].append(place)
        used += text_width(place)
    for number, part in enumerate(parts):
        keep = [*range(table.left), *part]
        yield replace(
            table,
            title=table.title if number == 0 else f"{table.title} (continued)",
            columns=tuple(table.columns[place] for place in keep),
            rows=tuple(tuple(row[place] for place in keep) for row in cells),
        )
