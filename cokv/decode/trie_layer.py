"""One layer of the trie way: the prompt's K and V once, the new tokens per node, one product per set of kept positions.

Attention over the prompt is computed once per (KV head, query, kept positions), and only over the positions kept.
Which nodes there are is trie.py's affair.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from cokv.cache.attention.host_bounds import sent
from cokv.cache.prefill import PrefillLayer
from cokv.decode.partition import Partition, Products, products, representatives
from cokv.decode.prompt_layer import SharingLayer
from cokv.types import IntArray

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


class TrieLayer(SharingLayer):
    """One full-attention layer: the prompt once, the new tokens per input node."""

    def __init__(self, source: PrefillLayer, patterns: torch.Tensor, which: IntArray, new_tokens: int) -> None:
        """patterns: bool [patterns, seq_len]; which [rows, heads]: each row's pattern of every head in this layer."""
        super().__init__(source.layer_idx)
        self.lazy_initialization(source.keys, source.values)
        self.num_kv_heads, self.tokens_seen, self.head_dim = source.keys.shape
        present, local = np.unique(which, return_inverse=True)
        self.which = local.reshape(len(which), self.num_kv_heads, -1)
        self.many = len(present) > FEW
        self.patterns = patterns[torch.from_numpy(present)]
        everything = torch.ones(1, self.tokens_seen, dtype=torch.bool)
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
                tokens_seen = logits.view(heads * width, block, -1).masked_fill_(plan.masked[mine, None], -torch.inf)
                top = tokens_seen.amax(-1, keepdim=True).clamp(min=torch.finfo(logits.dtype).min).view(heads, -1, 1)
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
