"""LU-KV: each head's share of its tokens comes from offline curves, with one row per percent of the whole cache.

arXiv 2602.08585; released in NVIDIA/kvpress, presses/lukv_press.py. For 1, 2, ... 99 percent of the cache, the curves
hold the share of its tokens that each KV head keeps (marginal.py computes them). The profile is an object with
`values` [99, num_layers, num_kv_heads] and `budgets(total, seq_len, reserved)`, such as
cokv.profiles.lukv_file.RatioCurves.

Differs: the released code uses the nearest percent, rounds each layer alone and gives every head at least one slot;
here shares are interpolated linearly between two percents and `integerize` keeps the total over all layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch

from cokv.methods.allocators import LooksAt
from cokv.types import Budgets, CokvError, FloatArray


@runtime_checkable
class Curves(Protocol):
    """Each head's kept share by the global share, and the budgets that follow."""

    @property
    def values(self) -> FloatArray: ...

    def budgets(self, total: int, seq_len: int, reserved: int = 0) -> Budgets: ...


@dataclass(frozen=True)
class LUKV:
    """Splits the total by offline keep-ratio curves."""

    looks_at: ClassVar[LooksAt] = "shape"
    exact: ClassVar[bool] = True

    def budgets(
        self, scores: Sequence[torch.Tensor], total: int, seq_len: int, reserved: int, profile: Curves | None
    ) -> Budgets:
        shape = (len(scores), scores[0].shape[0])
        if not isinstance(profile, Curves) or profile.values.ndim != 3:
            raise CokvError(
                f"LU-KV allocates by curves of keep ratios and got {type(profile).__name__}; "
                "read them with cokv.profiles.lukv_file.read_lukv and pass profile="
            )
        if profile.values.shape[1:] != shape:
            got = " x ".join(map(str, profile.values.shape[1:]))
            raise CokvError(f"curves of {got} heads, the model has {shape[0]} x {shape[1]}; use those of this model")
        return profile.budgets(total, seq_len, reserved)
