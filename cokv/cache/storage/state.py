"""What each store consists of, attribute by attribute: for files, for other devices, and so that nothing is forgotten.

A store that gets a new attribute names it here; a test compares. What is written leaves slack out, and leaves out what
follows from the rest. Knows no file format: see cokv/cache/encoding.py.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from cokv.cache.attention.backend import Attend
from cokv.cache.attention.host_bounds import Bounds
from cokv.cache.policies.packing import Packed
from cokv.cache.storage.attention_evictor import AttentionEvictor
from cokv.cache.storage.compensated import CompensationToken
from cokv.cache.storage.evictors import OldestEvictor
from cokv.cache.storage.host_pages import HostPages
from cokv.cache.storage.mixed import MixedRows
from cokv.cache.storage.plain import PlainRows
from cokv.cache.storage.pruned import PrunedRows
from cokv.cache.storage.quantized import Pool, QuantizedRows
from cokv.cache.storage.ragged import UNCAPPED, RaggedStorage
from cokv.cache.storage.recalled import RecalledRows


@dataclass(frozen=True)
class State:
    """Attributes of one class of stores."""

    name: str  # in files
    device: tuple[str, ...] = ()  # tensors that lie with the layer's keys
    host: tuple[str, ...] = ()  # tensors in CPU memory, plain values, and stores, which have a State of their own
    remade: tuple[str, ...] = ()  # of both, those that are not written; `remake` sets them
    knows_device: bool = False  # whether its attribute `device` says where its tensors lie, or are wanted
    compact: Callable[[Any], Any] = lambda store: store  # the same tokens without slack: a copy, to be written
    remake: Callable[[Any, Attend], None] = lambda store, backend: None  # after all else has been set
    arrive: Callable[[Any], None] = lambda store: None  # after a move to store.device

    @property
    def attributes(self) -> set[str]:
        """All, but for `device`."""
        return {*self.device, *self.host}

    @property
    def written(self) -> set[str]:
        return self.attributes - {*self.remade}


def state_of(value: Any) -> State | None:
    """None for what is no store."""
    return STATES.get(type(value))


def by_name(name: str) -> tuple[type, State] | None:
    return next(((kind, state) for kind, state in STATES.items() if state.name == name), None)


def assign(store: Any, name: str, value: Any) -> None:
    """Frozen classes included: who assigns here has just made the object, or moves it as a whole."""
    object.__setattr__(store, name, value)


def moved(value: Any, device: torch.device, with_keys: bool = False) -> Any:
    """Stores in place, in any nesting of lists, tuples and dicts; tensors only where they lie `with_keys`."""
    if isinstance(value, torch.Tensor):
        return value.to(device) if with_keys else value
    if isinstance(value, (list, tuple)):
        return type(value)(moved(each, device, with_keys) for each in value)
    if isinstance(value, dict):
        return {key: moved(each, device, with_keys) for key, each in value.items()}
    state = state_of(value)
    if state is not None:
        for names, on_device in ((state.device, True), (state.host, False)):
            for name in names:
                assign(value, name, moved(getattr(value, name), device, on_device))
        if state.knows_device:
            assign(value, "device", device)
        state.arrive(value)
    return value


# ---- flat storage


def _tight(store: RaggedStorage) -> RaggedStorage:
    """A segment with a cap keeps one slot more, where it has one: the hole of a rule by attention may lie before it."""
    twin, used = copy.copy(store), store.lengths
    if store.caps is not None:
        used = torch.minimum(used + (store.caps < UNCAPPED).long(), store.capacities)
    twin.starts = used.cumsum(0) - used
    slots = torch.repeat_interleave(store.starts - twin.starts, used)
    slots = slots + torch.arange(len(slots), device=slots.device)
    twin.k, twin.v = store.k[slots], store.v[slots]
    return twin


def _laid_out(store: RaggedStorage, backend: Attend) -> None:
    store.backend, store.dtype, stale = backend, store.k.dtype, store.stale
    store._lay_out(store.starts, store.slack)
    store.stale = stale


# ---- stores of one kind each


def _no_kinds(rows: PlainRows, backend: Attend) -> None:
    rows.kinds = None


def _places(rows: MixedRows, backend: Attend) -> None:
    rows._take(rows.parts)


def _pool_in_order(pool: Pool) -> Pool:
    twin = copy.copy(pool)
    twin.keys, twin.values = pool.keys[pool.places], pool.values[pool.places]
    twin.places = torch.arange(len(pool.places), device=pool.places.device)
    return twin


def _own_stretches(rows: RecalledRows) -> RecalledRows:
    twin = copy.copy(rows)
    digests = max(int(rows.counts.max()) if len(rows.counts) else 0, 1)
    twin.low, twin.high = rows.low[rows.rows, :digests], rows.high[rows.rows, :digests]
    twin.k, twin.v = (part.view(-1, rows.policy.slots, rows.dim)[rows.rows].flatten(0, 1) for part in (rows.k, rows.v))
    twin.rows = torch.arange(len(rows.rows), device=rows.rows.device)
    return twin


def _with_backend(rows: RecalledRows, backend: Attend) -> None:
    rows.backend = backend
    rows.count_filling()


def _counted(rows: QuantizedRows, backend: Attend) -> None:
    rows.count_filling()


def _unasked(evictor: OldestEvictor, backend: Attend) -> None:
    evictor.wait = None


def _pages_in_use(pages: HostPages) -> HostPages:
    twin = copy.copy(pages)
    used, places = pages.index[pages.index >= 0].unique(return_inverse=True)
    twin.index = pages.index.clone()
    twin.index[pages.index >= 0] = places
    twin.pool = pages.pool[used]
    return twin


def _page_facts(pages: HostPages, backend: Attend) -> None:
    pages.dtype, pages.shape = pages.pool.dtype, pages.pool.shape[1:]
    _as_wanted(pages, len(pages.index))


def _as_wanted(pages: HostPages, more: int = 0) -> None:
    """CPU memory of the kind that the device wants, with room for so many pages more."""
    pool, cuda = pages.pool, pages.device.type == "cuda"
    pages.pool = pages._memory(len(pool) + more)
    pages.pool[: len(pool)] = pool
    pages.buffer = pages._memory(len(pages.index)) if cuda else None
    pages._copied = torch.cuda.Event() if cuda else None


_RAGGED = State(
    "ragged",
    device=("k", "v", "lengths", "caps", "starts", "capacities"),
    host=("slack", "widths", "room", "stale", "backend", "dtype"),
    remade=("capacities", "room", "backend", "dtype"),
    knows_device=True,
    compact=_tight,
    remake=_laid_out,
)
STATES: dict[type, State] = {
    RaggedStorage: _RAGGED,
    Bounds: State("bounds", host=("lengths", "caps", "steps")),
    MixedRows: State(
        "mixed", device=("places",), host=("parts",), remade=("places",), knows_device=True, remake=_places
    ),
    PlainRows: State(
        "plain", device=("kinds",), host=("heads", "store", "bounds", "evictors"), remade=("kinds",), remake=_no_kinds
    ),
    OldestEvictor: State(
        "evict_oldest",
        device=("segments", "limits", "sinks", "evicted"),
        host=("capped", "wait"),
        remade=("wait",),
        remake=_unasked,
    ),
    CompensationToken: State(
        "compensate",
        device=("segments", "limits", "sinks", "evicted", "keys", "values", "counts"),
        host=("capped", "wait"),
        remade=("wait",),
        remake=_unasked,
    ),
    AttentionEvictor: State(
        "evict_by_attention",
        device=("segments", "limits", "positions", "memory", "next", "hole"),
        host=("rule", "heads", "step", "drops", "filling", "even", "consecutive", "read", "capped"),
    ),
    PrunedRows: State("pruned", device=("channels",), host=("heads", "older", "newer")),
    QuantizedRows: State(
        "quantized",
        device=("bits",),
        host=("heads", "policy", "channels", "residual", "pools", "filling"),
        remade=("filling",),
        remake=_counted,
    ),
    Pool: State(
        "pool",
        device=("keys", "values", "places", "counts"),
        host=("bits", "channels", "tokens"),
        compact=_pool_in_order,
    ),
    Packed: State("packed", device=("codes", "low", "step"), host=("bits",)),
    RecalledRows: State(
        "recalled",
        device=("counts", "filled", "rows", "numbers", "k", "v", "low", "high"),
        host=("policy", "heads", "dim", "host", "backend", "filling"),
        remade=("backend", "filling"),
        compact=_own_stretches,
        remake=_with_backend,
    ),
    HostPages: State(
        "host_pages",
        host=("index", "pool", "buffer", "dtype", "shape", "_copied"),
        remade=("buffer", "dtype", "shape", "_copied"),
        knows_device=True,
        compact=_pages_in_use,
        remake=_page_facts,
        arrive=_as_wanted,
    ),
}
