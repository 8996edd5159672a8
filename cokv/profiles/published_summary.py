"""Published profiles side by side, as one record: the files' contents, the budgets they lead to, how far they agree.

A profile is one task's files of one method. Budgets are the released formula's on the released aggregate ("official")
and ours ("normalized") under one total. Agreement is the correlation over heads, of scores between coalition sizes of a
profile and between profiles of one shape; only ranks (Spearman) are comparable between methods.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from cokv.methods.allocators import Allocator
from cokv.methods.allocators.cokv import CoKV
from cokv.methods.allocators.headkv import HeadKV
from cokv.methods.allocators.retrieval_streaming import RetrievalStreaming
from cokv.profiles.contributions import Contributions, head_scores, remarks
from cokv.profiles.duo_file import DuoPattern
from cokv.profiles.load import expand, read_published
from cokv.profiles.lukv_file import RatioCurves
from cokv.types import CokvError, FloatArray, HeadScores

SPARSITIES = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class SummarySettings:
    """The setting that budgets are computed for."""

    kv_budget: int = 128  # slots per KV head, window included
    window_size: int = 8
    prompt_tokens: int = 8192
    alpha: int = 20  # of the official CoKV formula
    beta: float = 1.5  # of HeadKV's
    shape: tuple[int, int] | None = None  # (num_layers, num_kv_heads)

    def __post_init__(self) -> None:
        if not 0 <= self.window_size < self.kv_budget <= self.prompt_tokens:
            raise CokvError(
                f"window_size {self.window_size}, kv_budget {self.kv_budget}, prompt_tokens {self.prompt_tokens}: "
                "expected window_size < kv_budget <= prompt_tokens"
            )


@dataclass(eq=False)
class _Profile:
    name: str
    values: FloatArray
    record: dict[str, Any] = field(default_factory=dict)


def summarize(paths: Sequence[str | os.PathLike[str]], setting: SummarySettings | None = None) -> dict[str, Any]:
    """The record of all profiles in these files and folders: plain JSON."""
    setting = setting or SummarySettings()
    files = expand(paths)
    if not files:
        raise CokvError("no files, expected at least one published profile")
    contents = [(path, read_published(path, setting.shape)) for path in files]
    contributions = [content for _, content in contents if isinstance(content, Contributions)]
    groups: dict[tuple[str, str], list[Contributions]] = {}
    for file in contributions:
        groups.setdefault((file.model, file.task), []).append(file)
    profiles = [_cokv(sorted(group, key=lambda file: file.size), setting) for group in groups.values()]
    for path, content in contents:
        if isinstance(content, HeadScores):
            profiles.append(_scores(_name(path), content, setting))
        elif isinstance(content, DuoPattern):
            profiles.append(_duo(_name(path), content, setting))
        elif isinstance(content, RatioCurves):
            profiles.append(_lukv(_name(path), content, setting))
    return {
        "kind": "published profiles",
        "kv_budget": setting.kv_budget,
        "window_size": setting.window_size,
        "prompt_tokens": setting.prompt_tokens,
        "files": [
            {**file.facts(), "players": file.num_players, **_spread(file.means)} for file in contributions
        ],
        "remarks": remarks(contributions),
        "profiles": [
            {
                "name": profile.name,
                "num_layers": profile.values.shape[0],
                "num_kv_heads": profile.values.shape[1],
                "values": profile.values.tolist(),
                **_spread(profile.values),
                **profile.record,
            }
            for profile in profiles
        ],
        "between_profiles": _agreement([profile.name for profile in profiles], [p.values for p in profiles]),
    }  # fmt: skip


def _name(path: Path) -> str:
    """A short name: the authors' file name without what all of theirs share."""
    for ending, kind in (("_retrieval_reasoning_heads", "R2"), ("_retrieval_heads", "R")):
        if path.stem.endswith(ending):
            return f"{kind} {path.stem.removesuffix(ending)}"
    return path.parent.name if path.stem == "full_attention_heads" else path.stem


def _cokv(files: list[Contributions], setting: SummarySettings) -> _Profile:
    first_of_content: dict[str, Contributions] = {}
    for file in files:
        first_of_content.setdefault(file.digest, file)
    unique = list(first_of_content.values())
    official = head_scores(files, "official", setting.shape)
    ours = head_scores(unique, "paper", setting.shape)
    name = f"{files[0].model}/{files[0].task}" if files[0].model else files[0].task
    record: dict[str, Any] = {
        "method": "CoKV",
        "provenance": ours.provenance,
        "sizes": [file.size for file in unique],
        "between_sizes": _agreement([str(file.size) for file in unique], [file.means for file in unique]),
        "budgets": [
            _budgets("official", CoKV(alpha=setting.alpha, exact=False), official, setting),
            _budgets("normalized", CoKV(), ours, setting),
        ],
    }
    return _Profile(name, ours.values, record)


def _scores(name: str, scores: HeadScores, setting: SummarySettings) -> _Profile:
    """Budgets of Shapley values by CoKV's formula, of other scores by HeadKV's, which needs scores of 0 or more."""
    if "shapley" in str(scores.provenance.get("kind", "")).lower() or scores.values.min() < 0:
        allocators: tuple[Allocator, Allocator] = (CoKV(alpha=setting.alpha, exact=False), CoKV())
        method = "CoKV"
    else:
        allocators = (HeadKV(setting.beta, exact=False), HeadKV(setting.beta))
        method = "HeadKV"
    presets = zip(("official", "normalized"), allocators, strict=True)
    budgets = [_budgets(preset, allocator, scores, setting) for preset, allocator in presets]
    return _Profile(name, scores.values, {"method": method, "provenance": scores.provenance, "budgets": budgets})


def _duo(name: str, pattern: DuoPattern, setting: SummarySettings) -> _Profile:
    """Two classes: what a share of streaming heads costs at this prompt length, per head."""
    minimum = pattern.sink_size + pattern.recent_size
    masks = []
    for sparsity in SPARSITIES:
        mask = pattern.retrieval_heads(sparsity)
        slots = np.where(mask, setting.prompt_tokens, min(minimum, setting.prompt_tokens))
        masks.append({"sparsity": sparsity, "retrieval_heads": int(mask.sum()), "kv_budget": float(slots.mean())})
    record: dict[str, Any] = {"method": "DuoAttention", "provenance": pattern.provenance, "masks": masks}
    if setting.kv_budget < minimum:
        record["infeasible"] = (
            f"needs sink + recent = {minimum} slots per head, more than the kv_budget of {setting.kv_budget}"
        )
    else:
        sinks = replace(setting, window_size=pattern.sink_size)
        record["budgets"] = [_budgets("normalized", RetrievalStreaming(pattern.recent_size), pattern.scores(), sinks)]
    return _Profile(name, pattern.gates, record)


def _lukv(name: str, curves: RatioCurves, setting: SummarySettings) -> _Profile:
    shares = curves.at(setting.kv_budget / setting.prompt_tokens)
    budgets = curves.budgets(setting.kv_budget * shares.size, setting.prompt_tokens, setting.window_size)
    records = [_budget_record("normalized", {}, budgets.values, setting)]
    return _Profile(name, shares, {"method": "LU-KV", "provenance": curves.provenance, "budgets": records})


def _budgets(preset: str, allocator: Allocator, scores: HeadScores, setting: SummarySettings) -> dict[str, Any]:
    layers, heads = scores.values.shape
    blank = [torch.zeros(heads, 1)] * layers  # these allocators use shapes, never tokens
    total = setting.kv_budget * layers * heads
    budgets = allocator.budgets(blank, total, setting.prompt_tokens, setting.window_size, scores)
    parameters = {key: value for key, value in vars(allocator).items() if key != "exact" and value is not None}
    return _budget_record(preset, parameters, budgets.values, setting)


def _budget_record(preset: str, parameters: dict[str, Any], values: Any, setting: SummarySettings) -> dict[str, Any]:
    return {
        "preset": preset,
        "parameters": parameters,
        "values": values.tolist(),
        "total": int(values.sum()),
        "expected_total": setting.kv_budget * values.size,
        "min": int(values.min()),
        "max": int(values.max()),
        "window_only": int((values <= setting.window_size).sum()),
    }


def _spread(values: FloatArray) -> dict[str, float]:
    return {"min": float(values.min()), "mean": float(values.mean()), "max": float(values.max())}


def _agreement(names: list[str], values: list[FloatArray]) -> dict[str, Any]:
    """Correlations over heads between all pairs; null where the shapes differ or a side is constant."""
    spearman: list[list[float | None]] = []
    pearson: list[list[float | None]] = []
    for first in values:
        pairs = [_correlations(first, second) for second in values]
        spearman.append([pair[0] for pair in pairs])
        pearson.append([pair[1] for pair in pairs])
    return {"names": names, "spearman": spearman, "pearson": pearson}


def _correlations(first: FloatArray, second: FloatArray) -> tuple[float | None, float | None]:
    if first.shape != second.shape or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None, None
    flat = first.ravel(), second.ravel()
    return float(stats.spearmanr(*flat).statistic), float(stats.pearsonr(*flat).statistic)
