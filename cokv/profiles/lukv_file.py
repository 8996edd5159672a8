"""LU-KV's curves: the share of its tokens that each KV head keeps when the whole cache keeps 1, 2, ... 99 percent.

LU-KV, arXiv 2602.08585: profiling prompts are solved for every global ratio and the heads' shares averaged (see
cokv/profiles/lukv_curves.py). Used online by looking up, then rounding: the global ratio's line of shares (between two
lines, on the straight line) times the prompt's length.

The published `.npy`, [99, num_layers, num_kv_heads], holds the complement: line t - 1 is the share of its tokens that
each head *drops* when t percent of the cache is dropped. baidu-baige/LU-KV writes 1 - kept / length
(evaluation/curve_data/step2_compute_curve.py), and NVIDIA/kvpress 0.5.5 (presses/lukv_press.py) reads the line
round(100 * compression_ratio) - 1 and keeps 1 minus it. `read_lukv` converts them: both directions rise and have the
same means, so no check could distinguish them.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from cokv.methods.allocators.integerize import integerize
from cokv.profiles.npy import parse_npy, read_bytes
from cokv.types import JSON, Budgets, CokvError, FloatArray, named, read_tensors, write_tensors

KIND = "ratio_curves"  # of our own files
RATIOS = 99
TOLERANCE = 1e-6  # curves are stored in single precision


@dataclass(frozen=True, eq=False)
class RatioCurves:
    """Kept share of each head by global share: values [99, num_layers, num_kv_heads], line r - 1 for r percent."""

    values: FloatArray
    provenance: dict[str, JSON] = field(default_factory=dict)

    def __post_init__(self) -> None:
        values = np.asarray(self.values, dtype=np.float64)
        if values.ndim != 3 or values.shape[0] != RATIOS or values.size == 0:
            raise CokvError(f"curves of shape {list(values.shape)}, expected [{RATIOS}, num_layers, num_kv_heads]")
        if not np.isfinite(values).all() or values.min() < -TOLERANCE or values.max() > 1 + TOLERANCE:
            raise CokvError("curves leave 0..1, expected shares of a head's tokens")
        steps = np.diff(values, axis=0)
        if steps.min() < -TOLERANCE:
            ratio, layer, head = (int(place) for place in np.unravel_index(steps.argmin(), steps.shape))
            raise CokvError(
                f"the curve of layer {layer}, KV head {head} falls between {ratio + 1} and {ratio + 2} percent; "
                "a head may not lose tokens when the cache grows"
            )
        values = np.maximum.accumulate(np.clip(values, 0.0, 1.0), axis=0)
        values.setflags(write=False)
        object.__setattr__(self, "values", values)

    def at(self, ratio: float) -> FloatArray:
        """Shares [num_layers, num_kv_heads] at a global ratio of 0..1; from 0 at 0, to 1 at 1."""
        if not 0 <= ratio <= 1:
            raise CokvError(f"ratio is {ratio!r}, expected the kept share of the cache, 0 to 1")
        place = ratio * (RATIOS + 1)
        below = min(int(place), RATIOS)
        lines = [np.zeros(self.values.shape[1:]), *self.values, np.ones(self.values.shape[1:])]
        shares: FloatArray = lines[below] + (place - below) * (lines[below + 1] - lines[below])
        return shares

    def budgets(self, total: int, seq_len: int, reserved: int = 0) -> Budgets:
        """The shares at total / (heads * seq_len), as whole slots that add up to the total."""
        shares = self.at(min(total / (self.values[0].size * seq_len), 1.0))
        return integerize(shares * seq_len, total, seq_len, reserved)

    def require_shape(self, num_layers: int, num_kv_heads: int) -> RatioCurves:
        """Self, if the curves fit a model of this shape."""
        if self.values.shape[1:] != (num_layers, num_kv_heads):
            got = " x ".join(map(str, self.values.shape[1:]))
            raise CokvError(f"curves of {got} heads, expected {num_layers} x {num_kv_heads}; use those of this model")
        return self

    def save(self, path: str | os.PathLike[str]) -> None:
        write_tensors(path, KIND, {"values": torch.from_numpy(self.values.copy())}, {"provenance": self.provenance})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> RatioCurves:
        tensors, header = read_tensors(path, KIND, ("values",), ("provenance",))
        with named(path):
            return cls(tensors["values"].numpy(), header["provenance"])


def read_lukv(path: str | os.PathLike[str], shape: tuple[int, int] | None = None) -> RatioCurves:
    """Kept shares out of a published `.npy` of dropped shares. shape: (num_layers, num_kv_heads) of the model."""
    data = read_bytes(path)
    with named(path):
        value = parse_npy(data)
        if not isinstance(value, np.ndarray):
            raise CokvError(f"holds a {type(value).__name__}, expected an array [{RATIOS}, num_layers, num_kv_heads]")
        provenance: dict[str, JSON] = {
            "kind": "LU-KV keep-ratio curves",
            "read_as": "dropped shares, turned into kept ones",
            "source": "https://arxiv.org/abs/2602.08585",
            "file": Path(path).name,
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        curves = RatioCurves(1 - value[::-1].astype(np.float64), provenance)
        return curves.require_shape(*shape) if shape else curves
