"""Rotary frequencies that a GGUF file states and transformers does not take over: a tensor, or metadata.

Without them a Llama 3.1, or any model whose positions were scaled, would load, answer worse, and nobody would know.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from cokv.model.gguf_header import Header
from cokv.types import CokvError

FREQUENCIES = "rope_freqs.weight"
LLAMA3_ORIGINAL, LLAMA3_LOW, LLAMA3_HIGH = 8192, 1.0, 4.0  # of every released Llama 3.1 to 3.3


def follow_rotary(header: Header, config: Any) -> None:
    """Sets in the config what the file states of rotary positions. Raises CokvError for a rule that is not known."""
    parameters = getattr(config, "rope_parameters", None)
    if not isinstance(parameters, dict):
        return
    parameters = parameters.get("full_attention", parameters)  # of models with several kinds of layers
    if parameters.get("rope_type", "default") == "default":
        parameters.update(_stated(header, float(parameters["rope_theta"])))


def _stated(header: Header, theta: float) -> dict[str, Any]:
    if FREQUENCIES in header.tensors:
        factors = torch.from_numpy(header.tensors[FREQUENCIES].data.copy()).double().flatten()
        return llama3_rule(factors, theta)
    older = header.number("rope.scale_linear")  # as files named it first
    rule = header.text(f"{header.architecture}.rope.scaling.type") or ("linear" if older else "none")
    factor = header.number("rope.scaling.factor") or older
    if rule == "none":
        return {}
    if rule not in ("linear", "yarn") or not factor:
        raise CokvError(f"rotary positions scaled by {rule!r} (factor {factor}); expected linear, yarn or Llama 3's")
    original = header.number("rope.scaling.original_context_length")
    stated: dict[str, Any] = {"rope_type": rule, "factor": factor}
    return {**stated, **({"original_max_position_embeddings": int(original)} if original else {})}


def llama3_rule(factors: torch.Tensor, theta: float) -> dict[str, Any]:
    """Llama 3's rule, from the factors float64 [head_dim / 2] that each frequency is divided by.

    1 for the highest frequencies, the largest factor for the lowest, and in between what the rule says; checked against
    every factor.
    """
    factor, half = float(factors.max()), len(factors)
    wavelengths = 2 * math.pi * theta ** (torch.arange(half, dtype=torch.float64) / half)
    smooth = ((LLAMA3_ORIGINAL / wavelengths - LLAMA3_LOW) / (LLAMA3_HIGH - LLAMA3_LOW)).clamp(0, 1)
    if not torch.allclose(1 / ((1 - smooth) / factor + smooth), factors, rtol=1e-3):
        raise CokvError(f"{FREQUENCIES} does not follow Llama 3's rule; expected the factors of Llama 3.1 to 3.3")
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": LLAMA3_LOW,
        "high_freq_factor": LLAMA3_HIGH,
        "original_max_position_embeddings": LLAMA3_ORIGINAL,
    }
