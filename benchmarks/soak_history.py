"""Every key and value that a model makes, beside a cache that forgets most of them; caches made anew from these."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from cokv.cache.cache import RaggedCache
from cokv.cache.prefill import Prefill, PrefillLayer
from cokv.types import Selection

Kept = Callable[[int, int], list[int]]  # (layer, KV head) -> positions, ascending


class History:
    """Records what the layers of a one-row cache are given. All memory is taken and touched at once."""

    def __init__(self, model: PreTrainedModel, cache: RaggedCache, tokens: int) -> None:
        self.model, self.seen = model, [0] * len(cache.layers)
        shape = cache.ragged_layers[0].shape
        self.shape, size = shape, (2, shape.num_kv_heads, tokens, shape.head_dim)
        self.states = [torch.ones(size, dtype=model.dtype, device=model.device) for _ in cache.layers]
        for place, layer in enumerate(cache.layers):
            layer.update = self._recording(place, layer.update)  # of this object alone

    def _recording(self, place: int, update: Callable[..., Any]) -> Callable[..., Any]:
        def record(keys: torch.Tensor, values: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            begin, end = self.seen[place], self.seen[place] + keys.shape[2]
            self.states[place][0][:, begin:end], self.states[place][1][:, begin:end] = keys[0], values[0]
            self.seen[place] = end
            return update(keys, values, *args, **kwargs)

        return record

    def cache(self, kept: Kept, tokens: int) -> RaggedCache:
        """A fresh cache that has read the first `tokens` tokens and holds those of them that are kept."""
        shape = self.shape
        layers = [
            PrefillLayer(i, states[0][:, :tokens], states[1][:, :tokens], states[0][:, :0], shape.head_dim**-0.5)
            for i, states in enumerate(self.states)
        ]
        heads = [kept(i, h) for i in range(shape.num_layers) for h in range(shape.num_kv_heads)]
        counts = np.array([len(head) for head in heads]).reshape(shape.num_layers, shape.num_kv_heads)
        positions = torch.tensor([place for head in heads for place in head])
        ids = torch.zeros(tokens, dtype=torch.int64)
        read = Prefill(shape, ids, layers, {}, torch.zeros(self.model.config.vocab_size))
        return RaggedCache.of(read, [Selection(positions, counts, tokens)])

    def kept(self, cache: RaggedCache) -> Kept:
        """What a rule by attention says its heads hold. Every slot must have the very numbers of its position."""
        positions_of: dict[tuple[int, int], list[int]] = {}
        layer: Any
        for place, layer in enumerate(cache.ragged_layers):
            ((_, rows),) = layer.parts  # one row, so one kind of store
            for watcher in rows.evictors:
                for segment, positions in zip(watcher.segments.tolist(), watcher.positions, strict=True):
                    columns = (positions >= 0).nonzero()[:, 0]
                    held = positions[columns].long()
                    slots = rows.store.starts[segment] + columns
                    for stored, made in zip((rows.store.k, rows.store.v), self.states[place], strict=True):
                        assert torch.equal(stored[slots], made[segment, held]), f"layer {place}, head {segment}"
                    positions_of[place, segment] = sorted(held.tolist())
        return lambda layer, head: positions_of[layer, head]
