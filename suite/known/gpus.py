"""GPUs, and seconds of a run's work on them: what was measured, and what follows from it by a stated bound.

Rates were measured for one model on one GPU (gpus.toml). For others:

    reading      seconds = operations / rate; operations of a prompt of T tokens: 2 P T + 2 L H d T^2 (causal
                 attention), P parameters without the embedding; rate: that of the measured prefill
    decoding     one step of a batch of at most 32 rows is bound by the host, which launches the kernels of every
                 layer: the measured step x L / L_measured, but never less than reading the weights and 1 GiB of cache
                 once takes at the GPU's bandwidth
    coalitions   the measured time x answer tokens / 32 x (2 P + 4 L H d T) / the same of the measured model and prompt
    another GPU  x the ratio of the peak operations (reading), of the bandwidths (coalitions); a step's host bound stays

Not in them: choosing the tokens, judging the answers, loading the weights.
"""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from suite.known.models import HubModel, hub_models

ROWS_OF_A_STEP = 32  # that the measured step decodes at once
BATCH_BYTES = 1 << 30  # of rows' K and V that decode together (cokv.decode.decode, max_bytes)


@dataclass(frozen=True)
class GPU:
    """flops: dense bfloat16 operations per second; bandwidth: bytes per second. Both of the maker's data sheet."""

    name: str
    title: str
    memory_bytes: int
    flops: float
    bandwidth: float


@functools.cache
def _table() -> dict[str, Any]:
    return tomllib.loads((files("suite.known") / "gpus.toml").read_text(encoding="utf-8"))


@functools.cache
def gpus() -> dict[str, GPU]:
    return {name: GPU(name, **facts) for name, facts in _table().items() if name != "measured"}


def measured() -> dict[str, Any]:
    """The measured rates, each with its file, the path in it, and its value."""
    return dict(_table()["measured"])


@dataclass(frozen=True)
class Rates:
    """Seconds of a model's work on a GPU."""

    model: HubModel
    gpu: GPU
    parameter_bytes: int = 2

    @property
    def sources(self) -> tuple[str, ...]:
        """Which numbers are measured, and how this model's follow from them."""
        facts, same_gpu = measured(), self.gpu == _measured_gpu()
        files = sorted({part["file"] for part in facts.values() if isinstance(part, dict)})
        shape = _measured_model()
        same_model = (self.model.shape, self.model.hidden) == (shape.shape, shape.hidden)
        lines = [f"measured on {_measured_gpu().title} for {facts['model']}'s shape: {', '.join(files)}"]
        if not same_model:
            lines.append(
                f"derived for {self.model.name}: reading and coalitions by operations per token, a decode step by "
                f"layers ({self.model.layers} of {shape.layers}), at least the weights at {self.gpu.title}'s bandwidth"
            )
        if not same_gpu:
            lines.append(f"derived for {self.gpu.title}: reading by peak operations, coalitions by bandwidth")
        return tuple(lines)

    def read(self, tokens: float) -> float:
        """Seconds to prefill a prompt of so many tokens."""
        part, reference = measured()["prefill_seconds"], _measured_model()
        rate = _prefill_operations(reference, part["tokens"]) / part["value"] * self.gpu.flops / _measured_gpu().flops
        return _prefill_operations(self.model, tokens) / rate

    def step(self) -> float:
        """Seconds of a decode step of at most `ROWS_OF_A_STEP` rows."""
        launched = measured()["step_ms"]["value"] / 1000 * self.model.layers / _measured_model().layers
        return max(launched, (self.model.parameters * self.parameter_bytes + BATCH_BYTES) / self.gpu.bandwidth)

    def coalition(self, tokens: float, new_tokens: int) -> float:
        """Seconds of one coalition on one prompt, its prefill not counted."""
        part = measured()["coalition_ms"]
        work = _token_operations(self.model, tokens) / _token_operations(_measured_model(), part["tokens"])
        slower = _measured_gpu().bandwidth / self.gpu.bandwidth
        return part["value"] / 1000 * new_tokens / part["new_tokens"] * work * slower


def _measured_model() -> HubModel:
    return hub_models()[measured()["model"]]


def _measured_gpu() -> GPU:
    return gpus()[measured()["gpu"]]


def _matrix_parameters(model: HubModel) -> int:
    return model.parameters - model.vocabulary * model.hidden


def _token_operations(model: HubModel, context: float) -> float:
    """Of one token that attends `context` others."""
    return 2 * _matrix_parameters(model) + 4 * model.layers * model.heads * model.head_dim * context


def _prefill_operations(model: HubModel, tokens: float) -> float:
    attention = 2 * model.layers * model.heads * model.head_dim * tokens**2
    return 2 * _matrix_parameters(model) * tokens + attention
