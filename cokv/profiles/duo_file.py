"""DuoAttention's published patterns: a table of gates (TSV, layers x KV heads) and the training's config (JSON).

Source: mit-han-lab/duo-attention, attn_patterns/*/full_attention_heads.tsv and config.json. Gates are clipped to 0..1
(duo_attn/utils.py, load_attn_pattern); sink_size and recent_size of the config are what a streaming head keeps.

A head is a retrieval head, and keeps everything, where its gate reaches the `sparsity` quantile of all gates
(sparsify_attention_heads). The released code first adds noise of up to 1e-6 to the gates, from NumPy's global state,
to break ties: many gates are 0 or 1 exactly. With all gates distinct, n - ceil(sparsity * (n - 1)) of n heads reach the
quantile, which fixes the number of retrieval heads.

Differs: no noise. That many heads of the highest gates are chosen, ties to the lower index; which heads they are
differs from a released draw only among gates within 1e-6 of the threshold.
"""

from __future__ import annotations

import codecs
import hashlib
import math
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cokv.profiles.headkv_file import read_json
from cokv.profiles.npy import read_bytes
from cokv.types import JSON, CokvError, FloatArray, HeadScores, named

SOURCE = "https://github.com/mit-han-lab/duo-attention"
MAX_BYTES = 2**20


@dataclass(frozen=True, eq=False)
class DuoPattern:
    """Gates of KV heads and what a streaming head keeps."""

    gates: FloatArray  # [num_layers, num_kv_heads] in 0..1
    sink_size: int  # tokens
    recent_size: int  # tokens
    provenance: dict[str, JSON] = field(default_factory=dict)

    def scores(self) -> HeadScores:
        return HeadScores(self.gates, self.provenance)

    def retrieval_heads(self, sparsity: float) -> npt.NDArray[np.bool_]:
        """The heads that keep everything when a share `sparsity` of them streams: bool [num_layers, num_kv_heads]."""
        if not 0 <= sparsity <= 1:
            raise CokvError(f"sparsity is {sparsity!r}, expected the share of streaming heads, 0 to 1")
        n = self.gates.size
        count = 0 if sparsity == 1 else n - math.ceil(sparsity * (n - 1))
        mask = np.zeros(n, dtype=np.bool_)
        mask[np.argsort(-self.gates, axis=None, kind="stable")[:count]] = True
        return mask.reshape(self.gates.shape)


def read_duo(
    path: str | os.PathLike[str],
    config: str | os.PathLike[str] | None = None,
    shape: tuple[int, int] | None = None,
) -> DuoPattern:
    """A table of gates and its config, by default `<name>.config.json` or `config.json` in the same folder."""
    data = read_bytes(path, MAX_BYTES)
    table = Path(path)
    defaults = [table.with_name(f"{table.stem}.config.json"), table.with_name("config.json")]
    config_file = Path(config) if config is not None else next((file for file in defaults if file.is_file()), None)
    if config_file is None:
        raise CokvError(f"{table}: no {defaults[0].name} or config.json beside it; give the config with sink_size")
    raw = read_bytes(config_file, MAX_BYTES)
    with named(table):
        gates = _gates(data)
    if shape is not None and gates.shape != shape:
        raise CokvError(
            f"{table}: gates of {gates.shape[0]} layers x {gates.shape[1]} KV heads, expected {shape[0]} x {shape[1]}; "
            "give the pattern of the same model"
        )
    with named(config_file):
        sizes = _sizes(read_json(raw))
    provenance: dict[str, JSON] = {
        "kind": "DuoAttention gate, clipped to 0..1",
        "source": SOURCE,
        "file": table.name,
        "sha256": hashlib.sha256(data).hexdigest(),
        "config": config_file.name,
        "config_sha256": hashlib.sha256(raw).hexdigest(),
        "sink_size": sizes[0],
        "recent_size": sizes[1],
    }
    return DuoPattern(gates, *sizes, provenance)


def _gates(data: bytes) -> FloatArray:
    try:
        rows = [
            [float(cell) for cell in line.split("\t")]
            for line in data.removeprefix(codecs.BOM_UTF8).decode("ascii").splitlines()
            if line
        ]
    except ValueError as error:
        raise CokvError(f"no table of numbers ({str(error)[:60]}), expected a line per layer, tabs between") from None
    if not rows or len({len(row) for row in rows}) != 1:
        lengths = sorted({len(row) for row in rows})[:4]
        raise CokvError(f"rows of {lengths} numbers, expected at least one row and as many numbers in every one")
    gates = np.array(rows)
    if not np.isfinite(gates).all():
        raise CokvError("gates that are NaN or infinite, expected numbers around 0..1")
    return np.clip(gates, 0.0, 1.0)


def _sizes(config: object) -> tuple[int, int]:
    if not isinstance(config, dict):
        raise CokvError(f"holds a {type(config).__name__}, expected an object with sink_size and recent_size")
    sizes = []
    for key in ("sink_size", "recent_size"):
        value = config.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise CokvError(f"{key} is {str(value)[:40]!r}, expected a number of tokens")
        sizes.append(value)
    return sizes[0], sizes[1]
