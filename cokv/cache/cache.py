"""RaggedCache: each (row, layer, KV head) owns exactly the tokens it keeps. An ordinary transformers `Cache`.

To transformers it reports absolute lengths, so positions and masks stay right after eviction. Two ways to fill it:
from a Prefill and Selections (`RaggedCache.of`, many rows over one prompt), or by itself during `model.generate`
(`RaggedCache(config, compression)`). How a layer stores its tokens is in layer.py.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Self

import torch
from transformers.cache_utils import Cache

from cokv.cache.attention import choose
from cokv.cache.attention.backend import Attend
from cokv.cache.attention.host_bounds import sent
from cokv.cache.compat import AnsweringCache
from cokv.cache.compression import Compression, PromptReader, SelectEachLayer
from cokv.cache.layer import RaggedLayer
from cokv.cache.policies.base import Policy
from cokv.cache.policies.protocol import ReadsKinds
from cokv.cache.prefill import Prefill
from cokv.cache.sliding import SlidingLayer
from cokv.cache.storage.ragged import SLACK
from cokv.cache.storage.rows import MemoryUsage
from cokv.model.observe import ModelParts
from cokv.model.shape import model_shape
from cokv.model.token_kinds import Kinds
from cokv.types import CokvError, Selection


class RaggedCache(AnsweringCache):
    """Pass it as `past_key_values` to a model that is attached (cokv.cache.attention.attachment).

    `compression` chooses what stays once the prompt has been attended, and what happens after that; without it the
    cache keeps everything. The prompt is the first forward pass: what comes later, a second turn or a second chunk, is
    read on the compressed cache. Padding may stand before the prompt only: a later mask that hides anything else is
    refused. Layers with sliding-window attention are transformers' own.
    """

    kinds: Kinds | None = None  # where a row's policy must know which kind of token it reads
    prompt: PromptReader | None = None

    def __init__(
        self,
        config: Any,
        compression: Compression | None = None,
        slack: int = SLACK,
        attend: Attend = choose.attend,
        model: Any = None,
        tokenizer: Any = None,
    ) -> None:
        """model, tokenizer: for compressions that need more than keys, values and queries."""
        shape = model_shape(config)
        full = set(shape.full_layers)
        layers: list[Any] = [
            RaggedLayer(i, shape, slack, attend, self._after_prompt)
            if i in full
            else SlidingLayer(shape.sliding_window or 0)
            for i in range(shape.num_hidden_layers)
        ]
        super().__init__(layers, shape.num_heads, shape.softcap)
        self.prompt = PromptReader(compression or SelectEachLayer(), model, tokenizer)
        self._check_masks_once()

    @classmethod
    def of(
        cls,
        prefill: Prefill,
        selections: Sequence[Selection],
        policies: Sequence[Policy] | None = None,
        slack: int = SLACK,
        attend: Attend = choose.attend,
    ) -> RaggedCache:
        """One row per Selection, all over the same prompt. Selections may hold tokens that the prefill has unread."""
        shape = prefill.shape
        for selection in selections:
            check_selection(prefill, selection)
        layers: list[Any] = [None] * shape.num_hidden_layers
        for i, source in enumerate(prefill.layers):
            layer = RaggedLayer(source.layer_idx, shape, slack, attend)
            kept = [[s.head(i, h) for h in range(shape.num_kv_heads)] for s in selections]
            layer.fill([source], kept, policies and [policy.at_layer(i, shape.num_layers) for policy in policies])
            layer.tokens_seen = layer.prompt_len = prefill.seq_len
            layers[source.layer_idx] = layer
        for i, sliding in prefill.sliding.items():
            layers[i] = repeated(sliding, len(selections))
        cache = cls.__new__(cls)
        AnsweringCache.__init__(cache, layers, shape.num_heads, shape.softcap)
        cache._check_masks_once()
        cache._know_kinds(policies or (), prefill.tokenizer)
        return cache

    def _check_masks_once(self) -> None:
        """All layers get the same mask of a forward pass: the first one looks at it."""
        for layer in self.ragged_layers[1:]:
            layer.checks_masks = False

    def _know_kinds(self, policies: Sequence[Policy], tokenizer: Any) -> None:
        if self.kinds is None and any(isinstance(policy, ReadsKinds) for policy in policies):
            self.kinds = Kinds(ModelParts(None, tokenizer))

    # ---- a forward pass

    def forward_begins(self, owner: str, input_ids: torch.Tensor | None) -> None:
        super().forward_begins(owner, input_ids)
        if self.kinds is not None:
            if input_ids is None:
                raise CokvError("this method must know which tokens are read, and the model was given embeddings")
            self._tell_kinds(input_ids)
        if self.prompt is not None:
            self.prompt.forward_begins(input_ids if self._prompt_unread else None)

    def attention_begins(self, module: torch.nn.Module, hidden_states: torch.Tensor, kwargs: dict[str, Any]) -> None:
        if self.prompt is not None and self.prompt.needs_inputs and self._prompt_unread:
            self.prompt.model_parts().note_inputs(module, hidden_states, kwargs)

    def forward_ends(self) -> None:
        super().forward_ends()
        if self.prompt is not None:
            self.prompt.forward_ends()

    def _tell_kinds(self, ids: torch.Tensor) -> None:
        """Which kinds of tokens the next forward pass reads, int64 [rows, t], to rows whose policy must know."""
        assert self.kinds is not None
        kinds = sent(self.kinds(ids.cpu()), self.ragged_layers[0].device)
        for layer in self.ragged_layers:
            layer.token_kinds = kinds

    def _after_prompt(
        self, layer: RaggedLayer, queries: torch.Tensor, mask: torch.Tensor | None, scaling: float
    ) -> None:
        assert self.prompt is not None
        layers = self.ragged_layers
        place = next(place for place, one in enumerate(layers) if one is layer)
        self.prompt.attended(layers, place, queries, mask, scaling)
        if not self._prompt_unread:
            self._know_kinds([self.prompt.compression.policy(layer.tokens_seen)], self.prompt.tokenizer)

    @property
    def _prompt_unread(self) -> bool:
        return any(layer.rows is None for layer in self.ragged_layers)

    def reset(self) -> None:
        """Empty again, and ready for another prompt; one that failed half-way leaves nothing."""
        super().reset()
        if self.prompt is not None:
            self.prompt.reset()
            for layer in self.ragged_layers:
                layer.after_prompt = self._after_prompt

    def crop(self, tokens_to_remove: int) -> None:
        """All layers or none: sliding layers come first in some models."""
        count = self.ragged_layers[0].tokens_to_drop(tokens_to_remove)
        layer: Any
        if self.get_seq_length():
            for layer in self.layers:
                layer.check_crop(count)
        super().crop(tokens_to_remove)

    def to(self, device: torch.device | str | int) -> Self:
        """Moves all that lies with the model, in place; pages in CPU memory stay there. For a model that has moved."""
        where = torch.empty(0, device=torch.device(device)).device  # "cuda" is one of its devices
        layer: Any
        with torch.inference_mode(False), torch.no_grad():
            for layer in self.layers:
                layer.to(where)
        return self

    # ---- what it holds

    @property
    def ragged_layers(self) -> list[RaggedLayer]:
        return [layer for layer in self.layers if isinstance(layer, RaggedLayer)]

    @property
    def attention(self) -> list[str]:
        """Name of the backend that attends what is kept, of each layer with a budget; "auto" before it is known."""
        return [layer.attention for layer in self.ragged_layers]

    @property
    def stored_tokens(self) -> int:
        return sum(layer.stored_tokens for layer in self.ragged_layers)

    @property
    def storage_bytes(self) -> int:
        return sum(layer.storage_bytes for layer in self.ragged_layers)

    def held(self) -> list[MemoryUsage]:
        """Per row, over all layers with a budget."""
        layers = [layer.held() for layer in self.ragged_layers]
        return [sum(row[1:], row[0]) for row in zip(*layers, strict=True)]

    def keep_rows(self, rows: torch.Tensor) -> None:
        keep_rows(self, rows)


def keep_rows(cache: Cache, rows: torch.Tensor) -> None:
    """Rows that have ended leave every layer: ours without moving storage, transformers' own by selection."""
    layer: Any
    for layer in cache.layers:
        keep = getattr(layer, "keep_rows", None) or layer.batch_select_indices
        keep(rows)


def check_selection(prefill: Prefill, selection: Selection) -> None:
    """A selection must be made for a prompt of this length and a model of this shape."""
    expected = (prefill.shape.num_layers, prefill.shape.num_kv_heads)
    lengths = (prefill.seq_len, prefill.seq_len + prefill.layers[0].unread)
    if selection.counts.shape != expected or selection.seq_len not in lengths:
        raise CokvError(
            f"selection is for {selection.counts.shape} heads and {selection.seq_len} tokens, "
            f"but the prefill has {expected} heads and {prefill.seq_len} tokens; select on this prefill"
        )


def repeated(layer: Any, rows: int) -> Any:
    """A copy of a transformers layer of batch 1, with `rows` rows."""
    layer = copy.copy(layer)
    layer.batch_repeat_interleave(rows)
    return layer
