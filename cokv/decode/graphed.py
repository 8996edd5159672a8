"""A decode step as one CUDA graph: the whole forward pass of one token per row is recorded once, then replayed.

A small model's step is bound by launching its kernels; a replay launches all of them at once. What may change from step
to step lies on the device and is advanced there: the tokens' ids, their positions, and how many tokens each segment
holds. What is fixed is where storage lies: when a segment has used up its slack, an ordinary step lays storage out
anew, one more runs on it, and the next records again. `model.generate` calls the model itself and cannot be served; a
loop can:

    step = GraphedStep(model, cache)          # a cache on CUDA that has read its prompt
    for _ in range(100):
        ids = step(ids).argmax(-1)            # [rows] -> logits [rows, vocab_size]

Only rows that grow, or that drop their oldest token: other rules count on the host. No backend that asks the device.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

from cokv.cache.attention import choose
from cokv.cache.attention.attachment import base_implementation, ragged_attention
from cokv.cache.cache import RaggedCache
from cokv.cache.compat import cache_argument
from cokv.cache.layer import RaggedLayer
from cokv.cache.storage.evictors import OldestEvictor
from cokv.cache.storage.plain import PlainRows
from cokv.cache.tokens_read import TokensRead
from cokv.model.device import sent
from cokv.types import CokvError

Record = Callable[[Callable[[], torch.Tensor]], tuple[Callable[[], None], torch.Tensor]]
CAPTURABLE = ("varlen", "flash", "triton")  # backends that ask nothing of the device or the host's memory


def cuda_graph(work: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
    """Records `work` without doing it: what replays it, and the tensor that a replay fills."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = work()
    return graph.replay, out


class GraphedStep:
    """See above. `replays` and `records` count how the steps so far were made."""

    def __init__(self, model: PreTrainedModel, cache: RaggedCache, record: Record | None = None) -> None:
        """record: in place of `cuda_graph`. Raises CokvError, naming the reason, for what cannot be recorded."""
        self.model, self.cache, self.record = model, cache, record or cuda_graph
        self.stores = [_capturable(layer, on_cuda=record is None) for layer in _ragged(cache)]
        if base_implementation(model) == "eager":
            raise CokvError(
                "GraphedStep: eager attention makes a mask that grows with each step; load the model with "
                "attn_implementation='sdpa'"
            )
        self.records = self.replays = 0
        self._replay: Callable[[], None] | None = None
        self._warm: tuple[int, ...] | None = None  # the layout that an ordinary step has been made on
        self._recorded: tuple[int, ...] | None = None
        rows = len(cache.ragged_layers[0].starts)
        device = cache.ragged_layers[0].device
        with torch.inference_mode(False):
            self.ids = torch.zeros(rows, 1, dtype=torch.int64, device=device)
            self.positions = torch.zeros_like(self.ids)
        self.logits = torch.empty(0)

    @torch.no_grad()
    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """Reads the next token of each row, int64 [rows]; the logits after it [rows, vocab_size], the caller's own."""
        layers = self.cache.ragged_layers
        if ids.numel() != len(self.ids) or len(layers[0].starts) != len(self.ids):
            raise CokvError(
                f"GraphedStep: got {ids.numel()} ids for {len(layers[0].starts)} rows of the cache, made for "
                f"{len(self.ids)}; make a new GraphedStep when rows leave"
            )
        self.ids.copy_(ids.view(-1, 1), non_blocking=True)
        layout = self._layout()
        if self._warm != layout or any(_changes(store) for store in self.stores):
            return self._ordinary()
        if self._recorded != layout:
            self._place()
            with self._for_all_room(), self._without_notes(), ragged_attention(self.model):
                self._replay, self.logits = self.record(self._forward)
            self._recorded, self.records = layout, self.records + 1
        else:
            for layer in layers:
                layer.tokens_seen += 1
            for store in self.stores:
                store.replayed()
        tokens = getattr(self.cache, "tokens", None)
        if tokens is not None:
            tokens.read(layers[0].tokens_seen - 1, self.ids)
        assert self._replay is not None
        self._replay()
        self.replays += 1
        return self.logits.clone()

    def _ordinary(self) -> torch.Tensor:
        """A step that is not replayed; also compiles and allocates what the recorded one must find."""
        layout = self._layout()
        self._place()
        with self._for_all_room(), ragged_attention(self.model):
            logits = self._forward()
        self._warm = layout if layout == self._layout() else None  # a step that laid storage out had other grids
        self._recorded, self._replay = None, None
        return logits.clone()

    def _forward(self) -> torch.Tensor:
        """[rows, vocab_size]. Positions are then those of the next tokens."""
        logits = self.model(
            input_ids=self.ids,
            position_ids=self.positions,
            **cache_argument(self.cache),
            use_cache=True,
            logits_to_keep=1,
        ).logits
        self.positions += 1
        out: torch.Tensor = logits[:, -1]
        return out

    def _place(self) -> None:
        """Positions of the next tokens, from what the host knows."""
        layer = self.cache.ragged_layers[0]
        self.positions.copy_(sent(layer.tokens_seen - layer.starts, self.positions.device)[:, None])

    def _layout(self) -> tuple[int, ...]:
        """Where storage lies."""
        stores = [store.store for store in self.stores]
        return tuple(part.data_ptr() for store in stores for part in (store.k, store.v, store.starts, store.lengths))

    @contextmanager
    def _without_notes(self) -> Iterator[None]:
        """What the cache notes of each forward pass at a place that the host knows, it notes beside the graph."""
        tokens = getattr(self.cache, "tokens", None)
        if tokens is not None:
            self.cache.tokens = TokensRead()  # type: ignore[attr-defined]
        try:
            yield
        finally:
            if tokens is not None:
                self.cache.tokens = tokens  # type: ignore[attr-defined]

    @contextmanager
    def _for_all_room(self) -> Iterator[None]:
        """Grids are made for the lengths that segments can have before storage is laid out again."""
        ahead = [int(min(store.store.room, sys.maxsize >> 1)) for store in self.stores]
        for store, steps in zip(self.stores, ahead, strict=True):
            store.bounds.steps += steps
        try:
            yield
        finally:
            for store, steps in zip(self.stores, ahead, strict=True):
                store.bounds.steps -= steps


def _changes(store: PlainRows) -> bool:
    """Whether the next step lays storage out anew, or is another kind of step than those after it."""
    growing = any(isinstance(evictor, OldestEvictor) and not evictor.full(store.store) for evictor in store.evictors)
    return store.store.stale or store.store.room < 1 or growing


def _ragged(cache: RaggedCache) -> list[RaggedLayer]:
    for layer in cache.layers:
        if not isinstance(layer, RaggedLayer):
            raise CokvError(
                f"GraphedStep: layers of {type(layer).__name__} grow by copying, which a graph cannot; use a model "
                "whose layers all attend fully"
            )
    return cache.ragged_layers


def _capturable(layer: RaggedLayer, on_cuda: bool) -> PlainRows:
    """The layer's one store. Raises CokvError for others."""
    if not layer.parts:
        raise CokvError("GraphedStep: the cache has read no prompt yet; run the model on the prompt first")
    (_, store), *more = layer.parts
    others = [] if not isinstance(store, PlainRows) else [e for e in store.evictors if type(e) is not OldestEvictor]
    if more or others or not isinstance(store, PlainRows):
        what = type(others[0] if others else (more[0][1] if more else store)).__name__
        raise CokvError(
            f"GraphedStep: rows with {what} decide on the host what a step does; use a method that only grows "
            "(such as snapkv or full) or drops its oldest tokens (streamingllm)"
        )
    if on_cuda and (layer.device.type != "cuda" or layer.attention not in CAPTURABLE):
        available = [name for name in CAPTURABLE if choose.missing(name) is None]
        raise CokvError(
            f"GraphedStep: attention {layer.attention!r} on {layer.device} cannot be recorded; expected a cache on "
            f"CUDA with one of {', '.join(CAPTURABLE)}, of which are available: {', '.join(available) or 'none'}"
        )
    return store
