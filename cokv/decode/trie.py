"""The trie way: the shared way with common work done once; rows split only where their masks or tokens first differ.

Two rows that have generated the same tokens are the same computation up to the layer where their masks first differ.
So a step runs on *nodes* (partition.py): the model's input has one row per distinct history, and before each layer a
pre-hook, removed on exit, repeats the nodes whose masks differ there; inside a layer, trie_layer.py computes attention.
New tokens' K and V are stored per node of the layer's input. Finished rows are dropped; results keep the caller's
order. Equal to shared.py by test.

The batch decides only which products are computed together. Every row has the same sums, but a matrix library may add
them in another order for another number of rows, so answers depend on the batch only where two logits differ by less
than that rounding (about 1e-6 of them in float32).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from transformers import PreTrainedModel

from cokv.cache.attention.host_bounds import sent
from cokv.cache.cache import repeated
from cokv.cache.compat import AnsweringCache
from cokv.cache.prefill import Prefill
from cokv.decode.head_mask import RowTable
from cokv.decode.partition import Partition, numbered, refined, representatives
from cokv.decode.trie_layer import TrieLayer
from cokv.types import CokvError

__all__ = ["TrieCache", "expandable", "expanding"]


class TrieCache(AnsweringCache):
    """Rows of a RowTable over one Prefill, for up to `new_tokens` more tokens. Use inside `expanding(model, cache)`."""

    def __init__(self, prefill: Prefill, table: RowTable, new_tokens: int) -> None:
        shape = prefill.shape
        self.mask_keys, self.num_layers = table.keys, shape.num_hidden_layers
        self.level = [sum(full < index for full in shape.full_layers) for index in range(self.num_layers)]
        layers: list[Any] = [None] * shape.num_hidden_layers
        for i, source in enumerate(prefill.layers):
            layers[source.layer_idx] = TrieLayer(source, table.patterns, table.which[:, i], new_tokens)
        for i, sliding in prefill.sliding.items():
            layers[i] = repeated(sliding, 1)
        super().__init__(layers, shape.num_heads, shape.softcap)
        self.active = np.arange(len(table.which), dtype=np.int64)
        self.histories = np.zeros_like(self.active)
        self.partition = Partition(self.active, [self.histories] * (shape.num_layers + 1))  # one node: the prompt

    def keep_rows(self, rows: torch.Tensor) -> None:
        """Drops all other rows; `rows`: indices among the active rows."""
        self.active, self.histories = self.active[rows.numpy()], self.histories[rows.numpy()]

    def advance(self, ids: torch.Tensor) -> torch.Tensor:
        """Splits nodes by the next tokens of the active rows, int64 [rows, t] on the CPU, and rearranges every layer.

        Returns the tokens of each node at the model's input, [nodes, t].
        """
        tokens = np.unique(ids.numpy(), axis=0, return_inverse=True)[1].reshape(-1)
        histories = refined(self.histories, numbered(tokens))
        before, after = self.partition, Partition.of(self.active, histories, self.mask_keys[self.active])
        self.histories, self.partition = histories, after
        for index in range(self.num_layers):
            level, layer = self.level[index], cast(Any, self.layers[index])
            moved = None if _same(before, after, level) else after.moved(before, level)
            if not isinstance(layer, TrieLayer):
                if moved is not None:
                    layer.batch_select_indices(sent(torch.from_numpy(moved), layer.keys.device))
            elif moved is not None or not _same(before, after, level + 1) or layer.plan is None:
                layer.arrange(after, level, moved)
        return ids[torch.from_numpy(representatives(after.levels[0]))]

    def expansion(self, index: int) -> torch.Tensor | None:
        """Node at the input of model layer `index` of every node at its output: [output nodes], or None if equal."""
        layer = self.layers[index]
        return layer.plan.parents if isinstance(layer, TrieLayer) and layer.plan else None

    def nodes(self) -> torch.Tensor:
        """Each active row's node at the model's output: int64 [rows] on the CPU."""
        return torch.from_numpy(self.partition.levels[-1])


def _same(before: Partition, after: Partition, level: int) -> bool:
    """Whether both partitions have the same rows in the same nodes at this level."""
    return np.array_equal(before.rows, after.rows) and np.array_equal(before.levels[level], after.levels[level])


def expandable(model: PreTrainedModel) -> bool:
    """Whether the model has its decoder layers in one list `layers`, where `expanding` can hook them."""
    layers = getattr(model.get_decoder(), "layers", None)
    config = model.config.get_text_config(decoder=True)
    return isinstance(layers, torch.nn.ModuleList) and len(layers) == config.num_hidden_layers


@contextmanager
def expanding(model: PreTrainedModel, cache: TrieCache) -> Iterator[None]:
    """Inside, every decoder layer of `model` receives its nodes' hidden states, through pre-hooks removed on exit."""
    if not expandable(model):
        raise CokvError(
            f"{type(model).__name__} does not keep its {cache.num_layers} layers in one list `layers`; "
            "decode with way='shared'"
        )

    def hook(index: int) -> Any:
        def expand(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            mask = kwargs.get("attention_mask")
            if isinstance(mask, torch.Tensor) and mask.shape[0] > 1:
                kwargs["attention_mask"] = mask[:1]  # rows have no padding: one mask for all
            parents = cache.expansion(index)
            if parents is None:
                return args, kwargs
            if args:
                return (args[0].index_select(0, parents), *args[1:]), kwargs
            kwargs["hidden_states"] = kwargs["hidden_states"].index_select(0, parents)
            return args, kwargs

        return expand

    handles = [
        layer.register_forward_pre_hook(hook(i), with_kwargs=True) for i, layer in enumerate(model.get_decoder().layers)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
