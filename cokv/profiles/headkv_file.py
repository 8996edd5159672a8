"""HeadKV's published scores: JSON {"layer-head": [score of one needle, ...]}, one entry per query head.

Source: FYYFU/HeadKV, Important_Head/head_score/*_retrieval_heads.json (R) and *_retrieval_reasoning_heads.json (R2). A
head's score is the mean over its list (headkv/snapkv_utils.py, ReasonSnapKVCluster), entries counted from 0.

The scores are per query head, and HeadKV keeps a cache per query head. To score KV heads, the query heads that share
one are reduced by their mean: CoKV's release averages HeadKV's capacities over `group_size` neighbours
(nawei1010/CoKV, kv_utils.py, set_headkv_size), which is the mean of the scores, the formula being linear. Its sum
(headkv_mask there) orders heads alike. Without a KV head count every query head counts as one, as under MHA.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from cokv.methods.profile_rules import effective_heads
from cokv.profiles.evidence import reliability
from cokv.profiles.npy import read_bytes
from cokv.types import JSON, CokvError, FloatArray, HeadScores, named

SOURCE = "https://github.com/FYYFU/HeadKV"
_KEY = re.compile(r"(0|[1-9]\d{0,3})-(0|[1-9]\d{0,3})")


def read_headkv(path: str | os.PathLike[str], shape: tuple[int, int] | None = None) -> HeadScores:
    """Mean score of each KV head. shape: (num_layers, num_kv_heads) of the model, to reduce query heads to KV heads."""
    data = read_bytes(path)
    with named(path):
        samples = _samples(read_json(data))
        scores = samples.mean(axis=0)
        if not np.isfinite(scores).all():
            raise CokvError("scores too large for a float, expected shares")
        layers, heads = scores.shape
        if shape is not None:
            scores = _reduced(scores, shape)
    provenance: dict[str, JSON] = {
        "kind": "HeadKV score, mean over needles",
        "source": SOURCE,
        "file": Path(path).name,
        "sha256": hashlib.sha256(data).hexdigest(),
        "query_heads": [layers, heads],
        "needles": len(samples),
        "evidence": {"effective_query_heads": effective_heads(scores), "reliability": reliability(samples)},
        "reduction": f"mean over groups of {heads // scores.shape[1]} query heads" if shape else "none: per query head",
    }
    return HeadScores(scores, provenance)


def read_json(data: bytes) -> Any:
    """JSON of an untrusted file. Raises CokvError for NaN, repeated keys, or nesting that exhausts the stack."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        unique_keys = dict(pairs)
        if len(unique_keys) != len(pairs):
            raise ValueError("a key stands twice")
        return unique_keys

    def constant(name: str) -> None:
        raise ValueError(f"{name} is no number")

    try:
        return json.loads(data.decode("utf-8-sig"), object_pairs_hook=unique, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise CokvError(f"not readable JSON ({' '.join(str(error).split())[:80]})") from None


def _samples(value: object) -> FloatArray:
    """Scores of each needle: [needles, num_layers, num_heads]."""
    if not isinstance(value, dict) or not value:
        raise CokvError(f"holds a {type(value).__name__}, expected a JSON object of 'layer-head' keys")
    by_head: dict[tuple[int, int], FloatArray] = {}
    lengths = set()
    for key, scores in value.items():
        place = _KEY.fullmatch(key)
        if place is None:
            raise CokvError(f"key {key[:40]!r}, expected 'layer-head' such as '0-31'")
        if not isinstance(scores, list) or not scores or not all(type(score) in (int, float) for score in scores):
            raise CokvError(f"head {key} has no list of numbers, expected its score for each needle")
        try:
            by_head[int(place[1]), int(place[2])] = np.array(scores, dtype=np.float64)
        except OverflowError:
            raise CokvError(f"head {key} has a score too large for a float, expected shares") from None
        lengths.add(len(scores))
    layers, heads = (max(place[axis] for place in by_head) + 1 for axis in (0, 1))
    if len(by_head) != layers * heads:
        raise CokvError(f"{len(by_head)} heads, expected all {layers} x {heads} up to the highest layer and head")
    if len(lengths) != 1:
        raise CokvError(f"lists of {min(lengths)} to {max(lengths)} needles, expected one number of needles")
    return np.array([[by_head[layer, head] for head in range(heads)] for layer in range(layers)]).transpose(2, 0, 1)


def _reduced(scores: FloatArray, shape: tuple[int, int]) -> FloatArray:
    """[num_layers, num_heads] -> [num_layers, num_kv_heads], the mean over neighbours."""
    layers, heads = scores.shape
    if layers != shape[0] or heads % shape[1]:
        raise CokvError(
            f"holds {layers} layers x {heads} query heads, which do not share {shape[0]} x {shape[1]} KV heads evenly; "
            "give the shape of the model the scores were made for"
        )
    reduced: FloatArray = scores.reshape(layers, shape[1], heads // shape[1]).mean(axis=2)
    return reduced
