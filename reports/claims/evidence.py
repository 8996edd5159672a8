"""What a claim may look at: the results of one run, from its folder or from a folder of published results.

Published results hold metrics.json and what else was kept of the run, answers.parquet in place of predictions.jsonl.
What a folder does not hold is None here, and a claim that needs it says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reports.checks import check_checks
from reports.claims.sample_scores import SampleScores, Task
from reports.errors import ReportError
from reports.golden import ANSWERS, read_answers
from reports.rundir import Run, load_run, read_json, read_stages
from reports.shapes import check_measurements, check_stability
from reports.text import clip

Json = Mapping[str, Any]
LONGEST = 120  # characters of a model's name
MEMORY = {"method", "kv_budget", "n"}  # in every row of the measured sizes


@dataclass(frozen=True)
class Evidence:
    """Results of one run. `name`: its folder's."""

    name: str
    spec: Json
    metrics: Json | None = None
    scores: SampleScores | None = None
    stability: Json | None = None
    measurements: Json | None = None
    checks: Json | None = None
    stages: tuple[Json, ...] = ()
    source: str = "predictions.jsonl"  # of the scores

    @property
    def model(self) -> str:
        about = self.spec.get("about")
        named = about.get("model") if isinstance(about, Mapping) else None
        return clip(str(named or (self.checks or {}).get("model") or "a model that no file names"), LONGEST)

    @property
    def longbench(self) -> Json:
        """The experiment's LongBench settings; empty where it has none."""
        experiment = self.spec.get("experiment")
        longbench = experiment.get("longbench") if isinstance(experiment, Mapping) else None
        return longbench if isinstance(longbench, Mapping) else {}

    def title(self, method: str) -> str:
        """A method's name for a reader."""
        about = self.spec.get("about")
        titles = about.get("titles") if isinstance(about, Mapping) else None
        return str(titles.get(method, method)) if isinstance(titles, Mapping) else method

    @property
    def device(self) -> str | None:
        device = self.spec.get("device")
        return device.partition(":")[0] if isinstance(device, str) else None

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Those with scores of samples."""
        return tuple(sorted(self.scores.questions)) if self.scores else ()

    def benchmark_facts(self, benchmark: str) -> Json:
        """What the spec says of a benchmark's data."""
        for part in ("benchmarks", "data"):
            facts = self.spec.get(part)
            if isinstance(facts, Mapping) and isinstance(facts.get(benchmark), Mapping):
                inner: Json = facts[benchmark]
                return inner
        return {}

    def official_data(self, benchmark: str) -> bool:
        """Whether the samples are the benchmark's own: LongBench's files, or prepared by RULER's official generator."""
        facts = self.benchmark_facts(benchmark)
        return benchmark == "longbench" or (benchmark == "ruler" and facts.get("prepared") is True)

    def task_words(self, tasks: tuple[Task, ...] | None = None) -> str:
        """For a sentence: how many tasks of what data."""
        tasks = self.tasks if tasks is None else tasks
        counts: dict[str, int] = {}
        for benchmark, _ in tasks:
            counts[benchmark] = counts.get(benchmark, 0) + 1
        return " and ".join(self._data_words(benchmark, count) for benchmark, count in sorted(counts.items()))

    def _data_words(self, benchmark: str, count: int) -> str:
        tasks = "task" if count == 1 else "tasks"
        if benchmark == "longbench_mini":
            return f"{count} generated stand-in{'s' * (count > 1)} for LongBench"
        if benchmark == "ruler":
            facts = self.benchmark_facts(benchmark)
            size = self._length()
            kind = "prepared by the official generator" if self.official_data(benchmark) else "generated here"
            kind += ", smaller parameters" if self._preset() == "mini" and not facts.get("prepared") else ""
            return f"{count} RULER {tasks}{f' of {size} tokens' if size else ''} ({kind})"
        if benchmark == "longbench":
            part = ", MiniLongBench's samples" if self.longbench.get("subset") == "mini" else ""
            return f"{count} LongBench data set{'s' * (count > 1)}{part}"
        return f"{count} {benchmark} {tasks}"

    def _ruler(self) -> Json:
        experiment = self.spec.get("experiment")
        ruler = experiment.get("ruler") if isinstance(experiment, Mapping) else None
        return ruler if isinstance(ruler, Mapping) else self.benchmark_facts("ruler")

    def _length(self) -> int | None:
        length = self._ruler().get("length")
        return length if isinstance(length, int) else None

    def _preset(self) -> str | None:
        preset = self._ruler().get("preset")
        return preset if isinstance(preset, str) else None

    @property
    def length(self) -> int | None:
        """RULER's length in tokens."""
        return self._length()


def load_evidence(folder: str | Path, allow_unfinished: bool = False) -> Evidence:
    """Of a run folder, or of a folder of published results."""
    path = Path(folder)
    if (path / "predictions.jsonl").exists():
        return evidence_of_run(load_run(path, allow_unfinished))
    if not path.is_dir():
        raise ReportError(f"no folder at {str(path)!r}; expected a run folder, or one of published results")
    metrics = _optional(path, "metrics.json", _check_metrics)
    scores = _scores(path, metrics) if (path / ANSWERS).exists() else None
    evidence = Evidence(
        name=path.name,
        spec=_optional(path, "spec.json", _any) or {},
        metrics=metrics,
        scores=scores,
        stability=_optional(path, "stability.json", check_stability),
        measurements=_optional(path, "measurements.json", check_measurements),
        checks=_optional(path, "checks.json", check_checks),
        stages=tuple(read_stages(path / "stages.jsonl")),
        source=ANSWERS,
    )
    if not any((metrics, scores, evidence.stability, evidence.checks, evidence.measurements)):
        raise ReportError(
            f"{str(path)!r} holds no results: expected predictions.jsonl of a run, or answers.parquet, metrics.json, "
            "stability.json, checks.json or measurements.json of published results"
        )
    return evidence


def evidence_of_run(run: Run) -> Evidence:
    return Evidence(
        name=run.path.name,
        spec=run.spec,
        metrics=run.metrics,
        scores=SampleScores.of_records(run.records),
        stability=run.stability,
        measurements=run.measurements,
        checks=run.checks,
        stages=run.stages,
    )


def _optional(folder: Path, name: str, check: Callable[[Json, str], None]) -> Json | None:
    if not (folder / name).exists():
        return None
    value = read_json(folder / name)
    check(value, f"{folder.name}/{name}")
    return value


def _any(value: Json, source: str) -> None:
    """Every JSON object will do."""


def _check_metrics(value: Json, source: str) -> None:
    rows = value.get("memory")
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) and row.keys() >= MEMORY for row in rows):
        raise ReportError(f"{source}: holds no list 'memory' of objects with {', '.join(sorted(MEMORY))}")


def _scores(path: Path, metrics: Json | None) -> SampleScores:
    """Of the answers, which must be those that the metrics beside them count."""
    from pyarrow import ArrowException  # here, because it takes longer to load than all else

    try:
        records = read_answers(path)
    except (ArrowException, KeyError, OSError) as error:
        raise ReportError(
            f"{path.name}/{ANSWERS}: not a file of answers ({type(error).__name__}: {error}); write it again with "
            "`python -m reports.golden RUN FOLDER --write`"
        ) from None
    if metrics is not None and metrics.get("records") != len(records):
        raise ReportError(
            f"{path.name}: {ANSWERS} holds {len(records)} records, metrics.json is of {metrics.get('records')}; "
            "store both from one run"
        )
    return SampleScores.of_records(records)
