"""Reads more text on a prompt's cache, to see what it attends; the cache is left as it was.

One forward pass per passage, each on the prompt alone: the prompt's K and V are read, never changed, and nothing of a
passage is kept but what the replayer makes of its attention.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicSlidingWindowLayer

from cokv.cache.attention.attachment import ragged_attention
from cokv.cache.attention.handshake import in_autocast_dtype
from cokv.cache.compat import AnsweringCache, Layer, cache_argument
from cokv.model.observe import ModelParts, Observation, Passage, Replayer
from cokv.model.shape import Shape
from cokv.types import CokvError

KeysValues = tuple[torch.Tensor, torch.Tensor]


class _Replayed(Layer):
    """The prompt's K and V [1, num_kv_heads, seq_len, head_dim], and a passage after them."""

    def __init__(
        self, index: int, prompt: KeysValues, replayer: Replayer, passage: Passage, softcap: float | None
    ) -> None:
        super().__init__(index)
        self.lazy_initialization(*prompt)
        self.prompt, self.replayer, self.passage, self.softcap = prompt, replayer, passage, softcap
        self.tokens_seen = prompt[0].shape[-2]
        self.result: torch.Tensor | None = None

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        key_states, value_states = in_autocast_dtype(key_states), in_autocast_dtype(value_states)
        self.keys = torch.cat([self.prompt[0], key_states], dim=-2)
        self.tokens_seen += key_states.shape[-2]
        return self.offer(self.keys, torch.cat([self.prompt[1], value_states], dim=-2), key_states.shape[-2])

    def observe(
        self, queries: torch.Tensor, mask: torch.Tensor | None, scaling: float, sinks: torch.Tensor | None = None
    ) -> None:
        self.result = self.replayer.look(queries[0], self.keys[0], scaling, self.passage, self.softcap, sinks)
        self.keys = None


def replay(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    layers: Mapping[int, KeysValues],
    sliding: Mapping[int, DynamicSlidingWindowLayer],
    replayer: Replayer,
    parts: ModelParts,
    shape: Shape,
) -> dict[int, Observation]:
    """What the replayer saw, per layer: one tensor [num_kv_heads, seq_len]."""
    passages = replayer.passages(input_ids, parts)
    seq_len = input_ids.numel()
    longest = max(len(passage.ids) for passage in passages)
    if seq_len + longest > shape.context_length:
        raise CokvError(
            f"reads {longest} more tokens after the prompt of {seq_len}, and the model has {shape.context_length} "
            "positions; use a smaller chunk_size, a shorter prompt, or a model that has more"
        )
    looks: dict[int, list[torch.Tensor]] = {i: [] for i in layers}
    for passage in passages:
        passage_layers: dict[int, Any] = {
            i: _Replayed(i, pair, replayer, passage, shape.softcap) for i, pair in layers.items()
        }
        passage_layers |= {i: copy.copy(layer) for i, layer in sliding.items()}
        ids = torch.tensor(passage.ids, device=model.device)[None]
        positions = torch.arange(seq_len, seq_len + ids.shape[1], device=model.device)[None]
        cache = AnsweringCache([passage_layers[i] for i in sorted(passage_layers)], shape.num_heads, shape.softcap)
        with ragged_attention(model):
            model(
                input_ids=ids,
                position_ids=positions,
                **cache_argument(cache),
                use_cache=True,
                logits_to_keep=1,
            )
        for i in layers:
            looks[i].append(passage_layers[i].result)
    return {i: (torch.cat(tensors, dim=-1),) for i, tensors in looks.items()}
