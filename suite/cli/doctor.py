"""`cokv doctor`: what this machine can run. Exit code 1 where the default experiment cannot run."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from suite.cli.commands import reported
from suite.experiment_files import DEFAULT, shipped_experiments

COLOURS = {"ok": "green", "absent": "dim", "warning": "yellow", "problem": "bold red", "failed": "red"}


@reported
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with every fact behind the words.")] = False,
) -> None:
    """What this machine can run: packages, GPUs, hub, disk, TeX, each experiment; and how to get what is missing."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from reports.text import visible
    from suite.doctor.diagnosis import diagnose, lines

    diagnosis = diagnose(shipped_experiments(), DEFAULT)
    if as_json:
        print(json.dumps(diagnosis.as_json(), indent=1))
    else:
        table = Table.grid("group", "name", "state", "text", padding=(0, 2, 0, 0))
        for group, name, state, text in lines(diagnosis):
            cells = (Text(group, "bold"), Text(name), Text(state, COLOURS[state]))
            table.add_row(*cells, Text(visible(text, lines=True), overflow="fold"))
        console = Console(highlight=False)
        (console if console.is_terminal else Console(width=160, highlight=False)).print(table)
        can = "can run" if diagnosis.can_run_default else "cannot run"
        print(f"The default experiment, {DEFAULT}, {can} here; `cokv reproduce --dry-run` says how long it takes.")
    if not diagnosis.can_run_default:
        raise typer.Exit(1)
