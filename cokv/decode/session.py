"""Rows in a cache, reading tokens: the ragged, shared and trie ways behind one call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Literal, get_args

import torch
from transformers import PreTrainedModel

from cokv.cache.attention import buckets
from cokv.cache.cache import RaggedCache
from cokv.cache.prefill import Prefill
from cokv.cache.storage.plain import PlainRows
from cokv.cache.storage.ragged import Attend
from cokv.cache.storage.rows import MemoryUsage
from cokv.decode.batches import Row, Way
from cokv.decode.head_mask import HeadMask, Kept, Table, kept_tokens
from cokv.decode.rerun import expect_last, holding_last, shortened, without_last
from cokv.decode.shared import SharedCache
from cokv.decode.trie import TrieCache, expanding
from cokv.types import CokvError

FirstToken = Literal["prefill", "compressed"]
Nodes = torch.Tensor | None
"""Of every row, which row of the logits is its own: int64 [rows] on the CPU. None: each has its own, in order."""


class DecodeSession:
    """Rows over one prompt, all equally far. What they read goes into their caches."""

    def __init__(self, model: PreTrainedModel, cache: RaggedCache | SharedCache | TrieCache, prefill: Prefill) -> None:
        self.model, self.cache, self.position = model, cache, prefill.seq_len
        self.held: list[MemoryUsage] = []  # what each row holds before the first step, and its slack at the end
        self.there: list[int] = []  # rows that have not left

    def count(self, prefill: Prefill, kept: list[Kept], further: int = 0) -> None:
        """Takes stock of the rows. `further`: tokens that every head holds beside those it keeps of the prompt."""
        self.there = list(range(len(kept)))
        if isinstance(self.cache, RaggedCache):
            self.held = self.cache.held()
            return
        more = further * prefill.shape.num_layers * prefill.shape.num_kv_heads
        slots = [kept_tokens(row, prefill.shape) + more for row in kept]
        self.held = [MemoryUsage(row, row * prefill.token_bytes) for row in slots]

    def read(self, ids: torch.Tensor, every: bool = False) -> tuple[torch.Tensor, Nodes]:
        """Takes the next tokens of every row, int64 [rows, t] on the CPU.

        Gives the logits after the last of them, or after `every` one: [nodes, 1 or t, vocab_size]; and the rows' nodes.
        """
        trie = self.cache if isinstance(self.cache, TrieCache) else None
        if trie is not None:
            ids = trie.take(ids)
        device = self.model.device
        positions = torch.arange(self.position, self.position + ids.shape[1], device=device)[None]
        logits: torch.Tensor = self.model(
            input_ids=ids.to(device),
            past_key_values=self.cache,
            position_ids=positions,
            use_cache=True,
            logits_to_keep=0 if every else 1,
        ).logits
        self.position += ids.shape[1]
        return logits, None if trie is None else trie.nodes()

    def drop_finished(self, going: list[int]) -> None:
        """All but these rows leave; places among those still there."""
        self.count_slack()
        self.there = [self.there[place] for place in going]
        self.cache.keep_rows(torch.tensor(going))

    def count_slack(self) -> None:
        """Notes what the storage of the rows still there has free: their last tokens have been read."""
        if isinstance(self.cache, RaggedCache):
            for row, free in zip(self.there, _slack(self.cache, len(self.there)), strict=True):
                self.held[row] = replace(self.held[row], slack_bytes=free)


def _slack(cache: RaggedCache, rows: int) -> list[int]:
    """Of each row: its own where tokens are stored as they are, and heads differ in it; else a share of the store's."""
    found = [0] * rows
    for layer in cache.ragged_layers:
        for places, store in layer.parts:
            mine = places.tolist()
            if isinstance(store, PlainRows):
                free = store.store.free_bytes.view(len(mine), -1).sum(1).tolist()
            else:
                share = (store.storage_bytes - sum(row.bytes for row in store.held())) // len(mine)
                free = [share] * len(mine)
            for place, size in zip(mine, free, strict=True):
                found[place] += size
    return found


@contextmanager
def start_session(
    model: PreTrainedModel,
    prefill: Prefill,
    rows: Sequence[Row],
    way: Way,
    new_tokens: int,
    suffix: torch.Tensor | None = None,
    first_token: FirstToken = "prefill",
    attend: Attend = buckets.attend,
) -> Iterator[tuple[DecodeSession, torch.Tensor, Nodes]]:
    """Rows that have read the prompt and the suffix, with the logits [nodes, vocab_size] of their first token.

    Inside `engine(model)`. Without a suffix these logits are the prefill's own, or those of the last prompt token run
    again on the compressed cache. `new_tokens`: how many more each row may read.
    """
    if first_token not in get_args(FirstToken):
        raise CokvError(f"first_token is {first_token!r}; expected one of {', '.join(get_args(FirstToken))}")
    kept = whole = [row.selection for row in rows]
    rerun = suffix is None and first_token == "compressed"
    if rerun:
        suffix, prefill = prefill.input_ids[-1:], without_last(prefill)
        whole = holding_last(list(rows))
        kept = shortened(whole)
    room = new_tokens + (0 if suffix is None else suffix.numel())
    cache: RaggedCache | SharedCache | TrieCache
    if way == "ragged":
        heads = prefill.shape.num_kv_heads
        # Of `whole`, the last token may be unread: it has its slot nevertheless.
        selections = [k.selection(heads) if isinstance(k, HeadMask) else k for k in whole]
        cache = RaggedCache.of(prefill, selections, [row.policy for row in rows], attend=attend)
        if rerun:
            expect_last(cache)
    elif way == "shared":
        cache = SharedCache(prefill, kept, room)
    else:
        cache = TrieCache(prefill, Table.of(prefill, kept), room)
    reader = DecodeSession(model, cache, prefill)
    reader.count(prefill, kept)
    with expanding(model, cache) if isinstance(cache, TrieCache) else nullcontext():
        if suffix is None:
            yield reader, prefill.first_logits[None], torch.zeros(len(rows), dtype=torch.int64)
        else:
            logits, nodes = reader.read(suffix.cpu().expand(len(rows), -1))
            if rerun:
                reader.count(prefill, kept, further=1)
            yield reader, logits[:, -1], nodes
