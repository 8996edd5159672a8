"""Predictions of RULER's tasks that another tool wrote, and the official summary of them.

Released code: NVIDIA/RULER, `scripts/pred/call_api.py` writes `<length>/pred/<task>.jsonl` with `index, pred, input,
outputs, others, truncation, length` (and `<task>-<chunk>.jsonl` when run in chunks); `scripts/eval/evaluate.py` judges
it. kvpress and lm-evaluation-harness write other files with the same content; their task names are known here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruler.data import length_of, read_objects, task_of
from ruler.errors import RulerError
from ruler.metrics import evaluate_task, string_match_all, string_match_part
from ruler.sample import Metric
from ruler.tasks import TASKS, get_task

EXPECTED = "expected a file of the official call_api.py, with pred and outputs on every line"
OTHER_NAMES = {
    "ruler_vt": "vt",
    "ruler_cwe": "cwe",
    "ruler_fwe": "fwe",
    "ruler_qa_squad": "qa_1",
    "ruler_qa_hotpot": "qa_2",
}
"""lm-evaluation-harness's names of the tasks that it does not call by the official name."""


@dataclass(frozen=True)
class Answer:
    """One answer of some model. length: the nominal prompt length in tokens; sample_id: as the file has it. Both are
    None when the file does not say.
    """

    task: str
    length: int | None
    prediction: str
    references: tuple[str, ...]
    sample_id: str | None = None


@dataclass(frozen=True)
class TaskScore:
    """What the official summary says of one task: percent with two decimals, and empty answers of all."""

    task: str
    length: int | None
    metric: Metric
    count: int
    score: float
    nulls: str


def official_name(name: str) -> str | None:
    """The official name of a task under any of its names, None for what is no RULER task."""
    name = OTHER_NAMES.get(name, name)
    return name if name in TASKS["official"] else None


def is_official_file(record: dict[str, Any]) -> bool:
    """Does a line look like the official call_api.py's?"""
    return "pred" in record and ("outputs" in record or "output" in record) and "answers" not in record


def read_answers(path: Path | str, task: str | None = None) -> list[Answer]:
    """All answers of one official file. The path names the task and the length; `task` overrides it."""
    path = Path(path)
    name = official_name(task) if task else task_of(path.parts)
    if name is None:
        expected = ", ".join(TASKS["official"])
        raise RulerError(f"{path} names no RULER task; rename it to <task>.jsonl, or name one of {expected}")
    answers = []
    for number, record in read_objects(path):
        place = f"{path} line {number}"
        if "pred" not in record or not isinstance(record["pred"], str):
            raise RulerError(f"{place}: no text in 'pred'; {EXPECTED}")
        index = record.get("index")
        sample_id = None if index is None else str(index)
        length = length_of(path.parts[-4:])
        answers.append(Answer(name, length, record["pred"], _references(record, place), sample_id))
    if not answers:
        raise RulerError(f"{path} is empty; {EXPECTED}")
    return answers


def _references(record: dict[str, Any], place: str) -> tuple[str, ...]:
    """`outputs`, or `[output]` as the official script reads older files."""
    value = record.get("outputs", [record.get("output")])
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise RulerError(f"{place}: no list of texts in 'outputs', the gold answers; without them there is no score")
    return tuple(value)


def score_answers(answers: Iterable[Answer]) -> list[TaskScore]:
    """One row per task and length, in the order of the file; tasks of several lengths are never averaged here."""
    groups: dict[tuple[str, int | None], list[Answer]] = {}
    for answer in answers:
        if not answer.references:
            raise RulerError(f"{answer.task}: an answer has no references; without them there is no score")
        groups.setdefault((answer.task, answer.length), []).append(answer)
    return [_score(task, length, members) for (task, length), members in groups.items()]


def _score(task: str, length: int | None, members: Sequence[Answer]) -> TaskScore:
    metric = get_task(task).metric
    function = string_match_all if metric == "all" else string_match_part
    score, nulls = evaluate_task(function, [m.prediction for m in members], [m.references for m in members])
    return TaskScore(task, length, metric, len(members), score, nulls)
