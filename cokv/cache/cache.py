"""RaggedCache: each (row, layer, KV head) owns exactly the tokens it keeps. An ordinary transformers `Cache`.

To transformers it reports absolute lengths, so positions and masks stay right after eviction. Two ways to fill it:
from a Prefill and Selections (`RaggedCache.of`, many rows over one prompt), or by itself during `model.generate`
(`RaggedCache(config, select=...)`): each layer then compresses as soon as it has attended the prompt, one layer dense
at a time. How a layer stores its tokens is in ragged_layer.py.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache

from cokv.cache.attention import buckets
from cokv.cache.attention.host_bounds import sent
from cokv.cache.compat import sliding_layer
from cokv.cache.layer import LayerSelect, RaggedLayer
from cokv.cache.policies import Grow, Policy, at_layer
from cokv.cache.policies.protocol import ReadsKinds
from cokv.cache.prefill import Prefill, PrefillLayer
from cokv.cache.storage.ragged import SLACK, Attend
from cokv.cache.storage.rows import MemoryUsage
from cokv.model.loading import model_shape
from cokv.model.observe import ModelParts
from cokv.model.token_kinds import Kinds
from cokv.types import CokvError, Selection


class RaggedCache(Cache):
    """Pass it as `past_key_values`, inside `cokv.cache.attention.interface.engine(model)`.

    `select`, called with each layer's own PrefillLayer, makes `model.generate` compress by itself after the prompt;
    without it the cache keeps everything. `policy` is what happens after that. The prompt is the first forward pass:
    what comes later, a second turn or a second chunk, is read on the compressed cache. Padding may stand before the
    prompt only: a later mask that hides anything else is refused. Layers with sliding-window attention are
    transformers' own.
    """

    kinds: Kinds | None = None  # where a row's policy must know them

    def __init__(
        self,
        config: Any,
        select: LayerSelect | None = None,
        window: int = 32,
        slack: int = SLACK,
        attend: Attend = buckets.attend,
        policy: Policy | None = None,
    ) -> None:
        if isinstance(policy, ReadsKinds):
            raise CokvError(
                f"{type(policy).__name__} must know which tokens are read, which model.generate does not tell a cache; "
                "use prefill(..., tokenizer=tokenizer), select(...) and decode(...)"
            )
        shape = model_shape(config)
        full = set(shape.full_layers)
        if select is None:
            select = _keep_all
        rules = {i: at_layer(policy or Grow(), place, len(full)) for place, i in enumerate(shape.full_layers)}
        super().__init__(
            layers=[
                RaggedLayer(i, select, window, slack, attend, rules[i])
                if i in full
                else sliding_layer(shape.sliding_window or 0)
                for i in range(shape.num_hidden_layers)
            ]
        )
        self._check_masks_once()

    @classmethod
    def of(
        cls,
        prefill: Prefill,
        selections: Sequence[Selection],
        policies: Sequence[Policy] | None = None,
        slack: int = SLACK,
        attend: Attend = buckets.attend,
    ) -> RaggedCache:
        """One row per Selection, all over the same prompt. Selections may hold tokens that the prefill has unread."""
        shape = prefill.shape
        for selection in selections:
            check_selection(prefill, selection)
        layers: list[Any] = [None] * shape.num_hidden_layers
        for i, source in enumerate(prefill.layers):
            layer = RaggedLayer(source.layer_idx, slack=slack, attend=attend)
            kept = [[s.head(i, h) for h in range(shape.num_kv_heads)] for s in selections]
            layer.fill([source], kept, policies and [at_layer(policy, i, shape.num_layers) for policy in policies])
            layer.seen = prefill.seq_len
            layers[source.layer_idx] = layer
        for i, sliding in prefill.sliding.items():
            layers[i] = repeated(sliding, len(selections))
        cache = cls.__new__(cls)
        Cache.__init__(cache, layers=layers)
        cache._check_masks_once()
        if any(isinstance(policy, ReadsKinds) for policy in policies or ()):
            cache.kinds = Kinds(ModelParts(None, prefill.tokenizer))
        return cache

    def _check_masks_once(self) -> None:
        """All layers get the same mask of a forward pass: the first one looks at it."""
        for layer in self.ragged_layers[1:]:
            layer.checks_masks = False

    def reads(self, ids: torch.Tensor) -> None:
        """Says which tokens the next forward pass reads, int64 [rows, t], to rows whose policy must know."""
        if self.kinds is not None:
            told = sent(self.kinds(ids), self.ragged_layers[0].device)
            for layer in self.ragged_layers:
                layer.told = told

    @property
    def ragged_layers(self) -> list[RaggedLayer]:
        return [layer for layer in self.layers if isinstance(layer, RaggedLayer)]

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
        leave = getattr(layer, "keep_rows", None) or layer.batch_select_indices
        leave(rows)


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


def _keep_all(layer: PrefillLayer) -> list[torch.Tensor]:
    heads, seq_len, _ = layer.keys.shape
    return [torch.arange(seq_len)] * heads
