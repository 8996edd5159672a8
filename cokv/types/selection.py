"""Selection: which prompt positions stay, per KV head."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from cokv.types.arrays import IntArray, head_array
from cokv.types.budgets import Budgets
from cokv.types.errors import CokvError
from cokv.types.files import named, numbers, read_tensors, write_tensors


@dataclass(frozen=True, eq=False)
class Selection:
    """Kept prompt positions of every (layer, KV head), flat: head after head, layer after layer, each ascending."""

    positions: torch.Tensor  # int64 [sum(counts)], on the CPU
    counts: IntArray  # [num_layers, num_kv_heads]
    seq_len: int

    def __post_init__(self) -> None:
        counts = head_array(self.counts, np.int64, "selection counts")
        object.__setattr__(self, "counts", counts)
        seq_len, positions = self.seq_len, self.positions
        if isinstance(seq_len, bool) or not isinstance(seq_len, int) or seq_len < 1:
            raise CokvError(f"selection: seq_len is {seq_len!r}, expected a positive whole number")
        if counts.min() < 0 or counts.max() > seq_len:
            raise CokvError(
                f"selection: counts lie in {counts.min()}..{counts.max()}, expected 0..{seq_len} (the prompt's length)"
            )
        if not isinstance(positions, torch.Tensor) or positions.dtype != torch.int64 or positions.device.type != "cpu":
            got = (
                f"{positions.dtype} on {positions.device}"
                if isinstance(positions, torch.Tensor)
                else type(positions).__name__
            )
            raise CokvError(f"selection: positions are {got}, expected an int64 tensor on the CPU")
        if positions.shape != (int(counts.sum()),):
            raise CokvError(
                f"selection: {list(positions.shape)} positions, expected [{int(counts.sum())}], the sum of the counts"
            )
        if positions.numel() == 0:
            return
        flat = positions.numpy()
        if flat.min() < 0 or flat.max() >= seq_len:
            raise CokvError(
                f"selection: positions lie in {flat.min()}..{flat.max()}, expected 0..{seq_len - 1} (inside the prompt)"
            )
        rising = np.diff(flat) > 0
        first = self.starts[1:-1]  # where a head begins, the order starts anew
        rising[first[(first > 0) & (first < flat.size)] - 1] = True
        if not rising.all():
            at = int(np.flatnonzero(~rising)[0])
            raise CokvError(
                f"selection: positions {flat[at]}, {flat[at + 1]} in one head, expected ascending, without repeats"
            )

    @property
    def num_layers(self) -> int:
        return int(self.counts.shape[0])

    @property
    def num_kv_heads(self) -> int:
        return int(self.counts.shape[1])

    @cached_property
    def starts(self) -> IntArray:
        """Where each head begins in `positions`: [num_layers * num_kv_heads + 1], the last is the total."""
        return np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(self.counts.reshape(-1))))

    @property
    def total(self) -> int:
        return int(self.counts.sum())

    @property
    def budgets(self) -> Budgets:
        return Budgets(self.counts)

    def head(self, layer: int, kv_head: int) -> torch.Tensor:
        """Kept positions of one head, ascending: [count] int64, a view."""
        if not (0 <= layer < self.num_layers and 0 <= kv_head < self.num_kv_heads):
            raise CokvError(
                f"selection: no head (layer {layer}, kv_head {kv_head}); "
                f"expected layer 0..{self.num_layers - 1}, kv_head 0..{self.num_kv_heads - 1}"
            )
        player = layer * self.num_kv_heads + kv_head
        return self.positions[int(self.starts[player]) : int(self.starts[player + 1])]

    def mask(self) -> torch.Tensor:
        """bool [num_layers, num_kv_heads, seq_len], True where a token stays."""
        flat = torch.zeros(self.counts.size * self.seq_len, dtype=torch.bool)
        player = torch.repeat_interleave(torch.arange(self.counts.size), torch.tensor(self.counts.reshape(-1)))
        flat[player * self.seq_len + self.positions] = True
        return flat.view(self.num_layers, self.num_kv_heads, self.seq_len)

    @classmethod
    def full(cls, num_layers: int, num_kv_heads: int, seq_len: int) -> Selection:
        """Every token of every head."""
        positions = torch.arange(seq_len).repeat(num_layers * num_kv_heads)
        return cls(positions, np.full((num_layers, num_kv_heads), seq_len, dtype=np.int64), seq_len)

    @classmethod
    def from_mask(cls, mask: torch.Tensor) -> Selection:
        """From bool [num_layers, num_kv_heads, seq_len]."""
        if mask.dtype != torch.bool or mask.dim() != 3:
            raise CokvError(
                f"selection: mask is {mask.dtype} of shape {list(mask.shape)}, "
                "expected bool [num_layers, num_kv_heads, seq_len]"
            )
        mask = mask.cpu()
        counts = mask.sum(dim=-1, dtype=torch.int64).numpy()
        return cls(mask.nonzero()[:, 2].contiguous(), counts, int(mask.shape[2]))

    @classmethod
    def from_heads(cls, heads: Sequence[Sequence[torch.Tensor]], seq_len: int) -> Selection:
        """From one ascending int64 tensor of positions per [layer][kv_head]."""
        widths = {len(layer) for layer in heads}
        if len(widths) != 1 or 0 in widths:
            raise CokvError(
                f"selection: layers list {sorted(widths)} heads, expected the same number, at least 1, in every layer"
            )
        flat = [head.reshape(-1).to(device="cpu", dtype=torch.int64) for layer in heads for head in layer]
        counts = np.array([head.numel() for head in flat], dtype=np.int64).reshape(len(heads), -1)
        return cls(torch.cat(flat), counts, seq_len)

    def save(self, path: str | os.PathLike[str]) -> None:
        tensors = {"positions": self.positions.contiguous(), "counts": torch.from_numpy(self.counts.copy())}
        write_tensors(path, "selection", tensors, {"seq_len": self.seq_len})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Selection:
        tensors, header = read_tensors(path, "selection", ("positions", "counts"), ("seq_len",))
        with named(path):
            return cls(tensors["positions"], numbers(tensors["counts"], torch.int64), header["seq_len"])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Selection):
            return NotImplemented
        same = self.seq_len == other.seq_len and np.array_equal(self.counts, other.counts)
        return same and torch.equal(self.positions, other.positions)
