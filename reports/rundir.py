"""A run folder as plain data, checked whole before anything is drawn.

An error is one line that names the file and says what to do. A run counts as finished while all of FINISHED are there:
where one is deleted, `cokv reproduce` makes it again from what is left.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from reports.aggregate import SCHEMA, aggregate
from reports.checks import check_checks
from reports.errors import ReportError
from reports.head_experiments import check_masking, check_transfer
from reports.labels import Labels
from reports.longbench import check_longbench
from reports.records import check_record, digest
from reports.shapes import check_measurements, check_stability
from reports.variants import MethodFacts

FINISHED = ("done.json", "metrics.json", "predictions.jsonl", "spec.json")
EMBEDDED = "embedded"  # the model that ships, for tests
REPRODUCE = "run `cokv reproduce` again with this run's experiment"
AGGREGATE_AGAIN = "run `python -m reports.aggregate_again"
ROW = {"benchmark", "kv_budget", "method", "preset", "query_aware", "first_token"}  # in every row of metrics.json
MADE_BY = {"masking.json": "`cokv heads masking`", "transfer.json": "`cokv heads transfer`"}  # all others: reproduce


def missing_files(run_dir: Path) -> list[str]:
    """Which of FINISHED a run folder does not hold: none of a finished run."""
    return [name for name in FINISHED if not (run_dir / name).exists()]


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
    checks: Mapping[str, Any] | None = None
    stages: tuple[Mapping[str, Any], ...] = ()  # seconds of each stage, of each start that ended one

    @cached_property
    def labels(self) -> Labels:
        about = self.spec.get("about")
        ranks = not (isinstance(about, Mapping) and about.get("model") == EMBEDDED)
        return Labels(self.metrics["cells"], _titles(self.spec), MethodFacts.of_spec(self.spec), ranks)


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
    missing = missing_files(path)
    finished = not missing
    if not (path / "spec.json").is_file():
        raise ReportError(f"{str(path)!r} is not a run folder: it holds no spec.json; name another, or {REPRODUCE}")
    if not finished and not allow_unfinished:
        raise ReportError(f"run {path.name!r} is not finished: it holds no {', '.join(missing)}; {REPRODUCE}")
    spec = read_json(path / "spec.json")
    records = read_records(path / "predictions.jsonl", torn_ok=not finished)
    if not records:
        raise ReportError(f"run {path.name!r} holds no predictions yet; {_remedy(path)}")
    metrics: Mapping[str, Any]
    if finished:
        metrics = read_json(path / "metrics.json")
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
        checks=_read_optional(path / "checks.json", check_checks),
        stages=tuple(read_stages(path / "stages.jsonl")),
    )


def read_stages(path: Path) -> list[dict[str, Any]]:
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
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ReportError(
                f"{path.parent.name}/{path.name} line {number}: no stage with its seconds ({error}); delete the line"
            ) from None
    return stages


def _check_metrics(metrics: Mapping[str, Any], records: list[dict[str, Any]], path: Path) -> None:
    problem = ""
    if metrics.get("schema") != SCHEMA:
        raise ReportError(
            f"run {path.name!r}: metrics.json has schema {metrics.get('schema')!r}, expected {SCHEMA}; "
            f"{AGGREGATE_AGAIN} {path}`"
        )
    if metrics.get("records_digest") != digest(records):
        problem = "was not made from the predictions.jsonl beside it"
    else:
        for name in ("cells", "averages", "memory", "differences", "differences_all_tasks"):
            rows = metrics.get(name)
            if not isinstance(rows, list) or not all(isinstance(row, Mapping) and row.keys() >= ROW for row in rows):
                problem = f"holds no list {name!r} of objects with {', '.join(sorted(ROW))}"
    if problem:
        raise ReportError(f"run {path.name!r}: metrics.json {problem}; delete metrics.json, then {REPRODUCE}")


def read_records(path: Path, torn_ok: bool) -> list[dict[str, Any]]:
    """Checked records of a predictions.jsonl. torn_ok: leave out a last line without an end instead of refusing it."""
    lines = _read_bytes(path).split(b"\n")
    tail = lines.pop()
    if tail and not torn_ok:
        raise ReportError(
            f"{path.parent.name}/{path.name}: the last line is torn (it has no line end); {_remedy(path.parent)}"
        )
    records = []
    for number, line in enumerate(lines, start=1):
        place = f"{path.parent.name}/{path.name} line {number}"
        remedy = _remedy(path.parent, "remove the line")
        record = _parse(line, place, remedy)
        try:
            check_record(record, place)
        except ReportError as error:
            raise ReportError(f"{error}; {remedy}") from None
        records.append(record)
    return records


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ReportError(f"run {path.parent.name!r} holds no {path.name}; {REPRODUCE}") from None
    except OSError as error:
        raise ReportError(
            f"{path.parent.name}/{path.name}: cannot be read ({error.strerror}); move it away, or allow reading it, "
            f"then {REPRODUCE}"
        ) from None


def _remedy(run_dir: Path, action: str = "") -> str:
    """What to do about a damaged file. A run with done.json would be left as it is, so that has to go too."""
    steps = [action] * bool(action) + ["delete done.json"] * (run_dir / "done.json").is_file()
    return ", ".join(steps) + (", then " if steps else "") + REPRODUCE


def _remedy_for(path: Path) -> str:
    """What to do about a damaged JSON file of a run."""
    if path.name in ("spec.json", "metrics.json"):  # a run without one of them is not done
        return f"delete {path.name}, then {REPRODUCE}"
    if path.name in MADE_BY:
        return f"delete {path.name}, then run {MADE_BY[path.name]} again"
    return _remedy(path.parent, f"delete {path.name}")


def _parse(data: bytes, source: str, remedy: str) -> Any:
    try:
        return json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        problem = f"not UTF-8 text (byte {error.start})"
    except json.JSONDecodeError as error:
        position = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}"
        problem = f"not JSON ({error.msg} at {position})"
    except RecursionError:
        problem = "not JSON of a run (nested too deeply)"
    except ValueError as error:  # an integer of thousands of digits
        problem = f"not JSON of a run ({error})"
    raise ReportError(f"{source}: {problem}; {remedy}")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of a run that holds one object."""
    source = f"{path.parent.name}/{path.name}"
    value = _parse(_read_bytes(path), source, _remedy_for(path))
    if not isinstance(value, dict):
        raise ReportError(f"{source}: expected a JSON object, got {type(value).__name__}; {_remedy_for(path)}")
    return value


def _read_optional(path: Path, check: Callable[[Mapping[str, Any], str], None]) -> dict[str, Any] | None:
    if not path.exists():
        return None
    value = read_json(path)
    try:
        check(value, f"{path.parent.name}/{path.name}")
    except ReportError as error:
        raise ReportError(f"{error}; {_remedy_for(path)}") from None
    return value
