"""`cokv claims`: what papers claim, judged on a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from suite.cli.commands import reported
from suite.errors import SuiteError


@reported
def claims(
    folder: Annotated[
        Path | None,
        typer.Argument(help="A run folder, or a folder of published results; the newest finished run when left out."),
    ] = None,
    runs: Annotated[Path, typer.Option(help="Where run folders are kept.")] = Path("runs"),
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Judge the records so far of a run that has not ended.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print claims.json.")] = False,
    list_all: Annotated[bool, typer.Option("--list", help="Only list the claims, without a run.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="A folder to write claims.json into."),
    ] = None,
) -> None:
    """What papers claim, judged on a run: reproduced, contradicted, inconclusive, or not comparable here.

    Every verdict comes from an interval, and all of a run's intervals hold together with 95 %. What cannot be compared
    says why, and what would be needed.
    """
    from reports.claims import claims as every_claim
    from reports.claims import judge_claims, load_evidence, write_claims
    from reports.claims.show import as_json as verdicts_as_json
    from reports.claims.show import claims_text, list_text

    if list_all:
        print(list_text(every_claim()))
        return
    from reports.text import visible

    evidence = load_evidence(folder or _newest(runs), unfinished)
    judged = judge_claims(evidence)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_claims(judged, out)
    print(json.dumps(verdicts_as_json(judged), indent=1) if as_json else visible(claims_text(judged), lines=True))


def _newest(runs: Path) -> Path:
    files = sorted(runs.glob("*/done.json"), key=lambda file: file.stat().st_mtime)
    if not files:
        raise SuiteError(f"no finished run under {runs}; run `cokv reproduce` first, or name a folder of results")
    return files[-1].parent
