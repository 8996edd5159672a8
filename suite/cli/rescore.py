"""Metrics without a model: a finished run's predictions judged again, or predictions that another tool wrote."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longbench import predictions as longbench_predictions
from longbench.predictions import Prediction
from longbench.protocol import Protocol
from longbench.rescoring import score_predictions
from reports import load_run
from reports.rundir import REPRODUCE, Run
from ruler import predictions as ruler_predictions
from ruler.grid import score as needle_score
from ruler.predictions import Answer
from ruler.scoring import score as ruler_score
from ruler.tasks import get_task
from suite.cli.repeated_rows import repeats
from suite.errors import SuiteError
from suite.spec.longbench_fields import changed_protocol
from suite.tasks.longbench_official import judge

FORMATS = (*longbench_predictions.FORMATS, "ruler")


def rescore_run(run: Path) -> dict[str, Any]:
    """Judges a run's stored texts again. Returns how many scores are the same, and each that is not."""
    loaded = load_run(run, allow_unfinished=True)
    changed = []
    judged = 0
    for record in loaded.records:
        if record["score"] is None:
            continue
        judged += 1
        again = _score(record, loaded)
        if again != record["score"]:
            identity = {k: record[k] for k in ("task", "sample_id", "method", "kv_budget")}
            changed.append({**identity, "stored": record["score"], "now": again})
    return {"run": str(run), "judged": judged, "same": judged - len(changed), "changed": changed}


def _score(record: dict[str, Any], run: Run) -> float:
    for name, kind in (("prediction", str), ("references", list)):
        if not isinstance(record.get(name), kind):
            raise SuiteError(
                f"{run.path.name}/predictions.jsonl: sample {record['sample_id']!r} of {record['task']} has a score "
                f"and no {name!r}, so it cannot be judged again; name a run that `cokv reproduce` wrote"
            )
    if record["benchmark"] == "ruler":
        preset = _setting(run, "ruler", "preset")
        return ruler_score(get_task(record["task"], preset).metric, record["prediction"], record["references"])
    if record["benchmark"] == "longbench":
        return 100 * judge(record, _protocol(run))
    if record["benchmark"] == "needle":
        return needle_score(record["prediction"], record["references"])
    if record["benchmark"] == "longbench_mini":
        from longbench.metrics import sample_score

        return 100 * sample_score(record["task"], record["prediction"], record["references"], record.get("all_classes"))
    raise SuiteError(
        f"records of benchmark {record['benchmark']!r} cannot be judged; expected ruler, longbench, longbench_mini or "
        "needle"
    )


def _protocol(run: Run) -> Protocol:
    """The LongBench protocol of a run, with the fields that it changed."""
    name = _setting(run, "longbench", "protocol")
    changes = run.spec["experiment"]["longbench"].get("fields", {})
    try:
        return changed_protocol(name, changes)
    except (ValueError, AttributeError) as error:
        raise SuiteError(f"{run.path.name}/spec.json: experiment.longbench.{error}; restore the file") from None


def _setting(run: Run, benchmark: str, name: str) -> str:
    """A benchmark's setting in the run's spec."""
    experiment = run.spec.get("experiment")
    section = experiment.get(benchmark) if isinstance(experiment, Mapping) else None
    setting = section.get(name) if isinstance(section, Mapping) else None
    if not isinstance(setting, str):
        raise SuiteError(
            f"{run.path.name}/spec.json: has no experiment.{benchmark}.{name}, which says how answers are judged; "
            f"delete spec.json, then {REPRODUCE}"
        )
    return setting


def score_file(path: Path, form: str | None, dataset: str | None) -> dict[str, dict[str, Any]]:
    """Official numbers of what another tool wrote; `form` is one of FORMATS, detected by name and content when None.

    LongBench's pred/*.jsonl, version 2's results/*.jsonl, RULER's pred/*.jsonl; kvpress's predictions.csv and an
    lm-eval sample log of either benchmark. One entry per task, and per length where a file holds several; `duplicates`
    counts its rows that repeat an earlier one. A file in which there is nothing to score is refused.
    """
    expected = f"expected one of {', '.join(FORMATS)}"
    if form is not None and form not in FORMATS:
        raise SuiteError(f"got the format {form!r}, {expected}")
    if not path.is_file():
        raise SuiteError(
            f"{path} is {'a folder' if path.is_dir() else 'no file'}; give a file of predictions, {expected}"
        )
    if form == "ruler" or (form is None and _is_ruler_file(path)):
        return _ruler_rows(ruler_predictions.read_answers(path, dataset))
    predictions = longbench_predictions.read_predictions(path, form=form, dataset=dataset)
    if not predictions:
        raise SuiteError(f"{path} holds no prediction, so there is nothing to score; {expected}")
    answers = [_answer(item) for item in predictions]
    rest = [item for item, answer in zip(predictions, answers, strict=True) if answer is None]
    scores = score_predictions(rest, second=True)
    rows = {
        task: {
            "benchmark": "longbench",
            **score.to_record(),
            "duplicates": repeats(item for item in rest if item.task == task),
        }
        for task, score in scores.items()
    }
    return rows | _ruler_rows([answer for answer in answers if answer is not None])


def _is_ruler_file(path: Path) -> bool:
    if path.suffix == ".csv" or path.name.startswith("samples_"):
        return False
    return ruler_predictions.is_official_file(longbench_predictions.first_record(path))


def _answer(item: Prediction) -> Answer | None:
    """A prediction of a RULER task as ruler's Answer; None for any other task."""
    name = ruler_predictions.official_name(item.task)
    return None if name is None else Answer(name, item.length, item.prediction, item.references, item.sample_id)


def _ruler_rows(answers: list[Answer]) -> dict[str, dict[str, Any]]:
    rows = ruler_predictions.score_answers(answers)
    several = {row.task for row in rows if sum(other.task == row.task for other in rows) > 1}
    return {
        f"{row.task}/{row.length}" if row.task in several else row.task: {
            "benchmark": "ruler",
            "metric": f"string_match_{row.metric}",
            "score": row.score,
            "count": row.count,
            "nulls": row.nulls,
            "duplicates": repeats(a for a in answers if (a.task, a.length) == (row.task, row.length)),
            **({} if row.length is None else {"length": row.length}),
        }
        for row in rows
    }
