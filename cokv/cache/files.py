"""A cache as one safetensors file: tensors as they are stored, without slack, all else as JSON in the header.

Written beside its target and renamed, so that nobody meets half a file; a checksum over everything finds what was
damaged later. Knows how layers are stored, and neither methods nor models: see cokv/deployment/saved.py.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from typing import Any

import torch

from cokv.cache.attention.backend import Backend, softcap_of
from cokv.cache.cache import RaggedCache
from cokv.cache.encoding import Decoder, Encoder
from cokv.cache.layer import RaggedLayer
from cokv.types import CokvError
from cokv.types.files import read_tensors, write_tensors

KIND = "cache"
FORMAT = 1  # of what a header says; a file of a later one is refused
KEYS = ("facts", "layers", "checksum")


def write_cache(
    path: str | os.PathLike[str],
    cache: RaggedCache,
    facts: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
) -> None:
    """facts: JSON for whoever reads the file, and tensors that belong to it, with names of one word."""
    encoder = Encoder(dict(tensors))
    layers = [_encoded(layer, encoder, f"layer{place}") for place, layer in enumerate(cache.layers)]
    header: dict[str, Any] = {"facts": dict(facts), "layers": layers}
    header["checksum"] = _checksum(header, encoder.tensors)
    write_tensors(path, KIND, encoder.tensors, {**header, "format": FORMAT})


def read_file(path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[Any], dict[str, torch.Tensor]]:
    """Facts, layers as they were encoded, and tensors of a whole file. Raises CokvError for any other."""
    where = os.fspath(path)
    _, header = read_tensors(path, KIND, (), ("format",))
    if header["format"] != FORMAT:
        raise CokvError(
            f"{where}: is of format {header['format']}, this version reads {FORMAT}; read it with the version of cokv "
            "that wrote it, or a later one"
        )
    tensors, header = read_tensors(path, KIND, None, KEYS)
    if header.pop("checksum") != _checksum(header, tensors):
        raise CokvError(f"{where}: does not match its checksum; it is damaged, save the cache again")
    return header["facts"], header["layers"], tensors


def fill_cache(
    cache: RaggedCache, layers: list[Any], tensors: Mapping[str, torch.Tensor], devices: Mapping[int, torch.device]
) -> None:
    """Puts what a file says of each layer into an empty cache; devices: of layers, by number."""
    layer: Any
    for place, (layer, encoded) in enumerate(zip(cache.layers, layers, strict=True)):
        device = devices.get(place, torch.device("cpu"))
        if isinstance(layer, RaggedLayer):
            layer.backend = Backend(layer.backend.attend, encoded["softcap"])
            decoder = Decoder(tensors, device, layer.backend)
            nothing = torch.empty(0, dtype=decoder.decode(encoded["dtype"]), device=device)
            layer.lazy_initialization(nothing, nothing)
            layer.rows, layer.starts = decoder.decode(encoded["rows"]), decoder.decode(encoded["starts"])
            layer.after_prompt = None
            layer.tokens_seen, layer.prompt_len = encoded["tokens_seen"], encoded["prompt_len"]
        else:
            keys, values = (tensors[encoded[name]["tensor"]].to(device, copy=True) for name in ("keys", "values"))
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values, layer.cumulative_length = keys, values, encoded["tokens_seen"]


def _encoded(layer: Any, encoder: Encoder, name: str) -> dict[str, Any]:
    names = ("rows", "starts", "prompt_len", "dtype") if isinstance(layer, RaggedLayer) else ("keys", "values")
    parts = {each: encoder.encode(getattr(layer, each), f"{name}.{each}") for each in names}
    if isinstance(layer, RaggedLayer):
        parts["softcap"] = softcap_of(layer.backend)
    return {**parts, "tokens_seen": layer.get_seq_length()}


def _checksum(header: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> int:
    """CRC-32 of everything but itself."""
    crc = zlib.crc32(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        crc = zlib.crc32(f"{name} {tensor.dtype} {list(tensor.shape)}".encode(), crc)
        if tensor.numel():
            crc = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, crc)
    return crc
