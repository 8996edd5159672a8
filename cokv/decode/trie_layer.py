"""One layer of the trie way: the prompt's K and V once, the new tokens per node, one product per pattern.

Attention over the prompt is computed once per (KV head, query, pattern), and only over the positions that the pattern
keeps. trie.py decides what the nodes are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from cokv.cache.attention.host_bounds import sent
from cokv.cache.attention.reference import capped
from cokv.cache.prefill import PrefillLayer
from cokv.decode.partition import Partition, products, representatives
from cokv.decode.prompt_layer import SharingLayer
from cokv.types import IntArray

MAX_PRODUCTS = 4  # a layer with at most this many patterns has one product per pattern; with more, one masked product


@dataclass(frozen=True, eq=False)
class _Plan:
    """One layer's `Products` on the device. None: an index that would change nothing."""

    parents: torch.Tensor | None  # [output nodes] input node
    children: torch.Tensor | None  # [input nodes] one of its output nodes
    queries: torch.Tensor
    masked: torch.Tensor | None  # bool [entries, seq_len], True where not visible; None with a product per pattern
    widths: list[int]
    entry: torch.Tensor  # flattened


class TrieLayer(SharingLayer):
    """One full-attention layer: the prompt once, the new tokens per input node."""

    def __init__(self, source: PrefillLayer, patterns: torch.Tensor, which: IntArray, new_tokens: int) -> None:
        """patterns: bool [patterns, seq_len]; which [rows, heads]: each row's pattern of every head in this layer."""
        super().__init__(source.layer_idx)
        self.lazy_initialization(source.keys, source.values)
        self.num_kv_heads, self.tokens_seen, self.head_dim = source.keys.shape
        used, local = np.unique(which, return_inverse=True)
        self.which = local.reshape(len(which), self.num_kv_heads, -1)
        self.use_mask = len(used) > MAX_PRODUCTS
        self.patterns = patterns[torch.from_numpy(used)]
        whole = torch.ones(1, self.tokens_seen, dtype=torch.bool)
        self.bucket: IntArray = np.zeros(len(used), np.int64) if self.use_mask else np.arange(len(used))
        self.stored = [_gathered(source, kept) for kept in (whole if self.use_mask else self.patterns)]
        shape = (1, self.num_kv_heads, new_tokens, self.head_dim)
        self.tail_keys = torch.empty(shape, dtype=self.dtype, device=self.device)
        self.tail_values = torch.empty_like(self.tail_keys)
        self.used, self.softcap = 0, source.softcap
        self.plan: _Plan | None = None

    def arrange(self, partition: Partition, layer: int, moved: IntArray | None) -> None:
        """Switches to a new partition. `moved`: for every input node, the node that stored its new tokens before."""
        if moved is not None:
            index = self._put(moved)
            self.tail_keys, self.tail_values = self.tail_keys[index], self.tail_values[index]
        below, above = partition.nodes(layer), partition.nodes(layer + 1)
        parents = partition.parents(layer)
        rows = partition.rows[representatives(partition.levels[layer + 1])]
        layer_products = products(parents, self.which[rows], below, self.bucket)
        same = below == above  # then input and output nodes have the same numbers
        self.plan = _Plan(
            None if same else self._put(parents),
            None if same else self._put(partition.children(layer)),
            self._put(layer_products.queries),
            sent(~self.patterns[torch.from_numpy(layer_products.pattern)], self.device) if self.use_mask else None,
            layer_products.widths,
            self._put(layer_products.entry.reshape(-1)),
        )

    def _put(self, index: IntArray) -> torch.Tensor:
        return sent(torch.from_numpy(index), self.device)

    def attend(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        scaling: float,
        sinks: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """queries: [output nodes, num_heads, t, head_dim], equal for all children of an input node."""
        plan, heads = self.plan, self.num_kv_heads
        assert plan is not None, "a trie layer is arranged before every step"
        nodes_out, num_heads, t, dim = queries.shape
        if plan.children is not None:
            queries, keys, values = (x.index_select(0, plan.children) for x in (queries, keys, values))
        nodes, columns = queries.shape[0], self.which.shape[2]
        wide = torch.promote_types(queries.dtype, torch.float32)
        scaled = (queries.to(wide) * scaling).reshape(nodes, heads, columns, -1, dim)  # [..., block, head_dim]
        block = scaled.shape[3]
        by_head = scaled.transpose(0, 1).reshape(heads * nodes * columns, block * dim)
        old, old_lse = self._prompt(by_head.index_select(0, plan.queries), plan, block)
        old, old_lse = (x.index_select(0, plan.entry).view(nodes_out, heads, -1, x.shape[-1]) for x in (old, old_lse))

        new, new_lse = self._new(scaled.reshape(nodes, heads, -1, dim), keys, values, t)
        if plan.parents is not None:
            new, new_lse = new.index_select(0, plan.parents), new_lse.index_select(0, plan.parents)
        share = torch.sigmoid(new_lse - old_lse.view_as(new_lse))[..., None]  # of the new tokens
        out = torch.lerp(old.reshape(new.shape), new, share)
        if sinks is not None:
            lse = torch.logaddexp(old_lse.view_as(new_lse), new_lse).view(nodes_out, num_heads, t)
            out = out.view(nodes_out, num_heads, t, dim) * (lse - sinks.to(lse.dtype)[:, None]).sigmoid()[..., None]
        return out.view(nodes_out, num_heads, t, dim).to(values.dtype)

    def _prompt(self, queries: torch.Tensor, plan: _Plan, block: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Attention of the entries [entries, block * head_dim] over their patterns' positions, and its log-sum-exp."""
        outs, sums, start, heads, dim = [], [], 0, self.num_kv_heads, self.head_dim
        for (keys, values), width in zip(self.stored, plan.widths, strict=True):
            entries = slice(start, start + heads * width)
            start += heads * width
            if keys.shape[1] == 0:
                outs.append(queries.new_zeros(heads * width, block * dim))
                sums.append(queries.new_full((heads * width, block), -torch.inf))
                continue
            logits = queries[entries].view(heads, width * block, dim) @ keys.to(queries.dtype).transpose(1, 2)
            logits = capped(logits, self.softcap)
            if plan.masked is None:
                top = logits.amax(-1, keepdim=True)
                weights = logits.softmax(-1)
                lse = top - weights.amax(-1, keepdim=True).log()  # the largest weight is exp(top - lse)
                out = (weights.to(values.dtype) @ values).to(queries.dtype)
            else:  # softmax by hand, because an entry may have no visible position
                visible = logits.view(heads * width, block, -1).masked_fill_(plan.masked[entries, None], -torch.inf)
                top = visible.amax(-1, keepdim=True).clamp(min=torch.finfo(logits.dtype).min).view(heads, -1, 1)
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
        logits = capped(queries @ self.tail_keys[:, :, :used].to(queries.dtype).transpose(-1, -2), self.softcap)
        if t > 1:
            ahead = ~torch.ones(t, used, dtype=torch.bool, device=logits.device).tril(used - t)
            logits.view(*logits.shape[:2], -1, t, used).masked_fill_(ahead, -torch.inf)
        out = logits.softmax(-1).to(values.dtype) @ self.tail_values[:, :, :used]
        return out.to(queries.dtype), logits.logsumexp(-1)


def _gathered(source: PrefillLayer, kept: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """K and V [num_kv_heads, kept, head_dim] of the kept positions; a view where these are contiguous."""
    positions = kept.nonzero()[:, 0]
    if len(positions) == 0 or int(positions[-1] - positions[0]) + 1 == len(positions):
        span = slice(int(positions[0]), int(positions[-1]) + 1) if len(positions) else slice(0, 0)
        return source.keys[:, span], source.values[:, span]
    positions = positions.to(source.keys.device)
    return source.keys[:, positions], source.values[:, positions]
