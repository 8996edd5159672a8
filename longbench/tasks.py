"""The one table of LongBench v1's 21 data sets (13 of them also in LongBench-E), and v2's one task.

Papers: LongBench, arXiv 2308.14508; LongBench v2, arXiv 2412.15204. Released code: THUDM/LongBench, `eval.py`
(metrics), `pred.py` (chat template, stop and first-line rules), `config/dataset2maxlen.json` (generation lengths).

Wordings of prompts are not here: they are read from the official file (`templates.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from longbench.errors import LongBenchError

CATEGORIES = ("single_doc_qa", "multi_doc_qa", "summarization", "few_shot", "synthetic", "code")


@dataclass(frozen=True)
class Task:
    """How one data set is prompted and scored.

    metric: name of the function in `longbench.metrics` (v2: `accuracy`). max_new_tokens: generation length in tokens.
    chat_template: may a chat template wrap the prompt. first_line: only the first line is judged.
    stop_at_newline: generation ends at a newline, after at least one token. samples, samples_e: official counts of
    the plain and the -E file (None: there is no -E file). version: raised when anything here changes a score.
    """

    name: str
    category: str
    language: str
    metric: str
    max_new_tokens: int
    samples: int
    samples_e: int | None = None
    chat_template: bool = True
    first_line: bool = False
    stop_at_newline: bool = False
    version: int = 1


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("narrativeqa", "single_doc_qa", "en", "qa_f1_score", 128, 200),
        Task("qasper", "single_doc_qa", "en", "qa_f1_score", 128, 200, 224),
        Task("multifieldqa_en", "single_doc_qa", "en", "qa_f1_score", 64, 150, 150),
        Task("multifieldqa_zh", "single_doc_qa", "zh", "qa_f1_zh_score", 64, 200),
        Task("hotpotqa", "multi_doc_qa", "en", "qa_f1_score", 32, 200, 300),
        Task("2wikimqa", "multi_doc_qa", "en", "qa_f1_score", 32, 200, 300),
        Task("musique", "multi_doc_qa", "en", "qa_f1_score", 32, 200),
        Task("dureader", "multi_doc_qa", "zh", "rouge_zh_score", 128, 200),
        Task("gov_report", "summarization", "en", "rouge_score", 512, 200, 300),
        Task("qmsum", "summarization", "en", "rouge_score", 512, 200),
        Task("multi_news", "summarization", "en", "rouge_score", 512, 200, 294),
        Task("vcsum", "summarization", "zh", "rouge_zh_score", 512, 200),
        Task("trec", "few_shot", "en", "classification_score", 64, 200, 300, chat_template=False, first_line=True),
        Task("triviaqa", "few_shot", "en", "qa_f1_score", 32, 200, 300, chat_template=False, first_line=True),
        Task(
            "samsum",
            "few_shot",
            "en",
            "rouge_score",
            128,
            200,
            300,
            chat_template=False,
            first_line=True,
            stop_at_newline=True,
        ),
        Task("lsht", "few_shot", "zh", "classification_score", 64, 200, chat_template=False, first_line=True),
        Task("passage_count", "synthetic", "en", "count_score", 32, 200, 300),
        Task("passage_retrieval_en", "synthetic", "en", "retrieval_score", 32, 200, 300),
        Task("passage_retrieval_zh", "synthetic", "zh", "retrieval_zh_score", 32, 200),
        Task("lcc", "code", "code", "code_sim_score", 64, 500, 300, chat_template=False),
        Task("repobench-p", "code", "code", "code_sim_score", 64, 500, 300, chat_template=False),
    )
}
"""LongBench v1 by data set name."""

TASKS_E: tuple[str, ...] = tuple(name for name, task in TASKS.items() if task.samples_e is not None)
"""The data sets of LongBench-E, whose files end in `_e.jsonl`."""

V2 = Task("longbench_v2", "multiple_choice", "en", "accuracy", 128, 503)
"""LongBench v2: 503 four-option questions (zero-shot, without chain of thought)."""


def get_task(name: str) -> Task:
    """The task of a data set; `qasper_e` names the LongBench-E file of `qasper`."""
    if name == V2.name:
        return V2
    base = base_name(name)
    if base not in TASKS:
        raise LongBenchError(f"got the data set {name!r}, expected one of {', '.join(TASKS)} or {V2.name}")
    if base != name and base not in TASKS_E:
        raise LongBenchError(f"got {name!r}, but LongBench-E only has {', '.join(TASKS_E)}; use {base!r}")
    return TASKS[base]


def base_name(name: str) -> str:
    """`qasper_e` -> `qasper`."""
    return name.removesuffix("_e")


def official_count(name: str) -> int:
    """How many samples the official file of this data set holds."""
    task = get_task(name)
    if name != task.name:
        assert task.samples_e is not None
        return task.samples_e
    return task.samples


@dataclass(frozen=True)
class CategoryMean:
    """Unrounded mean of the data set scores of one category, in their unit, and which data sets it is over."""

    mean: float
    datasets: tuple[str, ...]
    missing: tuple[str, ...]


def category_means(scores: Mapping[str, float]) -> dict[str, CategoryMean]:
    """Data set -> score to category -> mean. A category without any score is absent; a partial one names the gap."""
    means: dict[str, CategoryMean] = {}
    unknown = [name for name in scores if name not in TASKS]
    if unknown:
        raise LongBenchError(f"got scores of {', '.join(unknown)}, expected data sets among {', '.join(TASKS)}")
    for category in CATEGORIES:
        members = [task.name for task in TASKS.values() if task.category == category]
        present = tuple(name for name in members if name in scores)
        if present:
            missing = tuple(name for name in members if name not in scores)
            means[category] = CategoryMean(fmean(scores[name] for name in present), present, missing)
    return means
