"""Budgets: KV slots kept per KV head, window and sinks included."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch

from cokv.types.arrays import IntArray, PerHead, head_array
from cokv.types.errors import CokvError
from cokv.types.files import named, numbers, read_tensors, write_tensors


@dataclass(frozen=True, eq=False)
class Budgets(PerHead):
    """KV slots kept per (layer, KV head)."""

    values: IntArray  # [num_layers, num_kv_heads]

    def __post_init__(self) -> None:
        values = head_array(self.values, np.int64, "budgets")
        if values.min() < 0:
            raise CokvError(
                f"budgets: smallest is {values.min()}, expected 0 or more; a head cannot keep fewer than no tokens"
            )
        object.__setattr__(self, "values", values)

    @property
    def total(self) -> int:
        return int(self.values.sum())

    @property
    def kv_budget(self) -> float:
        """Mean slots per KV head: the one number a user sets."""
        return self.total / self.values.size

    def save(self, path: str | os.PathLike[str]) -> None:
        write_tensors(path, "budgets", {"values": torch.from_numpy(self.values.copy())}, {})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Budgets:
        tensors, _ = read_tensors(path, "budgets", ("values",), ())
        with named(path):
            return cls(numbers(tensors["values"], torch.int64))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Budgets):
            return NotImplemented
        return np.array_equal(self.values, other.values)
