"""Arrays with one number per (layer, KV head), and the names of their types."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from cokv.types.errors import CokvError

FloatArray: TypeAlias = npt.NDArray[np.float64]
IntArray: TypeAlias = npt.NDArray[np.int64]


def head_array(values: object, dtype: type[np.generic], what: str) -> Any:
    """A read-only [num_layers, num_kv_heads] copy in the given dtype, no number changed on the way."""
    array_like = np.asarray(values)
    whole = np.issubdtype(array_like.dtype, np.integer)
    if not (whole or (np.issubdtype(array_like.dtype, np.floating) and np.issubdtype(dtype, np.floating))):
        raise CokvError(f"{what}: numbers of type {array_like.dtype}, expected {np.dtype(dtype).name}")
    if array_like.ndim != 2 or array_like.size == 0:
        raise CokvError(
            f"{what}: shape {list(array_like.shape)}, expected [num_layers, num_kv_heads] with at least one head"
        )
    array = np.array(array_like, dtype=dtype, order="C")
    array.setflags(write=False)
    return array


class PerHead:
    """The shape of what holds one number per KV head in `values`."""

    values: Any

    @property
    def num_layers(self) -> int:
        return int(self.values.shape[0])

    @property
    def num_kv_heads(self) -> int:
        return int(self.values.shape[1])
