"""`cokv reported`: what papers and repositories have published, with sources; and whether the table holds together."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Annotated

import typer
from rich.text import Text

from suite.cli.commands import reported as errors_in_one_line
from suite.cli.screen import json_text, screen

PIPE_WIDTH = 140  # of a table in a file or a pipe


@errors_in_one_line
def reported(
    paper: Annotated[
        str | None, typer.Option(help="CoKV, PyramidKV, AdaKV, HeadKV, SnapKV, LU-KV, kvpress ...")
    ] = None,
    model: Annotated[str | None, typer.Option(help="As printed, or a hub name; a part of it will do.")] = None,
    method: Annotated[str | None, typer.Option(help="In the source's words or ours: Ada-SnapKV, adakv.")] = None,
    budget: Annotated[str | None, typer.Option(help="64, full, or the share that stays: 20%.")] = None,
    dataset: Annotated[str | None, typer.Option(help="A data set, or average for the printed averages.")] = None,
    benchmark: Annotated[str | None, typer.Option(help="LongBench, RULER, RULER-4096 ...")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list, with our names beside theirs.")] = False,
    protocol: Annotated[
        bool, typer.Option("--protocol", help="Also what decides these numbers, and where each source states it.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Verify the whole table instead: averages, repeats, ranges.")
    ] = False,
) -> None:
    """List published numbers with their sources and notes. All options narrow the list; names match in any case.

    A budget is in the source's words: slots per head, or a ratio, the share that is removed.
    """
    from reports.reported.names import kv_budget_of, methods
    from reports.reported.select import select
    from reports.reported.show import protocol_tables, reported_tables
    from reports.reported.sources import protocol_of
    from reports.table import to_rich
    from suite.errors import SuiteError

    filters = {
        "paper": paper, "model": model, "method": method, "budget": budget, "dataset": dataset, "benchmark": benchmark,
    }  # fmt: skip
    if check:
        if used := [name for name, value in filters.items() if value is not None]:
            raise SuiteError(f"--check verifies the whole table; leave out --{used[0]}")
        _check(as_json)
        return
    rows = select(filters)
    if as_json:
        listed = [
            {
                **asdict(row),
                "our_methods": list(methods()[row.method].ours),
                "our_kv_budget": kv_budget_of(row.budget),
                **({"protocol": protocol_of(row)} if protocol else {}),
            }
            for row in rows
        ]
        print(json_text(listed))
        return
    console = screen(PIPE_WIDTH)
    for table in reported_tables(rows):
        console.print(Text(table.title, style="bold"))
        console.print(to_rich(replace(table, title="")))
        console.print(Text("\n".join(table.notes), style="dim"))
        console.print()
    for table in protocol_tables(rows) if protocol else ():
        console.print(Text(table.title, style="bold"))
        for field, value, where in table.rows:
            console.print(Text(f"  {field.text}: {value.text} [{where.text}]"))
        console.print()
    print(f"{len(rows)} published value{'s' if len(rows) != 1 else ''}")


def _check(as_json: bool) -> None:
    """Prints what was compared, and exits with 1 if anything unlisted is off."""
    from reports.reported.check import check_reported

    checked = check_reported()
    if as_json:
        print(json_text(asdict(checked)))
    else:
        for problem in checked.problems:
            print(problem)
        print(
            f"{checked.values} values; {checked.averages} printed averages and {checked.row_means} row means compared, "
            f"{checked.exceptions} known exceptions hold; {len(checked.problems)} problems"
        )
    if checked.problems:
        raise typer.Exit(1)
