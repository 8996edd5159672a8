"""`cokv export`: a run's records as one Parquet file, one row per record in the run's order.

`datasets.load_dataset("parquet", data_files=FILE)` and pandas read it. Columns are the same for every run; what a
record does not have is null, and what has no column of its own is in `other`, so nothing is lost.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from suite.cli.commands import reported
from suite.errors import SuiteError

if TYPE_CHECKING:
    import pyarrow

    from reports.rundir import Run

SCHEMA = 1
TEXT, COUNT, REAL, FLAG, TEXTS = "string", "int64", "float64", "bool", "list<string>"
COLUMNS = {  # name: type, unit
    "run": (TEXT, None),
    "model": (TEXT, None),
    "benchmark": (TEXT, None),
    "task": (TEXT, None),
    "seed": (COUNT, None),
    "sample_id": (TEXT, None),
    "method": (TEXT, None),
    "preset": (TEXT, None),
    "cell": (TEXT, "digest of what can change this cell's answers: method, profile, files"),
    "kv_budget": (TEXT, "KV slots per head, or a share of the prompt's tokens such as 20%"),
    "kv_slots": (COUNT, "KV slots per head"),
    "query_aware": (FLAG, None),
    "first_token": (TEXT, None),
    "prompt_tokens": (COUNT, "tokens"),
    "generated_tokens": (COUNT, "tokens"),
    "prediction": (TEXT, None),
    "references": (TEXTS, None),
    "all_classes": (TEXTS, None),
    "score": (REAL, "percent"),
    "infeasible": (TEXT, None),
    "unsupported": (TEXT, None),
    "kept_tokens": (COUNT, "tokens, over all layers and KV heads"),
    "kept_bytes": (COUNT, "bytes"),
    "slack_bytes": (COUNT, "bytes"),
    "host_bytes": (COUNT, "bytes"),
    "full_bytes": (COUNT, "bytes"),
    "facts": (TEXT, "JSON"),
    "groups": (TEXT, "JSON"),
    "notes": (TEXTS, None),
    "other": (TEXT, "JSON"),
}
AS_JSON = ("facts", "groups")
OF_RUN = ("run", "model", "other")


@reported
def export(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    out: Annotated[
        Path | None, typer.Option(help="The Parquet file; predictions.parquet in the run folder when left out.")
    ] = None,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Export the records so far of a run that has not ended.")
    ] = False,
) -> None:
    """Write a run's records as a Parquet file, which `datasets` and pandas read."""
    from reports import load_run

    loaded = load_run(run, allow_unfinished=unfinished)
    path = out or run / "predictions.parquet"
    write_parquet(table_of(loaded), path)
    print(f"{path}: {len(loaded.records)} records")


def table_of(run: Run) -> pyarrow.Table:
    """The run's records as a table. Schema metadata `cokv`: the run's spec and whether it is finished; of a column:
    its unit."""
    import pyarrow

    rows = [_row(run, record) for record in run.records]
    types = {TEXTS: pyarrow.list_(pyarrow.string()), **{t: getattr(pyarrow, t)() for t in (TEXT, COUNT, REAL)}}
    types[FLAG] = pyarrow.bool_()
    arrays, fields = [], []
    for name, (kind, unit) in COLUMNS.items():
        try:
            arrays.append(pyarrow.array([row[name] for row in rows], types[kind]))
        except (pyarrow.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise SuiteError(
                f"{run.path.name}/predictions.jsonl: field {name!r} is not {kind} everywhere ({error}); remove the "
                "line that differs, then run `cokv reproduce` again with this run's experiment"
            ) from None
        fields.append(pyarrow.field(name, types[kind], metadata={"unit": unit} if unit else None))
    about = {"schema": SCHEMA, "run": run.path.name, "finished": run.finished, "spec": run.spec}
    units = {name: unit for name, (_, unit) in COLUMNS.items() if unit}
    metadata = {"cokv": json.dumps(about | {"units": units}, sort_keys=True, ensure_ascii=False)}
    return pyarrow.Table.from_arrays(arrays, schema=pyarrow.schema(fields, metadata=metadata))


def _row(run: Run, record: Mapping[str, Any]) -> dict[str, Any]:
    row = {name: record.get(name) for name in COLUMNS}
    budget = record["kv_budget"]
    row |= {name: None if row[name] is None else _json(row[name]) for name in AS_JSON}
    row["kv_budget"] = None if budget is None else str(budget)
    other = {name: value for name, value in record.items() if name not in COLUMNS or name in OF_RUN}
    about = run.spec.get("about")
    model = about.get("model") if isinstance(about, Mapping) else None
    return row | {"run": run.path.name, "model": model, "other": _json(other) if other else None}


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def write_parquet(table: pyarrow.Table, path: Path) -> None:
    """Writes the file whole or not at all."""
    import pyarrow.parquet

    if path.is_dir():
        raise SuiteError(f"--out {path} is a folder; name a file, such as {path / 'predictions.parquet'}")
    if not path.parent.is_dir():
        raise SuiteError(f"--out {path}: there is no folder {path.parent}; make it, or name another file")
    part = path.with_name(f".{path.name}.part")
    try:
        pyarrow.parquet.write_table(table, part, compression="zstd")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
