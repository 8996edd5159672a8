"""`cokv check-method module:Class`: does a user's scorer keep the contract? Exit code 1 where it does not."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from reports.text import visible
from suite.cli.commands import reported
from suite.cli.screen import show


@reported
def check_method(
    name: Annotated[str, typer.Argument(help="package.module:Class of a scorer, or the name of a method.")],
    preset: Annotated[str, typer.Option(help="Preset, where the name is a method's.")] = "normalized",
) -> None:
    """Try a scorer on small models: shapes, numbers, totals, determinism, memory, bfloat16."""
    from cokv.methods.conformance import check_scorer
    from cokv.methods.registry import get_method
    from suite.errors import SuiteError

    scorer = get_method(name, preset).scorer
    if scorer is None:
        raise SuiteError(f"method {name} has no scorer: it keeps everything, so there is nothing to check")
    table = Table("check", "", "result")
    checks = check_scorer(scorer)
    for check in checks:
        mark = "[green]pass[/green]" if check.passed else "[red]FAIL[/red]"
        table.add_row(check.name, mark, escape(visible(check.message)))
    show(table)
    failed = sum(not check.passed for check in checks)
    print(f"{name}: {len(checks) - failed} of {len(checks)} checks passed")
    if failed:
        raise typer.Exit(1)
