"""The categories of LongBench and RULER, in the papers' order, with the short names that their tables use.

LongBench: Bai et al., arXiv 2308.14508, table 2; RULER: Hsieh et al., arXiv 2404.06654, section 3. Data of these two
papers, kept here because reports knows no benchmark; tests hold it against the benchmarks' own lists.
"""

from __future__ import annotations

from collections.abc import Iterable

_LONGBENCH: dict[str, dict[str, str]] = {
    "Single-document QA": {
        "narrativeqa": "NrtvQA", "qasper": "Qasper", "multifieldqa_en": "MF-en", "multifieldqa_zh": "MF-zh",
    },
    "Multi-document QA": {
        "hotpotqa": "HotpotQA", "2wikimqa": "2WikiMQA", "musique": "Musique", "dureader": "DuReader",
    },
    "Summarization": {"gov_report": "GovReport", "qmsum": "QMSum", "multi_news": "MultiNews", "vcsum": "VCSUM"},
    "Few-shot learning": {"trec": "TREC", "triviaqa": "TriviaQA", "samsum": "SAMSum", "lsht": "LSHT"},
    "Synthetic": {"passage_count": "PCount", "passage_retrieval_en": "PR-en", "passage_retrieval_zh": "PR-zh"},
    "Code": {"lcc": "LCC", "repobench-p": "RB-P"},
}  # fmt: skip
_RULER: dict[str, dict[str, str]] = {
    "Retrieval": {
        "niah_single_1": "S-1", "niah_single_2": "S-2", "niah_single_3": "S-3", "niah_multikey_1": "MK-1",
        "niah_multikey_2": "MK-2", "niah_multikey_3": "MK-3", "niah_multivalue": "MV", "niah_multiquery": "MQ",
    },
    "Multi-hop tracing": {"vt": "VT"},
    "Aggregation": {"cwe": "CWE", "fwe": "FWE"},
    "QA": {"qa_1": "QA-1", "qa_2": "QA-2"},
}  # fmt: skip
CATEGORIES: dict[str, dict[str, dict[str, str]]] = {
    "longbench": _LONGBENCH,
    "longbench_mini": _LONGBENCH,
    "longbench_e": _LONGBENCH,
    "ruler": _RULER,
}


def grouped(benchmark: str, tasks: Iterable[str]) -> dict[str, list[str]]:
    """Category -> its tasks among `tasks`, both in the paper's order; "" for tasks that no category knows, last."""
    present = set(tasks)
    out: dict[str, list[str]] = {}
    for category, names in CATEGORIES.get(benchmark, {}).items():
        members = [task for name in names for task in (name, f"{name}_e") if task in present]
        if members:
            out[category] = members
    known = {task for members in out.values() for task in members}
    if rest := sorted(present - known):
        out[""] = rest
    return out


def category(benchmark: str, task: str) -> str | None:
    """The category of a task; None where no paper gives it one."""
    return next((name for name in grouped(benchmark, [task]) if name), None)


def short_name(benchmark: str, task: str) -> str:
    """As the papers' tables abbreviate it; the task's own name where they do not."""
    base = task.removesuffix("_e")
    for names in CATEGORIES.get(benchmark, {}).values():
        if base in names:
            return names[base] + ("-E" if task != base else "")
    return task
