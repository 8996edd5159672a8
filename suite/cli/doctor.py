"""`cokv doctor`: what this machine can run. Exit code 1 where the default experiment cannot run."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from suite.cli.commands import reported
from suite.experiment_files import DEFAULT, shipped_experiments

COLOURS = {"absent": "dim", "warning": "yellow", "problem": "bold red", "failed": "red"}


@reported
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with every fact behind the words.")] = False,
) -> None:
    """What this machine can run: packages, GPUs, hub, disk, TeX, each experiment; and how to get what is missing."""
    from rich.text import Text

    from suite.cli.screen import screen
    from suite.doctor.diagnosis import diagnose, lines

    diagnosis = diagnose(shipped_experiments(), DEFAULT)
    if as_json:
        print(json.dumps(diagnosis.as_json(), indent=1))
    else:
        console = screen()
        for line, state in lines(diagnosis):  # never broken into lines here, so that a command can be copied
            console.print(Text(line, COLOURS.get(state, "")), soft_wrap=True)
    if not diagnosis.can_run_default:
        raise typer.Exit(1)
