"""CoKV's published scores: sums and counts of complementary contributions, one file per task and coalition size.

Source: nawei1010/CoKV, adaptive_kv/cc_scores/*/cc_<task>_<size>.npy (Llama-3-8B), cc_mistral_<task>_<size>.npy, and
adaptive_kv/assets/head_scores/complementary_contributions/cc_qwen3_<task>_size_<size>.npy (Qwen3-32B); written by
experiments/LongBench/importance_evaluation/cal_global_sv.py. Each draw is one coalition S of the file's size:

    cc_left[i]  += U(S) - U(N without S)  and  count_left[i]  += 1   for i in S
    cc_right[i] += U(N without S) - U(S)  and  count_right[i] += 1   for i outside S

over arrays of n + 1 entries of which the last is never used. Player i is layer i // num_kv_heads, KV head
i % num_kv_heads, both counted from 0.

A file states its size in its name only, but it follows from the counts: each draw adds `size` to the sum of count_left.
Both are compared, and files of equal content are reported as copies.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from cokv.profiles.npy import parse_npy, read_bytes
from cokv.types import JSON, CokvError, FloatArray, HeadScores, named

SOURCE = "https://github.com/nawei1010/CoKV"
NUM_KV_HEADS = 8  # every model CoKV publishes scores for
ARRAYS = ("cc_left", "cc_right", "count_left", "count_right")
_NAME = re.compile(r"cc_(?:(mistral|qwen3|llama)_)?(.+?)_(?:size_)?(\d+)(?:_gpu\d+)?\.npy")

Aggregation = Literal["paper", "official"]


@dataclass(frozen=True, eq=False)
class Contributions:
    """One file: sums and counts of the draws at one coalition size."""

    file: str
    model: str  # "" where the name does not say
    task: str
    stated_size: int | None  # coalition size by the file's name
    size: int  # by its counts
    samples: int  # coalitions drawn
    sums: FloatArray  # [n] over draws with the player inside, of U(S) - U(N without S)
    counts: FloatArray  # [n] those draws
    outside_sums: FloatArray  # [n] over draws with the player outside, of U(N without S) - U(S)
    outside_counts: FloatArray  # [n]
    sha256: str  # of the file
    digest: str  # of the arrays: equal where two files hold the same numbers

    @property
    def num_players(self) -> int:
        return self.sums.size

    @property
    def means(self) -> FloatArray:
        """Mean contribution of each player as a member, C(i, size): [n]."""
        if not self.counts.all():
            never = int(np.flatnonzero(self.counts == 0)[0])
            raise CokvError(f"{self.file}: player {never} is in none of the {self.samples} coalitions, it has no mean")
        means: FloatArray = self.sums / self.counts
        return means

    def facts(self) -> dict[str, JSON]:
        return {
            "file": self.file,
            "sha256": self.sha256,
            "content": self.digest,
            "task": self.task,
            "size": self.size,
            "stated_size": self.stated_size,
            "samples": self.samples,
        }


def read_contributions(path: str | os.PathLike[str]) -> Contributions:
    """One published file. Raises CokvError for another kind of file, or counts that no draws can give."""
    data = read_bytes(path)
    name = Path(path).name
    with named(path):
        return _checked(parse_npy(data), name, hashlib.sha256(data).hexdigest())


def is_contributions(value: object) -> bool:
    return isinstance(value, dict) and value.keys() >= {*ARRAYS, "sampling_count"}


def _checked(value: object, name: str, sha256: str) -> Contributions:
    if not is_contributions(value):
        got = (
            f"a dictionary of {[str(key)[:20] for key in [*value][:6]]}"
            if isinstance(value, dict)
            else type(value).__name__
        )
        raise CokvError(f"holds {got}, expected CoKV's dictionary of {', '.join(ARRAYS)} and sampling_count")
    assert isinstance(value, dict)
    samples = value["sampling_count"]
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise CokvError("sampling_count is not a positive whole number, expected the number of coalitions drawn")
    arrays: list[FloatArray] = []
    for key in ARRAYS:
        array = value[key]
        if not isinstance(array, np.ndarray) or array.ndim != 1 or array.size < 3:
            raise CokvError(f"{key} is no array of players, expected one number per player and one unused")
        array = array.astype(np.float64)
        if not np.isfinite(array).all():
            raise CokvError(f"{key} holds NaN or infinite numbers, expected sums and counts")
        if array[-1] != 0:
            raise CokvError(f"the last entry of {key} is {array[-1]:g}, expected the unused 0 after the last player")
        arrays.append(array[:-1])
    sums, outside_sums, counts, outside_counts = arrays
    if len({array.size for array in arrays}) != 1:
        raise CokvError(f"arrays of {[array.size for array in arrays]} players, expected one number")
    are_counts = not np.any(counts % 1) and min(counts.min(), outside_counts.min()) >= 0
    if not are_counts or not np.array_equal(counts + outside_counts, np.full(counts.size, samples)):
        raise CokvError(f"count_left + count_right is not {samples} for every player, expected one side in each draw")
    size, remainder = divmod(int(counts.sum()), samples)
    if remainder or size < 1:
        raise CokvError(f"count_left adds up to {counts.sum():g} over {samples} coalitions: no whole coalition size")
    digest = hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()
    match = _NAME.fullmatch(name)
    model, task, stated = match.groups() if match else (None, Path(name).stem, None)
    return Contributions(
        file=name,
        model=model or "",
        task=task,
        stated_size=int(stated) if stated else None,
        size=size,
        samples=samples,
        sums=sums,
        counts=counts,
        outside_sums=outside_sums,
        outside_counts=outside_counts,
        sha256=sha256,
        digest=digest,
    )


def remarks(files: Sequence[Contributions]) -> list[str]:
    """Which published files are copies of another, and which hold other sizes than their names say."""
    notes = []
    for place, file in enumerate(files):
        original = next((earlier for earlier in files[:place] if earlier.digest == file.digest), None)
        if original is not None:
            notes.append(f"{file.file} is a copy of {original.file}: the same sums and counts, of size {file.size}")
        elif file.stated_size is not None and file.stated_size != file.size:
            notes.append(f"{file.file} holds coalitions of size {file.size}, not {file.stated_size} as its name says")
    return notes


def head_scores(
    files: Sequence[Contributions], aggregation: Aggregation = "paper", shape: tuple[int, int] | None = None
) -> HeadScores:
    """Sliced Shapley values of one task from its files, one per coalition size.

    aggregation="paper": mean over sizes of each player's mean contribution. A draw also gives contributions of the
    players outside, at size n - size; they are used where that is one of the sizes, as in `cokv.game.sliced`.
    aggregation="official": sum over files of the members' means alone, copies and all (kv_utils.py, set_cokv_size).
    Both order the heads alike, up to that second side.

    shape: (num_layers, num_kv_heads) of the model; without it 8 KV heads per layer, as in the released code.
    """
    if not files:
        raise CokvError("no files of contributions, expected at least one coalition size")
    n = files[0].num_players
    for file in files:
        if file.num_players != n or (file.model, file.task) != (files[0].model, files[0].task):
            raise CokvError(
                f"{file.file} ({file.num_players} players) does not go with {files[0].file} ({n} players); "
                "expected the sizes of one task and model"
            )
    layers, heads = shape or (n // NUM_KV_HEADS, NUM_KV_HEADS)
    if layers * heads != n:
        raise CokvError(
            f"{files[0].file} holds {n} players, expected num_layers x num_kv_heads = {layers} x {heads}; "
            "give the shape of the model the scores were made for"
        )
    notes = remarks(files)
    sizes = [file.size for file in files]
    if aggregation == "official":
        values = np.sum([file.means for file in files], axis=0)
    elif aggregation == "paper":
        if len(set(sizes)) != len(sizes):
            raise CokvError(f"coalition sizes {sizes}, expected each once ({'; '.join(notes) or 'leave one file out'})")
        values = np.mean([_both_sides(file, files) for file in files], axis=0)
    else:
        raise CokvError(f"aggregation is {aggregation!r}, expected 'paper' or 'official'")
    provenance: dict[str, JSON] = {
        "kind": "sliced Shapley value, published sums and counts",
        "source": SOURCE,
        "task": files[0].task,
        "aggregation": aggregation,
        "files": [file.facts() for file in files],
        "remarks": list(notes),
        "num_kv_heads": "given" if shape else f"{NUM_KV_HEADS}, as in the released code",
    }
    return HeadScores(values.reshape(layers, heads), provenance)


def _both_sides(file: Contributions, files: Sequence[Contributions]) -> FloatArray:
    """Mean contribution at one size over the draws of that size and the complements of that size: [n]."""
    sums, counts = file.sums.copy(), file.counts.copy()
    for complement in files:
        if complement.num_players - complement.size == file.size:
            sums += complement.outside_sums
            counts += complement.outside_counts
    if not counts.all():
        return file.means
    means: FloatArray = sums / counts
    return means
