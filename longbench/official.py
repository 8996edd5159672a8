"""What the official scripts print of a data set: its score, LongBench-E's length buckets, version 2's six columns.

Released code: THUDM/LongBench, `LongBench/eval.py` and, for version 2, `result.py`. What has no sample has no number:
officially NaN (buckets) or a division by zero (columns), here absent, with the reason beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from longbench import v2
from longbench.metrics import bucket_scores, dataset_score, length_bucket, sample_score
from longbench.tasks import V2, base_name, get_task

BUCKETS = {"0-4k": "below 4000 words", "4-8k": "of 4000 to 7999 words", "8k+": "of 8000 words or more"}
"""LongBench-E's buckets (characters in place of words for Chinese)."""


def is_e(dataset: str) -> bool:
    """Is this a LongBench-E name, such as `qasper_e`?"""
    return get_task(dataset) is not V2 and base_name(dataset) != dataset


def judge_sample(
    dataset: str, prediction: str, ground_truths: Sequence[str], all_classes: Sequence[str] | None = None
) -> float:
    """One answer by the official metric of its data set, in [0, 1]; LongBench-E and version 2 included."""
    if get_task(dataset) is V2:
        return float(v2.judge(prediction, ground_truths[0]))
    return sample_score(base_name(dataset), prediction, ground_truths, all_classes)


def groups_of(dataset: str, record: Mapping[str, Any]) -> dict[str, str]:
    """Which official groups a record belongs to: `length` for LongBench-E; `difficulty` and `length` for version 2."""
    if get_task(dataset) is V2:
        return {"difficulty": record["difficulty"], "length": record["length"]}
    return {"length": length_bucket(record["length"])} if is_e(dataset) else {}


def official_scores(dataset: str, values: Sequence[float], groups: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """`score` in percent as the official script rounds it; `groups`, and `empty` with a reason for each missing one.

    values: per sample, in [0, 1]. groups: `groups_of` of the same samples.
    """
    if get_task(dataset) is V2:
        return _v2(values, groups)
    out: dict[str, Any] = {"score": dataset_score(values)}
    return out | (by_length(values, [group["length"] for group in groups]) if is_e(dataset) else {})


def by_length(values: Sequence[float], buckets: Sequence[str]) -> dict[str, Any]:
    """The score of each bucket that holds samples; the reason for each that does not."""
    within = {"0-4k": 0, "4-8k": 4000, "8k+": 8000}
    scores = bucket_scores(values, [within[bucket] for bucket in buckets])
    present = set(buckets)
    out: dict[str, Any] = {"groups": {name: score for name, score in scores.items() if name in present}}
    missing = {name: f"no sample {lengths}" for name, lengths in BUCKETS.items() if name not in present}
    return out | ({"empty": missing} if missing else {})


def _v2(values: Sequence[float], groups: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    table = v2.accuracy([{"judge": bool(value), **group} for value, group in zip(values, groups, strict=True)])
    columns = {name: score for name, score in table.items() if name != "overall"}
    missing = {name: f"no {name} sample" for name in v2.GROUPS if name not in table}
    return {"score": table["overall"], "groups": columns} | ({"empty": missing} if missing else {})
