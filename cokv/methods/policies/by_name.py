"""Policies by the name that a method's row gives them, with the method's own parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from cokv.cache.policies import Compensate, EvictOldest, Grow, Policy, Quantize, Recall
from cokv.cache.policies.prune_channels import PruneChannels
from cokv.cache.policies.quantize import bits_at_random, bits_by_score
from cokv.methods.policies.cake import CakeEviction
from cokv.methods.policies.fastgen import FastGenEviction
from cokv.methods.policies.h2o import H2OEviction
from cokv.methods.policies.scissorhands import ScissorhandsEviction
from cokv.methods.policies.tova import TOVAEviction
from cokv.types import CokvError, HeadScores

SPLITS = ("even", "scores", "random")


@dataclass(frozen=True)
class Setting:
    """What a policy is made for: slots per head, the method's parameters, and the heads with their scores."""

    kv_budget: int | None
    parameters: Mapping[str, Any]
    heads: tuple[int, int] | None = None  # num_layers, num_kv_heads
    scores: HeadScores | None = None

    def limit(self) -> int:
        if self.kv_budget is None:
            raise CokvError("this policy keeps each head within kv_budget and got none; set kv_budget")
        return self.kv_budget


@dataclass(frozen=True)
class Named:
    """One name: what it does in words, its own parameters (others are the scorer's), and how it is made.

    `sized`: it needs kv_budget, even where the selection is everything.
    """

    does: str
    make: Callable[[Setting], Policy]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    sized: bool = True


def _quantize(setting: Setting) -> Quantize:
    told = {**BY_NAME["quantize"].parameters, **setting.parameters}
    bits, split = told["bits"], told["split"]
    if split not in SPLITS:
        raise CokvError(f"split is {split!r}; expected one of {', '.join(SPLITS)}")
    if split == "scores":
        if setting.scores is None:
            raise CokvError(
                "bits by head score need head scores and got none; compute them on this model or load a file"
            )
        bits = bits_by_score(setting.scores, bits)
    elif split == "random":
        if setting.heads is None:
            raise CokvError("a random split of bits needs to know the heads; give num_layers and num_kv_heads")
        bits = bits_at_random(*setting.heads, bits, told["seed"])
    return Quantize(bits, told["group"], told["residual"])


def _prune_channels(setting: Setting) -> PruneChannels:
    told = {**BY_NAME["prune_channels"].parameters, **setting.parameters}
    return PruneChannels(told["pruned"], told["window_size"], told["recent"])


BY_NAME: Mapping[str, Named] = MappingProxyType(
    {
        "grow": Named("append each new token", lambda s: Grow(), sized=False),
        "evict_oldest": Named(
            "append each new token, drop the oldest that is no sink",
            lambda s: EvictOldest(s.limit(), s.parameters["num_sinks"]),
        ),
        "evict_streaming": Named(
            "in heads that lost tokens, each new token takes the place of the oldest that is no sink",
            lambda s: EvictOldest(None, s.parameters["num_sinks"]),
            sized=False,
        ),
        "evict_h2o": Named(
            "drop the token with the least attention so far, never the newest share",
            lambda s: H2OEviction(s.limit(), s.parameters.get("recent_share", 0.5)),
        ),
        "evict_scissorhands": Named(
            "drop the token that most of the last queries passed over, never the newest",
            lambda s: ScissorhandsEviction(s.limit(), s.parameters.get("history", 400), s.parameters.get("recent", 10)),
        ),
        "evict_tova": Named("drop the token that the newest query looks at least", lambda s: TOVAEviction(s.limit())),
        "evict_fastgen": Named(
            "drop the token that is lowest in the tiers; heads that kept a long prompt whole grow",
            lambda s: FastGenEviction(
                s.limit(), s.parameters.get("frequent_share", 0.3), s.parameters.get("local_share", 0.3)
            ),
        ),
        "evict_cake": Named(
            "drop the token that the newest query looks at least, pooled, never the newest window",
            lambda s: CakeEviction(s.limit(), *(s.parameters[key] for key in ("window_size", "kernel_size", "gamma"))),
        ),
        "compensate": Named(
            "in heads that lost tokens, one slot stands for all of them, and the oldest that is no sink joins it",
            lambda s: Compensate(s.parameters.get("num_sinks", 4)),
            sized=False,
        ),
        "quantize": Named(
            "pack older tokens into a few bits",
            _quantize,
            MappingProxyType({"bits": 2, "split": "even", "seed": 0, "group": 32, "residual": 128}),
            sized=False,
        ),
        "prune_channels": Named(
            "drop the key channels that the last queries use least, in all but the newest tokens",
            _prune_channels,
            MappingProxyType({"pruned": 0.4, "window_size": 32, "recent": 32}),
            sized=False,
        ),
        "recall": Named(
            "bring the most wanted pages back from CPU memory",
            lambda s: Recall(s.limit(), s.parameters.get("page", 32)),
            MappingProxyType({"page": 32}),
        ),
    }
)


def policy_named(
    name: str,
    kv_budget: int | None,
    parameters: Mapping[str, Any],
    heads: tuple[int, int] | None = None,
    scores: HeadScores | None = None,
) -> Policy:
    """The policy of a method's row. `kv_budget`: slots per head; `parameters`: the method's."""
    if name not in BY_NAME:
        raise CokvError(f"unknown policy {name!r}; expected one of {', '.join(BY_NAME)}")
    return BY_NAME[name].make(Setting(kv_budget, parameters, heads, scores))
