"""The report's sections, in its order: each from what the run holds, None where it holds nothing of the kind.

What was found comes first, what was run last. A new section is one function and one line in SECTIONS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from reports.beside_papers import beside_papers
from reports.chat import template_line
from reports.checks import checks_table
from reports.claims import claims_sentences, claims_table, evidence_of_run, judge_claims, write_claims
from reports.claims.verdicts import NOT_COMPARABLE
from reports.environment import facts, in_parts, specification
from reports.findings import findings as finding_sentences
from reports.head_experiments import head_experiments
from reports.labels import Labels
from reports.longbench import category_table, longbench_table
from reports.overview import overview_table
from reports.page import write_page
from reports.rundir import Run
from reports.score_tables import score_tables
from reports.section import Section, links, said, shown
from reports.side_tables import decode_table, removal_table, stability_table
from reports.table import Table, companion
from reports.tables import difference_tables, memory_table

Figures = tuple[str, ...]  # stems of the pictures in the report's folder


def findings(run: Run, figures: Figures, folder: Path) -> Section | None:
    """Verdicts on the papers' claims, and sentences with their numbers; the page, which shows the rest."""
    judged = judge_claims(evidence_of_run(run))
    write_claims(judged, folder)
    line = template_line(run.records)
    sentences = [*([line] if line else []), *finding_sentences(run.metrics, run.labels), *claims_sentences(judged)]
    page = write_page(run, folder)
    table = claims_table(judged)
    compared = sum(item.verdict != NOT_COMPARABLE for item in judged)  # the first rows of the table
    parts = [*said(sentences), *shown(table, rows=range(compared))]
    parts.append(f"With every answer, on one page: [{page.name}]({page.name}).\n")
    return Section("What was found", tuple(parts), (table,))


def overview(run: Run, figures: Figures, folder: Path) -> Section | None:
    """Every method's averages as one picture and one table."""
    table = overview_table(run.metrics, run.labels)
    if table is None:
        return None
    table = _with_notes(table, run.labels)
    intervals = companion(table, "intervals")
    parts = [*_picture("overview", "Average scores of all methods", figures), *shown(table, _some(intervals))]
    return Section("Overview", tuple(parts), (table, *_some(intervals)))


def scores(run: Run, figures: Figures, folder: Path) -> Section | None:
    """Per benchmark: every task at every budget; the differences from the baseline in files."""
    parts: list[str] = []
    tables: list[Table] = []
    for table in score_tables(run.metrics, run.labels):
        intervals = _some(companion(table, "intervals"))
        parts += shown(table, intervals)
        parts += _picture(table.name, "Score against KV budget", figures)
        if table.name.endswith("_needle"):
            parts += _picture("needle_grid", "Score by length and depth of the needle", figures)
        tables += [_with_notes(table, run.labels), *intervals]
    differences = difference_tables(run.metrics, run.labels)
    if differences:
        parts.append("Paired differences: " + "; ".join(map(links, differences)) + ".\n")
    else:
        base = run.labels.title(run.metrics["baseline"])
        parts += said([f"Left out: differences from {base}, as the run has no {base}, or no method beside it."])
    makes = (longbench_table, category_table) if run.longbench else ()
    official = [each for make in makes if run.longbench and (each := make(run.longbench, run.labels))]
    parts += [line for each in official for line in shown(each)]
    return Section("Scores by task", tuple(parts), (*tables, *differences, *official))


def papers(run: Run, figures: Figures, folder: Path) -> Section | None:
    """What others have published of the run's cells."""
    sentences, tables = beside_papers(run)
    parts = [*said(sentences), *(line for table in tables for line in shown(table))]
    return Section("Beside published numbers", tuple(parts), tuple(tables))


def head_scores(run: Run, figures: Figures, folder: Path) -> Section | None:
    """Stability, removal, masking, transfer."""
    parts: list[str] = []
    tables: list[Table] = []
    if run.stability is None:
        parts.append("Left out: the run has no stability.json.\n")
    else:
        stability, removal = stability_table(run.stability), removal_table(run.stability)
        parts += shown(stability) if stability else ["Left out: stability.json holds no stability.\n"]
        parts += _picture("head_scores", "Head scores, layers x KV heads", figures)
        parts += shown(removal) if removal else ["Left out: no head removal was run.\n"]
        parts += _picture("head_removal", "Score after removing heads", figures)
        tables += [*_some(stability), *_some(removal)]
    experiments, experiment_tables = head_experiments(run.masking, run.transfer, folder)
    return Section("Head scores", (*tuple(parts), *experiments), (*tables, *experiment_tables))


def checks(run: Run, figures: Figures, folder: Path) -> Section | None:
    """The checks that were run of the paper's claims."""
    if not run.checks:
        return None
    table = checks_table(run.checks)
    return Section("Checks of the paper's claims", tuple(shown(table)), (table,))


def memory_and_latency(run: Run, figures: Figures, folder: Path) -> Section | None:
    """Bytes of the kept tokens, and time and memory of decoding."""
    memory = memory_table(run.metrics, run.labels)
    decode = decode_table(run.measurements, run.labels) if run.measurements else None
    parts = shown(decode) if decode else []
    if decode is None:
        why = "nothing was measured" if run.measurements else "the run has no measurements.json"
        parts.append(f"Left out: {why}.\n")
    parts += [f"Bytes of the kept tokens: {links(memory)}.\n"]
    return Section("Memory and latency", tuple(parts), (memory, *_some(decode)))


def environment(run: Run, figures: Figures, folder: Path) -> Section | None:
    """Specification, machine and versions, folded."""
    table = specification(run)
    parts = ("\n".join([*facts(run), *in_parts(table)]), f"\nOne by one: {links(table)}.")
    return Section("Specification, machine and versions", parts, (table,), folded=True)


SECTIONS: tuple[Callable[[Run, Figures, Path], Section | None], ...] = (
    findings,
    overview,
    scores,
    papers,
    head_scores,
    checks,
    memory_and_latency,
    environment,
)


def sections(run: Run, figures: Figures, folder: Path) -> Iterator[Section]:
    """Those of a run. figures: the pictures that were drawn; folder: where a section may draw more."""
    for make in SECTIONS:
        section = make(run, figures, folder)
        if section is not None:
            yield section


def _with_notes(table: Table, labels: Labels) -> Table:
    """With what differs from the papers' parameters below it."""
    return replace(table, notes=table.notes + labels.notes())


def _picture(stem: str, words: str, figures: Figures) -> list[str]:
    return [f"![{words}]({stem}.png)\n"] if stem in figures else []


def _some(table: Table | None) -> tuple[Table, ...]:
    return () if table is None else (table,)
