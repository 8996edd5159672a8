"""MiniLongBench (arXiv 2505.19959): 237 of LongBench's samples, chosen by what they hold.

`minilongbench.tsv` lists task, MiniLongBench's id and the hash of every sample. MiniLongBench renames its samples and,
in lcc and repobench-p, puts the input behind the context, so the hash is of context and input joined, without white
space: it is the same in the official file and in MiniLongBench's. So is the id that a sample has here, MiniLongBench's,
and with it the split into validation and test.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files
from typing import Any

from longbench.data import DataSet, Sample
from longbench.errors import LongBenchError
from longbench.tasks import TASKS

MINI = "mini"


def content_hash(record: Mapping[str, Any]) -> str:
    """sha256 of a record's context and input, joined, without white space."""
    return hashlib.sha256("".join((record["context"] + record["input"]).split()).encode()).hexdigest()


@functools.cache
def mini_samples() -> Mapping[str, Mapping[str, str]]:
    """Per task, the id of each content hash."""
    samples: dict[str, dict[str, str]] = {}
    _, *lines = (files("longbench") / "minilongbench.tsv").read_text(encoding="utf-8").splitlines()
    for line in lines:
        task, sample_id, digest = line.split("\t")
        samples.setdefault(task, {})[digest] = sample_id
    return samples


def check_has_subset(name: str) -> None:
    """Refuses data sets that MiniLongBench does not draw from: LongBench-E and version 2."""
    if name not in mini_samples():
        raise LongBenchError(
            f"MiniLongBench has no {name}, only LongBench's {len(TASKS)} plain data sets; drop `subset`"
        )


def select_mini(data: DataSet, *, partial: bool = False) -> DataSet:
    """The samples of MiniLongBench in `data`, in its order, under MiniLongBench's ids.

    Raises if any lacks, with `partial` only if none is there.
    """
    check_has_subset(data.name)
    ids = mini_samples()[data.name]
    chosen: dict[str, Sample] = {}
    for sample in data.samples:
        digest = content_hash(sample.record)
        if digest not in ids:
            continue
        first = chosen.setdefault(digest, sample)
        if first.answers != sample.answers:
            raise LongBenchError(
                f"{data.source}: {first.id!r} and {sample.id!r} are one text with different answers; fetch it again"
            )
    missing = [sample_id for digest, sample_id in ids.items() if digest not in chosen]
    if missing and (not partial or not chosen):
        raise LongBenchError(
            f"{data.source}: lacks {len(missing)} of MiniLongBench's {len(ids)} samples of {data.name}, {missing[0]} "
            "first; give the official file or MiniLongBench's own, or set partial to use a part of it knowingly"
        )
    samples = tuple(replace(sample, id=ids[digest]) for digest, sample in chosen.items())
    return replace(data, samples=samples, subset=MINI)
