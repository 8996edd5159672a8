"""The table of methods: name -> scorer, allocator, decode policy, needs, paper. The one list every other part reads.

All share one budget contract, see method.py. Two presets: `normalized`, the default, spends the total exactly, so
that methods can be compared. `official` does what the authors' released code does, rounding leaks included; its note
says which file that is and what differs. Where a released rule cannot be written as a Selection there is no official
preset, and the normalized note says why.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any

from cokv.allocators import Allocator
from cokv.allocators.ada import Ada
from cokv.allocators.cokv import CoKV
from cokv.allocators.pyramid import Pyramid
from cokv.allocators.uniform import Uniform
from cokv.method import Method, Policy, ScoreCache, parameters
from cokv.scorers import Scorer
from cokv.scorers.streaming import Streaming
from cokv.scorers.window_attention import WindowAttention
from cokv.types import JSON, CokvError

__all__ = ["METHODS", "POLICIES", "Method", "MethodEntry", "Preset", "ScoreCache", "describe_methods", "get_method"]

POLICIES: Mapping[Policy, str] = MappingProxyType(
    {
        "grow": "append each new token",
        "evict_oldest": "append each new token, drop the oldest that is no sink",
    }
)


@dataclass(frozen=True)
class Preset:
    scorer: Scorer | None  # None: keeps everything
    allocator: Allocator | None
    note: str

    def parameters(self) -> dict[str, JSON]:
        return parameters(self.scorer, self.allocator)


@dataclass(frozen=True)
class MethodEntry:
    """One row of the table."""

    name: str
    title: str
    paper: str
    code: str
    policy: Policy
    needs_profile: bool
    presets: Mapping[str, Preset]

    @property
    def scorer(self) -> Scorer | None:
        return self.presets["normalized"].scorer

    @property
    def allocator(self) -> Allocator | None:
        return self.presets["normalized"].allocator

    @property
    def needs(self) -> str:
        """What the method asks of a run, in words."""
        window = "attention of the last window_size prompt queries" if self.scorer and self.scorer.window_size else ""
        profile = "head scores" if self.needs_profile else ""
        work = "eviction at each decode step" if self.policy == "evict_oldest" else ""
        return ", ".join(part for part in (window, profile, work) if part) or "nothing"

    def parameters(self, preset: str = "normalized") -> dict[str, JSON]:
        """Every hyper-parameter of a preset with its value there: what `get_method` takes by name."""
        return self._preset(preset).parameters()

    def _preset(self, preset: str) -> Preset:
        if preset not in self.presets:
            raise CokvError(f"{self.name}: {_unknown('preset', preset, self.presets)}")
        return self.presets[preset]


def get_method(name: str, preset: str = "normalized", **params: Any) -> Method:
    """A method by name, e.g. get_method("snapkv", window_size=8). Parameters: METHODS[name].parameters(preset)."""
    if name not in METHODS:
        raise CokvError(_unknown("method", name, METHODS))
    entry = METHODS[name]
    chosen = entry._preset(preset)
    known = chosen.parameters()
    for param in params:
        if param not in known:
            raise CokvError(f"{name}: {_unknown('parameter', param, known)}")
    try:
        scorer, allocator = (_replaced(part, params) for part in (chosen.scorer, chosen.allocator))
    except CokvError as error:
        raise CokvError(f"{name}: {error}") from None
    return Method(
        name, entry.title, preset, scorer, allocator, entry.policy, entry.needs_profile, entry.paper, chosen.note
    )


def describe_methods() -> list[dict[str, str]]:
    """One row per method and preset, for a table on the screen."""
    return [
        {
            "name": entry.name,
            "title": entry.title,
            "preset": preset,
            "scorer": type(chosen.scorer).__name__ if chosen.scorer else "none",
            "allocator": type(chosen.allocator).__name__ if chosen.allocator else "none",
            "policy": entry.policy,
            "needs": entry.needs,
            "parameters": ", ".join(f"{key}={value}" for key, value in chosen.parameters().items()),
            "paper": entry.paper,
            "code": entry.code,
            "note": chosen.note,
        }
        for entry in METHODS.values()
        for preset, chosen in entry.presets.items()
    ]


def _replaced(part: Any, params: Mapping[str, Any]) -> Any:
    if part is None:
        return None
    return replace(part, **{field.name: params[field.name] for field in fields(part) if field.name in params})


def _unknown(what: str, name: str, valid: Iterable[str]) -> str:
    valid = list(valid)
    near = difflib.get_close_matches(str(name).lower().replace("-", "_"), valid, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"unknown {what} {name!r}; {hint}valid: {', '.join(valid) or 'none'}"


def _table(*entries: MethodEntry) -> Mapping[str, MethodEntry]:
    return MappingProxyType(
        {entry.name: replace(entry, presets=MappingProxyType(dict(entry.presets))) for entry in entries}
    )


METHODS: Mapping[str, MethodEntry] = _table(
    MethodEntry(
        name="full",
        title="Full",
        paper="-",
        code="-",
        policy="grow",
        needs_profile=False,
        presets={
            "normalized": Preset(None, None, "keeps every token, whatever the budget"),
            "official": Preset(None, None, "the same as normalized"),
        },
    ),
    MethodEntry(
        name="streamingllm",
        title="StreamingLLM",
        paper="https://arxiv.org/abs/2309.17453",
        code="https://github.com/mit-han-lab/streaming-llm",
        policy="evict_oldest",
        needs_profile=False,
        presets={
            "normalized": Preset(
                Streaming(),
                Uniform(),
                "4 sinks and the newest tokens, after a full prefill, positions kept; no official preset: the released "
                "code evicts while it reads the prompt and renumbers positions in the cache, which is no selection",
            ),
        },
    ),
    MethodEntry(
        name="snapkv",
        title="SnapKV",
        paper="https://arxiv.org/abs/2404.14469",
        code="https://github.com/FasterDecoding/SnapKV",
        policy="grow",
        needs_profile=False,
        presets={
            "normalized": Preset(WindowAttention(), Uniform(), "window attention, the same budget for every head"),
            "official": Preset(
                WindowAttention(
                    window_size=32, kernel_size=5, pooling="avg", reduce="per_query_head", score_dtype="model"
                ),
                Uniform(),
                "snapkv/monkeypatch/snapkv_utils.py: average pooling; keeps a cache per query head, so only a model "
                "whose query heads share no KV head can run it (reduce='group_mean' elsewhere)",
            ),
        },
    ),
    MethodEntry(
        name="pyramidkv",
        title="PyramidKV",
        paper="https://arxiv.org/abs/2406.02069",
        code="https://github.com/Zefan-Cai/KVCache-Factory",
        policy="grow",
        needs_profile=False,
        presets={
            "normalized": Preset(
                WindowAttention(), Pyramid(), "budgets fall from the bottom layer to the top, total kept"
            ),
            "official": Preset(
                WindowAttention(window_size=8, score_dtype="model"),
                Pyramid(exact=False),
                "pyramidkv/pyramidkv_utils.py with run_longbench.py's settings, in its kv_head layout, mean over the "
                "group; the floored step overspends the total",
            ),
        },
    ),
    MethodEntry(
        name="adakv",
        title="AdaKV",
        paper="https://arxiv.org/abs/2407.11550",
        code="https://github.com/FFY0/AdaKV",
        policy="grow",
        needs_profile=False,
        presets={
            "normalized": Preset(
                WindowAttention(), Ada(), "budgets follow the best-scored tokens of each layer, total kept"
            ),
            "official": Preset(
                WindowAttention(score_dtype="model"),
                Ada(exact=False),
                "adaptive_snapkv/monkeypatch/snapkv_utils.py with gqa_support, floor_alpha 0.2, scores not normalized; "
                "each head is rounded alone, so a layer may miss its total",
            ),
        },
    ),
    MethodEntry(
        name="cokv",
        title="CoKV",
        paper="https://arxiv.org/abs/2502.17501",
        code="https://github.com/nawei1010/CoKV",
        policy="grow",
        needs_profile=True,
        presets={
            "normalized": Preset(WindowAttention(), CoKV(), "budgets follow the sliced Shapley values, total kept"),
            "official": Preset(
                WindowAttention(window_size=8, score_dtype="model"),
                CoKV(alpha=20, exact=False),
                "adaptive_kv/monkeypatch/kv_utils.py set_cokv_size; alpha is searched per task there, 20 of 256 heads "
                "is one of its seven values; shares are floored, what passes the prompt's length is lost",
            ),
        },
    ),
)
