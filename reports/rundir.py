"""A run folder as plain data, checked whole before anything is drawn; an error names the file in one line."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from reports.aggregate import SCHEMA, aggregate
from reports.errors import ReportError
from reports.head_experiments import check_masking, check_transfer
from reports.labels import Labels
from reports.longbench import check_longbench
from reports.records import check_record, digest
from reports.shapes import check_measurements, check_stability

REMEDY = "run the same command again to complete it"


@dataclass(frozen=True)
class Run:
    """One run folder. None stands for a file that the run does not have."""

    path: Path
    spec: Mapping[str, Any]
    records: list[dict[str, Any]]
    metrics: Mapping[str, Any]
    stability: Mapping[str, Any] | None
    measurements: Mapping[str, Any] | None
    finished: bool
    longbench: Mapping[str, Any] | None = None
    masking: Mapping[str, Any] | None = None
    transfer: Mapping[str, Any] | None = None
    stages: tuple[Mapping[str, Any], ...] = ()  # seconds of each stage, of each start that ended one

    @cached_property
    def labels(self) -> Labels:
        return Labels(self.metrics["cells"], _titles(self.spec))


def _titles(spec: Mapping[str, Any]) -> dict[str, str]:
    """Title by method, in the experiment's order; a method of a run that states none is titled by its name."""
    about, methods = spec.get("about"), spec.get("methods")
    titles = about.get("titles") if isinstance(about, Mapping) else None
    titles = titles if isinstance(titles, Mapping) else {}
    cells = [cell for cell in methods if isinstance(cell, Mapping)] if isinstance(methods, list) else []
    names = [str(cell["method"]) for cell in cells if "method" in cell]
    return {name: str(titles.get(name, name)) for name in (*names, *titles)}


def load_run(run_dir: str | Path, allow_unfinished: bool = False) -> Run:
    """Read and check a run folder.

    The numbers are those of metrics.json, which must belong to the predictions beside it. With
    `allow_unfinished` a run that is still going, or was killed, is read as far as it got: a torn last line is left out
    and the metrics are aggregated here.
    """
    path = Path(run_dir)
    if not path.is_dir():
        raise ReportError(f"no run folder at {str(path)!r}; expected a folder such as runs/<name>-<hash>")
    finished = (path / "done.json").is_file()
    if not (path / "spec.json").is_file():
        raise ReportError(f"{str(path)!r} is not a run folder: it holds no spec.json")
    if not finished and not allow_unfinished:
        raise ReportError(f"run {path.name!r} is not finished: it holds no done.json; {REMEDY}")
    spec = _read_object(path / "spec.json")
    records = _read_records(path / "predictions.jsonl", torn_ok=not finished)
    if not records:
        raise ReportError(f"run {path.name!r} holds no predictions yet; {REMEDY}")
    metrics: Mapping[str, Any]
    if finished:
        metrics = _read_object(path / "metrics.json")
        _check_metrics(metrics, records, path)
    else:
        metrics = aggregate(records)
    return Run(
        path=path,
        spec=spec,
        records=records,
        metrics=metrics,
        stability=_read_optional(path / "stability.json", check_stability),
        measurements=_read_optional(path / "measurements.json", check_measurements),
        finished=finished,
        longbench=_read_optional(path / "longbench.json", check_longbench),
        masking=_read_optional(path / "masking.json", check_masking),
        transfer=_read_optional(path / "transfer.json", check_transfer),
        stages=tuple(_read_stages(path / "stages.jsonl")),
    )


def _read_stages(path: Path) -> list[dict[str, Any]]:
    """Whole lines only; none where the run is older than the file."""
    if not path.exists():
        return []
    stages = []
    for number, line in enumerate(_read_bytes(path).split(b"\n")[:-1], start=1):
        try:
            entry = json.loads(line)
            stages.append(
                {"stage": str(entry["stage"]), "seconds": float(entry["seconds"]), "workers": entry["workers"]}
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ReportError(
                f"{path.parent.name}/{path.name} line {number}: no stage with its seconds ({error}); delete the line"
            ) from None
    return stages


def _check_metrics(metrics: Mapping[str, Any], records: list[dict[str, Any]], path: Path) -> None:
    if metrics.get("schema") != SCHEMA:
        raise ReportError(
            f"run {path.name!r}: metrics.json has schema {metrics.get('schema')!r}, expected {SCHEMA}; "
            f"delete it and done.json, then {REMEDY}"
        )
    if metrics.get("records_digest") != digest(records):
        raise ReportError(
            f"run {path.name!r}: metrics.json was not made from the predictions.jsonl beside it; "
            f"delete metrics.json and done.json, then {REMEDY}"
        )
    for name in ("cells", "averages", "memory", "differences", "differences_all_tasks"):
        if not isinstance(metrics.get(name), list):
            raise ReportError(
                f"run {path.name!r}: metrics.json holds no list {name!r}; delete it and done.json, then {REMEDY}"
            )


def _read_records(path: Path, torn_ok: bool) -> list[dict[str, Any]]:
    lines = _read_bytes(path).split(b"\n")
    tail = lines.pop()
    if tail and not torn_ok:
        raise ReportError(f"{path.parent.name}/{path.name}: the last line is torn (it has no line end); {REMEDY}")
    records = []
    for number, line in enumerate(lines, start=1):
        place = f"{path.parent.name}/{path.name} line {number}"
        record = _parse(line, place, "remove the line")
        check_record(record, place)
        records.append(record)
    return records


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ReportError(f"run {path.parent.name!r} holds no {path.name}; {REMEDY}") from None
    except OSError as error:
        raise ReportError(f"{path.parent.name}/{path.name}: cannot be read ({error.strerror})") from None


def _parse(data: bytes, source: str, advice: str) -> Any:
    try:
        return json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ReportError(f"{source}: not UTF-8 text (byte {error.start}); {advice}, then {REMEDY}") from None
    except json.JSONDecodeError as error:
        position = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}"
        raise ReportError(f"{source}: not JSON ({error.msg} at {position}); {advice}, then {REMEDY}") from None


def _read_object(path: Path) -> dict[str, Any]:
    value = _parse(_read_bytes(path), f"{path.parent.name}/{path.name}", "delete it")
    if not isinstance(value, dict):
        raise ReportError(f"{path.parent.name}/{path.name}: expected a JSON object, got {type(value).__name__}")
    return value


def _read_optional(path: Path, check: Callable[[Mapping[str, Any], str], None]) -> dict[str, Any] | None:
    if not path.exists():
        return None
    value = _read_object(path)
    check(value, f"{path.parent.name}/{path.name}")
    return value
