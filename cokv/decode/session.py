"""Decoding sessions: rows that read tokens together, behind one interface for the ragged, shared and trie ways."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Literal, get_args

import torch
from transformers import PreTrainedModel

from cokv.cache.attention import choose
from cokv.cache.attention.backend import Attend
from cokv.cache.cache import RaggedCache
from cokv.cache.compat import cache_argument
from cokv.cache.prefill import Prefill
from cokv.cache.storage.plain import PlainRows
from cokv.cache.storage.rows import MemoryUsage
from cokv.decode.batches import Row, Way
from cokv.decode.graphed import GraphedStep
from cokv.decode.head_mask import HeadMask, Kept, RowTable, kept_tokens
from cokv.decode.rerun import expect_last, holding_last, shortened, without_last
from cokv.decode.shared import SharedCache
from cokv.decode.trie import TrieCache, expanding
from cokv.types import CokvError

FirstToken = Literal["prefill", "compressed"]
Nodes = torch.Tensor | None
"""The row of the logits that belongs to each row: int64 [rows] on the CPU. None: logits have one row each, in order."""


class DecodeSession:
    """Rows over one prompt that advance in step; their caches store what they read."""

    def __init__(self, model: PreTrainedModel, cache: RaggedCache | SharedCache | TrieCache, prefill: Prefill) -> None:
        self.model, self.cache, self.position = model, cache, prefill.seq_len
        self.held: list[MemoryUsage] = []  # of each row before the first step, with its slack at the end
        self.active: list[int] = []  # rows that have not finished
        self.step: GraphedStep | None = None

    def record_usage(self, prefill: Prefill, kept: list[Kept], extra: int = 0) -> None:
        """Records the rows' memory. `extra`: tokens that every head holds besides those it keeps of the prompt."""
        self.active = list(range(len(kept)))
        if isinstance(self.cache, RaggedCache):
            self.held = self.cache.held()
            return
        extra_slots = extra * prefill.shape.num_layers * prefill.shape.num_kv_heads
        row_slots = [kept_tokens(row, prefill.shape) + extra_slots for row in kept]
        self.held = [MemoryUsage(slots, slots * prefill.token_bytes) for slots in row_slots]

    def read(self, ids: torch.Tensor, every: bool = False) -> tuple[torch.Tensor, Nodes]:
        """Reads the next tokens of every active row, int64 [rows, t] on the CPU.

        Returns the logits after the last token, or after every one: [nodes, 1 or t, vocab_size]; and the rows' nodes.
        """
        if self.step is not None and ids.shape[1] == 1:
            self.position += 1
            return self.step(ids.to(self.model.device))[:, None], None
        trie = self.cache if isinstance(self.cache, TrieCache) else None
        if trie is not None:
            ids = trie.advance(ids)
        device = self.model.device
        positions = torch.arange(self.position, self.position + ids.shape[1], device=device)[None]
        logits: torch.Tensor = self.model(
            input_ids=ids.to(device),
            **cache_argument(self.cache),
            position_ids=positions,
            use_cache=True,
            logits_to_keep=0 if every else 1,
        ).logits
        self.position += ids.shape[1]
        return logits, None if trie is None else trie.nodes()

    def drop_finished(self, unfinished: list[int]) -> None:
        """Drops all other rows from the batch. unfinished: indices among the active rows."""
        self.record_slack()
        self.active = [self.active[i] for i in unfinished]
        self.cache.keep_rows(torch.tensor(unfinished))
        if self.step is not None:
            self.record_steps()

    def record_steps(self) -> None:
        """From now on steps of one token are replays of a recorded one. Raises CokvError where they cannot be."""
        if not isinstance(self.cache, RaggedCache):
            raise CokvError(f"graph: {type(self.cache).__name__} cannot be recorded; decode with way='ragged'")
        self.step = GraphedStep(self.model, self.cache)

    def record_slack(self) -> None:
        """Records the unused bytes of the active rows' storage, once they have read their last tokens."""
        if isinstance(self.cache, RaggedCache):
            for row, slack in zip(self.active, _slack(self.cache, len(self.active)), strict=True):
                self.held[row] = replace(self.held[row], slack_bytes=slack)


def _slack(cache: RaggedCache, rows: int) -> list[int]:
    """Unused bytes of each row: exact in plain storage; elsewhere an equal share of the storage's unused bytes."""
    slack = [0] * rows
    for layer in cache.ragged_layers:
        for part_rows, store in layer.parts:
            indices = part_rows.tolist()
            if isinstance(store, PlainRows):
                unused = store.store.free_bytes.view(len(indices), -1).sum(1).tolist()
            else:
                share = (store.storage_bytes - sum(row.bytes for row in store.held())) // len(indices)
                unused = [share] * len(indices)
            for row, size in zip(indices, unused, strict=True):
                slack[row] += size
    return slack


@contextmanager
def start_session(
    model: PreTrainedModel,
    prefill: Prefill,
    rows: Sequence[Row],
    way: Way,
    new_tokens: int,
    suffix: torch.Tensor | None = None,
    first_token: FirstToken = "prefill",
    attend: Attend = choose.attend,
    graph: bool = False,
) -> Iterator[tuple[DecodeSession, torch.Tensor, Nodes]]:
    """Rows that have read the prompt and the suffix, with the logits [nodes, vocab_size] of their first token.

    Call inside `ragged_attention(model)`. Without a suffix the logits are the prefill's, or those of the last prompt
    token run again on the compressed cache. `new_tokens`: how many more tokens each row may read. `graph`: steps of one
    token are CUDA graphs.
    """
    if first_token not in get_args(FirstToken):
        raise CokvError(f"first_token is {first_token!r}; expected one of {', '.join(get_args(FirstToken))}")
    kept = with_last = [row.selection for row in rows]
    rerun = suffix is None and first_token == "compressed"
    if rerun:
        suffix, prefill = prefill.input_ids[-1:], without_last(prefill)
        with_last = holding_last(list(rows))
        kept = shortened(with_last)
    room = new_tokens + (0 if suffix is None else suffix.numel())
    cache: RaggedCache | SharedCache | TrieCache
    if way == "ragged":
        heads = prefill.shape.num_kv_heads
        # The last prompt token has its slot here, even where it is still to be run again.
        selections = [k.selection(heads) if isinstance(k, HeadMask) else k for k in with_last]
        cache = RaggedCache.of(prefill, selections, [row.policy for row in rows], attend=attend)
        if rerun:
            expect_last(cache)
    elif way == "shared":
        cache = SharedCache(prefill, kept, room)
    else:
        cache = TrieCache(prefill, RowTable.of(prefill, kept), room)
    session = DecodeSession(model, cache, prefill)
    session.record_usage(prefill, kept)
    with expanding(model, cache) if isinstance(cache, TrieCache) else nullcontext():
        if suffix is None:
            if graph:
                session.record_steps()
            yield session, prefill.first_logits[None], torch.zeros(len(rows), dtype=torch.int64)
        else:
            logits, nodes = session.read(suffix.cpu().expand(len(rows), -1))
            if rerun:
                session.record_usage(prefill, kept, extra=1)
            if graph:
                session.record_steps()
            yield session, logits[:, -1], nodes
