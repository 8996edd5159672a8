"""What identifies a model's weights, cheaply: for caches on disk, which only make sense to the model that made them.

The digest covers the decoder (embeddings, attention, MLPs, norms) and the settings that change what it computes: of
every parameter its name, shape and dtype, and SAMPLE numbers evenly spread over it. It does not cover the output head,
which no cache depends on. Training, merging an adapter, quantizing or casting a model changes it; a change of single
numbers outside the sample does not. Costs one small gather per parameter and one transfer: milliseconds, whatever the
model's size, unless weights are offloaded to disk.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import torch

from cokv.model.devices import present
from cokv.model.shape import Shape, model_shape

SAMPLE = 64  # numbers of each parameter
SETTINGS = (  # of a config: those beside the shape that change keys and values
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "hidden_act",
    "rope_parameters",
    "partial_rotary_factor",
    "layer_types",
    "sliding_window",
    "rms_norm_eps",
    "layer_norm_eps",
    "query_pre_attn_scalar",
    "attention_multiplier",
    "embedding_multiplier",
    "residual_multiplier",
)


@dataclass(frozen=True)
class ModelIdentity:
    """See `model_identity`."""

    name: str  # the model's class
    shape: str  # layers, heads and head_dim, in words
    dtype: str
    digest: str  # sha256, hexadecimal


def model_identity(model: Any, text: torch.nn.Module) -> ModelIdentity:
    """Of a transformers model; text: the part of it that decodes."""
    shape = model_shape(model.config)
    return ModelIdentity(type(model).__name__, in_words(shape), str(model.dtype).removeprefix("torch."), _digest(text))


def in_words(shape: Shape) -> str:
    sliding = shape.num_hidden_layers - shape.num_layers
    more = f" and {sliding} with a sliding window of {shape.sliding_window}" if sliding else ""
    return (
        f"{shape.num_layers} layers{more}, {shape.num_heads} query heads and {shape.num_kv_heads} KV heads of "
        f"{shape.head_dim} channels"
    )


def _digest(text: Any) -> str:
    config = text.config
    settings = {name: getattr(config, name, None) for name in SETTINGS}
    facts = [json.dumps(settings, sort_keys=True, default=str)]
    samples: dict[torch.dtype, list[torch.Tensor]] = {}
    for prefix, module in text.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            facts.append(f"{prefix}.{name} {list(parameter.shape)} {parameter.dtype}")
            numbers = present(module, name, parameter).reshape(-1)
            places = torch.linspace(0, max(len(numbers) - 1, 0), min(SAMPLE, len(numbers)), dtype=torch.float64)
            sample = numbers[places.long().to(numbers.device)]
            samples.setdefault(sample.dtype, []).append(sample)
    digest = hashlib.sha256("\n".join(facts).encode())
    for parts in samples.values():
        digest.update(_bytes(parts))
    return digest.hexdigest()


def _bytes(parts: list[torch.Tensor]) -> bytes:
    """One transfer per device."""
    devices = list(dict.fromkeys(part.device for part in parts))
    joined = {device: torch.cat([part for part in parts if part.device == device]).cpu() for device in devices}
    split = {
        device: iter(joined[device].split([len(part) for part in parts if part.device == device])) for device in devices
    }
    ordered = torch.cat([next(split[part.device]) for part in parts])
    return ordered.contiguous().view(torch.uint8).numpy().tobytes()
