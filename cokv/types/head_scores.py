"""Head scores: how important each KV head is."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field

import numpy as np
import torch

from cokv.types.arrays import FloatArray, PerHead, head_array
from cokv.types.errors import CokvError
from cokv.types.files import JSON, named, numbers, read_tensors, write_tensors


@dataclass(frozen=True, eq=False)
class HeadScores(PerHead):
    """Importance of each KV head, with the record of how it was measured."""

    values: FloatArray  # [num_layers, num_kv_heads]
    provenance: dict[str, JSON] = field(default_factory=dict)

    def __post_init__(self) -> None:
        values = head_array(self.values, np.float64, "head scores")
        bad = int(np.count_nonzero(~np.isfinite(values)))
        if bad:
            raise CokvError(
                f"head scores: {bad} of {values.size} values are NaN or infinite, expected finite ones; recompute them"
            )
        object.__setattr__(self, "values", values)
        try:
            provenance = json.loads(json.dumps(self.provenance, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise CokvError(
                f"head scores: provenance is not JSON ({error}); use strings, numbers, lists and dicts only"
            ) from None
        if not isinstance(provenance, dict):
            raise CokvError(f"head scores: provenance is a {type(provenance).__name__}, expected a dict of named facts")
        object.__setattr__(self, "provenance", provenance)

    def require_shape(self, num_layers: int, num_kv_heads: int) -> HeadScores:
        """Return self if the scores fit a model of this shape, else say what does not fit."""
        if self.values.shape != (num_layers, num_kv_heads):
            raise CokvError(
                f"head scores have shape {list(self.values.shape)}, the model needs [num_layers, num_kv_heads] = "
                f"[{num_layers}, {num_kv_heads}]; use scores computed on this model"
            )
        return self

    def save(self, path: str | os.PathLike[str]) -> None:
        write_tensors(
            path, "head_scores", {"values": torch.from_numpy(self.values.copy())}, {"provenance": self.provenance}
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> HeadScores:
        tensors, header = read_tensors(path, "head_scores", ("values",), ("provenance",))
        with named(path):
            return cls(numbers(tensors["values"], torch.float64), header["provenance"])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, HeadScores):
            return NotImplemented
        return np.array_equal(self.values, other.values) and self.provenance == other.provenance
