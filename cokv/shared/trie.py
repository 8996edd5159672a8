"""The shared way with common work done once: rows are expanded only where their masks or their tokens first differ.

Two rows that have generated the same tokens are the same computation up to the layer where their masks first differ.
So a step runs on *nodes* (partition.py): the model's input has one row per distinct history, and before each layer a
pre-hook, removed on exit, repeats the nodes whose masks part there. Inside a layer, attention over the prompt is
computed once per (KV head, query, kept positions), and only over the positions kept. New tokens' K and V are held per
node of the layer's input. Rows that end leave; all returns in the caller's order. Equal to plain.py by test.

Which rows are in a batch decides only which products are formed together: the same sums for every row, but a matrix
library may add them in another order for another number of rows. Answers therefore differ with the batch only where
two logits differ by less than that rounding (about 1e-6 of them in float32).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from cokv.attention.interface import tagged
from cokv.attention.waiting import sent
from cokv.cache import repeated
from cokv.compat import Layer
from cokv.prefill import Prefill, PrefillLayer
from cokv.shared.choice import Table
from cokv.shared.partition import Partition, Products, numbered, products, refined, representatives
from cokv.types import CokvError, IntArray

FEW = 4  # a layer with at most so many sets of kept positions has a product for each; with more, one under a mask


@dataclass(frozen=True, eq=False)
class _Plan:
    """One layer's arrangement on the device. None stands for an index that would change nothing."""

    parents: torch.Tensor | None  # [output nodes] input node
    children: torch.Tensor | None  # [input nodes] one of its output nodes
    queries: torch.Tensor
    masked: torch.Tensor | None  # bool [entries, seq_len], what not to see; where patterns are many
    widths: list[int]
    entry: torch.Tensor  # flat


class TrieLayer(Layer):
    """One full-attention layer: the prompt once, the new tokens per input node."""

    def __init__(self, source: PrefillLayer, patterns: torch.Tensor, which: IntArray, new_tokens: int) -> None:
        """patterns: bool [patterns, seq_len]; which [rows, heads]: each row's pattern of every head in this layer."""
        super().__init__()
        self.lazy_initialization(source.keys, source.values)
        self.num_kv_heads, self.seen, self.head_dim = source.keys.shape
        present, local = np.unique(which, return_inverse=True)
        self.which = local.reshape(len(which), self.num_kv_heads, -1)
        self.many = len(present) > FEW
        self.patterns = patterns[torch.from_numpy(present)]
        everything = torch.ones(1, self.seen, dtype=torch.bool)
        self.bucket: IntArray = np.zeros(len(present), np.int64) if self.many else np.arange(len(present))
        self.stored = [_taken(source, kept) for kept in (everything if self.many else self.patterns)]
        shape = (1, self.num_kv_heads, new_tokens, self.head_dim)
        self.tail_keys = torch.empty(shape, dtype=self.dtype, device=self.device)
        self.tail_values = torch.empty_like(self.tail_keys)
        self.used = 0
        self.plan: _Plan | None = None

    def arrange(self, partition: Partition, layer: int, moved: IntArray | None) -> None:
        """Takes a new partition over. `moved`: of every input node, the node that held its new tokens before."""
        if moved is not None:
            where = self._put(moved)
            self.tail_keys, self.tail_values = self.tail_keys[where], self.tail_values[where]
        below, above = partition.nodes(layer), partition.nodes(layer + 1)
        parents = partition.parents(layer)
        rows = partition.rows[representatives(partition.levels[layer + 1])]
        found = products(parents, self.which[rows], below, self.bucket)
        same = below == above  # then nodes are numbered alike
        self.plan = _Plan(
            None if same else self._put(parents),
            None if same else self._put(partition.children(layer)),
            self._put(found.queries),
            self._hidden(found) if self.many else None,
            found.widths,
            self._put(found.entry.reshape(-1)),
        )

    def _put(self, index: IntArray) -> torch.Tensor:
        return sent(torch.from_numpy(index), self.device)

    def _hidden(self, found: Products) -> torch.Tensor:
        return sent(~self.patterns[torch.from_numpy(found.pattern)], self.device)

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        self.seen += key_states.shape[-2]
        return tagged(key_states, self), value_states

    def attends(self) -> bool:
        return True

    def observe(self, queries: torch.Tensor, mask: torch.Tensor | None, scaling: float) -> None:
        raise AssertionError("a trie layer always attends itself")

    def attend(self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float) -> torch.Tensor:
        """Queries [output nodes, num_heads, t, head_dim]; children of one input node bring the same ones."""
        plan, heads = self.plan, self.num_kv_heads
        assert plan is not None, "a trie layer is arranged before every step"
        nodes_out, num_heads, t, dim = queries.shape
        if plan.children is not None:
            queries, keys, values = (x.index_select(0, plan.children) for x in (queries, keys, values))
        nodes, columns = queries.shape[0], self.which.shape[2]
        wide = torch.promote_types(queries.dtype, torch.float32)
        own = (queries.to(wide) * scaling).reshape(nodes, heads, columns, -1, dim)  # [..., block, head_dim]
        block = own.shape[3]
        laid_out = own.transpose(0, 1).reshape(heads * nodes * columns, block * dim)
        old, old_lse = self._prompt(laid_out.index_select(0, plan.queries), plan, block)
        old, old_lse = (x.index_select(0, plan.entry).view(nodes_out, heads, -1, x.shape[-1]) for x in (old, old_lse))

        new, new_lse = self._new(own.reshape(nodes, heads, -1, dim), keys, values, t)
        if plan.parents is not None:
            new, new_lse = new.index_select(0, plan.parents), new_lse.index_select(0, plan.parents)
        share = torch.sigmoid(new_lse - old_lse.view_as(new_lse))[..., None]  # of the new tokens
        out = torch.lerp(old.reshape(new.shape), new, share)
        return out.view(nodes_out, num_heads, t, dim).to(values.dtype)

    def _prompt(self, queries: torch.Tensor, plan: _Plan, block: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Attention of the entries [entries, block * head_dim] over what each keeps, and its log-sum-exp."""
        outs, sums, start, heads, dim = [], [], 0, self.num_kv_heads, self.head_dim
        for (keys, values), width in zip(self.stored, plan.widths, strict=True):
            mine = slice(start, start + heads * width)
            start += heads * width
            if keys.shape[1] == 0:
                outs.append(queries.new_zeros(heads * width, block * dim))
                sums.append(queries.new_full((heads * width, block), -torch.inf))
                continue
            logits = queries[mine].view(heads, width * block, dim) @ keys.to(queries.dtype).transpose(1, 2)
            if plan.masked is None:
                top = logits.amax(-1, keepdim=True)
                weights = logits.softmax(-1)
                lse = top - weights.amax(-1, keepdim=True).log()  # the largest weight is exp(top - lse)
                out = (weights.to(values.dtype) @ values).to(queries.dtype)
            else:  # written out, since an entry may see nothing
                seen = logits.view(heads * width, block, -1).masked_fill_(plan.masked[mine, None], -torch.inf)
                top = seen.amax(-1, keepdim=True).clamp(min=torch.finfo(logits.dtype).min).view(heads, -1, 1)
                weights = logits.sub_(top).exp_()
                total = weights.sum(-1, keepdim=True)
                lse = top + total.log()
                out = (weights.to(values.dtype) @ values).to(queries.dtype) / total.clamp(min=1)
            outs.append(out.view(heads * width, block * dim))
            sums.append(lse.view(heads * width, block))
        return torch.cat(outs), torch.cat(sums)

    def _new(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, t: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Attention of scaled queries [nodes, num_kv_heads, group * t, head_dim] over the new tokens, causal."""
        used = self.used + t
        self.tail_keys[:, :, self.used : used], self.tail_values[:, :, self.used : used] = keys, values
        self.used = used
        logits = queries @ self.tail_keys[:, :, :used].to(queries.dtype).transpose(-1, -2)
        if t > 1:
            ahead = ~torch.ones(t, used, dtype=torch.bool, device=logits.device).tril(used - t)
            logits.view(*logits.shape[:2], -1, t, used).masked_fill_(ahead, -torch.inf)
        out = logits.softmax(-1).to(values.dtype) @ self.tail_values[:, :, :used]
        return out.to(queries.dtype), logits.logsumexp(-1)


def _taken(source: PrefillLayer, kept: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """K and V [num_kv_heads, kept, head_dim] of the kept positions; a view where these are one stretch."""
    at = kept.nonzero()[:, 0]
    if len(at) == 0 or int(at[-1] - at[0]) + 1 == len(at):
        stretch = slice(int(at[0]), int(at[-1]) + 1) if len(at) else slice(0, 0)
        return source.keys[:, stretch], source.values[:, stretch]
    at = at.to(source.keys.device)
    return source.keys[:, at], source.values[:, at]


class TrieCache(Cache):
    """Rows of a Table over one Prefill, for at most `new_tokens` further tokens. Used inside `expanding(model)`."""

    def __init__(self, prefill: Prefill, table: Table, new_tokens: int) -> None:
        shape = prefill.shape
        self.mask_keys, self.num_layers = table.keys, shape.num_hidden_layers
        self.level = [sum(full < index for full in shape.full_layers) for index in range(self.num_layers)]
        layers: list[Any] = [None] * shape.num_hidden_layers
        for i, source in enumerate(prefill.layers):
            layers[source.layer_idx] = TrieLayer(source, table.patterns, table.which[:, i], new_tokens)
        for i, sliding in prefill.sliding.items():
            layers[i] = repeated(sliding, 1)
        super().__init__(layers=layers)
        self.active = np.arange(len(table.which), dtype=np.int64)
        self.histories = np.zeros_like(self.active)
        self.partition = Partition(self.active, [self.histories] * (shape.num_layers + 1))  # one node: the prompt

    def keep_rows(self, rows: torch.Tensor) -> None:
        """Rows that have ended leave; `rows` are places among those still there."""
        self.active, self.histories = self.active[rows.numpy()], self.histories[rows.numpy()]

    def take(self, ids: torch.Tensor) -> torch.Tensor:
        """Notes the next tokens of the rows still there, int64 [rows, t] on the CPU, and rearranges every layer.

        Gives the tokens of each node at the model's input, [nodes, t].
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
        """What the input of model layer `index` must be expanded by: [output nodes], or None to leave it."""
        layer = self.layers[index]
        return layer.plan.parents if isinstance(layer, TrieLayer) and layer.plan else None

    def nodes(self) -> torch.Tensor:
        """Of every row still there, its node at the model's output: int64 [rows] on the CPU."""
        return torch.from_numpy(self.partition.levels[-1])


def _same(before: Partition, after: Partition, level: int) -> bool:
    """Whether the same rows are in the same nodes."""
    return np.array_equal(before.rows, after.rows) and np.array_equal(before.levels[level], after.levels[level])


def expandable(model: PreTrainedModel) -> bool:
    """Whether the model keeps its decoder layers where `expanding` finds them."""
    layers = getattr(model.get_decoder(), "layers", None)
    config = model.config.get_text_config(decoder=True)
    return isinstance(layers, torch.nn.ModuleList) and len(layers) == config.num_hidden_layers


@contextmanager
def expanding(model: PreTrainedModel, cache: TrieCache) -> Iterator[None]:
    """Inside, every decoder layer of `model` receives its nodes' hidden states, by pre-hooks removed on exit."""
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
            where = cache.expansion(index)
            if where is None:
                return args, kwargs
            if args:
                return (args[0].index_select(0, where), *args[1:]), kwargs
            kwargs["hidden_states"] = kwargs["hidden_states"].index_select(0, where)
            return args, kwargs

        return expand

    hooks = [
        layer.register_forward_pre_hook(hook(i), with_kwargs=True) for i, layer in enumerate(model.get_decoder().layers)
    ]
    try:
        yield
    finally:
        for made in hooks:
            made.remove()
