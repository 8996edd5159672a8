"""One method: a scorer, an allocator and a budget make a Selection.

The total is kv_budget * num_layers * num_kv_heads slots; the allocator splits it over the heads; each head keeps its
best-scored tokens, those that must stay first, ties to the earlier position. A scorer whose ranking depends on how
many a head may keep refines it then. A prompt no longer than kv_budget is kept whole by every method.

Knows nothing of which methods there are, nor of tasks, models or decoding: `policy` is a name that the engine gives a
meaning to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch

from cokv.methods.allocators import Allocator
from cokv.methods.score_cache import ScoreCache, ranking, scored, see
from cokv.methods.scorers import Refines, Scorer
from cokv.types import JSON, Budgets, CokvError, Selection

if TYPE_CHECKING:
    from cokv.cache.prefill import Prefill, PrefillLayer
    from cokv.model.loading import Shape
    from cokv.model.observe import Observer, Replayer


@runtime_checkable
class OfAShape(Protocol):
    """A profile that can say whether it fits a model: head scores, curves."""

    def require_shape(self, num_layers: int, num_kv_heads: int) -> Any: ...


SET_BY_PRESET = frozenset({"exact"})  # what makes a preset a preset is not a parameter


@dataclass(frozen=True)
class Method:
    """A method with its hyper-parameters settled; `get_method` makes one from the table."""

    name: str
    title: str
    preset: str
    scorer: Scorer | None
    allocator: Allocator | None
    policy: str
    profile: str  # what `select` must be given as `profile`, in words; "" for nothing
    profile_kinds: tuple[str, ...]
    paper: str
    note: str
    source: str = ""  # which code it is, for a scorer that is not this package's
    decoding: tuple[tuple[str, JSON], ...] = ()  # parameters of the policy that are none of the scorer's

    @property
    def needs_profile(self) -> bool:
        return self.profile != ""

    @property
    def window_size(self) -> int:
        """How many of the last prompt queries the prefill must hold: 0 for none."""
        return self.scorer.window_size if self.scorer else 0

    @property
    def observers(self) -> tuple[Observer | Replayer, ...]:
        """What the prefill must look at besides: `prefill(..., observers=method.observers)`."""
        return getattr(self.scorer, "observers", ())

    @property
    def exact(self) -> bool:
        """True: the selection holds the whole total on every prompt."""
        return self.allocator is None or self.allocator.exact

    @property
    def parameters(self) -> dict[str, JSON]:
        return {**parameters(self.scorer, self.allocator), **dict(self.decoding)}

    def spec(self) -> dict[str, JSON]:
        """All that decides what is kept, for a run's record and hash."""
        said: dict[str, JSON] = {
            "method": self.name,
            "preset": self.preset,
            "policy": self.policy,
            "parameters": self.parameters,
        }
        return {**said, "source": self.source} if self.source else said

    def select(
        self,
        prefill: Prefill,
        kv_budget: int | None,
        profile: Any = None,
        score_cache: ScoreCache | None = None,
    ) -> Selection:
        """Which prompt positions stay. Full takes any kv_budget and keeps all.

        profile: head scores, or whatever else the method's row in the table says it needs.
        score_cache: a dict the caller owns. Methods whose scorers are equal then score and measure a prefill once;
        what is found in it that belongs to another prefill is replaced, never used.
        """
        num_layers, num_kv_heads, seq_len = _shape(prefill)
        if self.scorer is None or self.allocator is None:
            return Selection.full(num_layers, num_kv_heads, seq_len)
        with self._named():
            slots = self._checked(kv_budget, profile, num_layers, num_kv_heads)
            if slots >= seq_len:
                return Selection.full(num_layers, num_kv_heads, seq_len)
            self.scorer.check_budget(slots)
            of_prompt = self.allocator.looks_at == "prompt"
            seen = see(self.scorer, prefill, score_cache, measure=of_prompt)
            budgets = self._budgets(seen.scores, slots, seen.measured if of_prompt else profile)
            return self._keep(prefill.layers, seen.scores, budgets)

    def layer_select(
        self, shape: Shape, kv_budget: int | None, profile: Any = None
    ) -> Callable[[PrefillLayer], list[torch.Tensor]]:
        """The same selection, one layer at a time as the prompt is read: for `RaggedCache(config, select=...)`.

        Positions of each KV head are those `select` would keep, of the same `profile`. Refuses methods that look at
        all prompt queries, which such a cache does not hold, or share slots between layers by what they read, which
        needs all layers. No prompt is known yet, so a kv_budget that no longer prompt could be compressed to is
        refused here, before one is read.
        """
        if self.observers or (self.allocator and self.allocator.looks_at not in ("layer_scores", "shape")):
            raise CokvError(
                f"{self.name}: must see the whole prefill, so it cannot compress one layer at a time; "
                "use prefill(...), select(...) and decode(...)"
            )
        if self.scorer is None or self.allocator is None:
            return _every_position
        scorer, by_shape = self.scorer, self.allocator.looks_at == "shape"
        places = {layer_idx: place for place, layer_idx in enumerate(shape.full_layers)}
        with self._named():
            slots = self._checked(kv_budget, profile, shape.num_layers, shape.num_kv_heads)
            scorer.check_budget(slots)
            if by_shape:  # what the shortest prompt that is compressed may not have, no longer one may
                blank = torch.zeros(()).expand(shape.num_kv_heads, slots + 1)
                self._budgets([blank] * shape.num_layers, slots, profile)

        def select(layer: PrefillLayer) -> list[torch.Tensor]:
            heads, seq_len, _ = layer.keys.shape
            with self._named():
                if layer.layer_idx not in places or heads != shape.num_kv_heads:
                    raise CokvError(
                        f"layer {layer.layer_idx} has {heads} KV heads, but the selection was made for "
                        f"{shape.num_kv_heads} in layers {', '.join(map(str, places))}; give layer_select the shape "
                        "of this model"
                    )
                if slots >= seq_len:
                    return _every_position(layer)
                scores = scored(scorer, layer)
                budgets = self._budgets([scores] * (shape.num_layers if by_shape else 1), slots, profile)
                place = places[layer.layer_idx] if by_shape else 0
                kept = self._keep([layer], [scores], Budgets(budgets.values[place : place + 1]))
            return [kept.head(0, h) for h in range(heads)]

        return select

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Puts the method's name in front of a CokvError raised inside."""
        try:
            yield
        except CokvError as error:
            raise CokvError(f"{self.name}: {error}") from None

    def _checked(self, kv_budget: object, profile: Any, num_layers: int, num_kv_heads: int) -> int:
        """kv_budget, if it is one and the profile is of this method and model.

        A profile without provenance is taken at its word; one that says it is of another kind is not.
        """
        if isinstance(kv_budget, bool) or not isinstance(kv_budget, (int, np.integer)) or kv_budget < 1:
            raise CokvError(f"kv_budget is {kv_budget!r}, expected a positive whole number of KV slots per head")
        if self.needs_profile:
            if profile is None:
                raise CokvError(f"needs {self.profile} and got none; compute them on this model or load a file")
            kind = getattr(profile, "provenance", {}).get("kind")
            if isinstance(kind, str) and not kind.startswith(self.profile_kinds):
                raise CokvError(f"needs {self.profile} and got a profile of kind {kind!r}; give it one of its own")
            if isinstance(profile, OfAShape):
                profile.require_shape(num_layers, num_kv_heads)
        return int(kv_budget)

    def _budgets(self, scores: list[torch.Tensor], kv_budget: int, profile: Any) -> Budgets:
        """Of as many layers as there are scores, each [num_kv_heads, seq_len]."""
        assert self.scorer is not None and self.allocator is not None
        num_kv_heads, seq_len = scores[0].shape
        total = kv_budget * len(scores) * num_kv_heads
        budgets = self.allocator.budgets(scores, total, seq_len, self.scorer.reserved(seq_len), profile)
        assert not self.exact or budgets.total == total, (self.name, budgets.total, total)
        return budgets

    def _keep(self, layers: Sequence[PrefillLayer], scores: list[torch.Tensor], budgets: Budgets) -> Selection:
        """Of as many layers as there are budgets; scores that depend on them are refined first."""
        if isinstance(self.scorer, Refines):
            counts = torch.from_numpy(budgets.values.copy())
            refined = [self.scorer.refine(*three) for three in zip(layers, scores, counts, strict=True)]
            scores = [ranking(*pair) for pair in zip(refined, layers, strict=True)]
        return _keep_best(scores, budgets)


def _every_position(layer: PrefillLayer) -> list[torch.Tensor]:
    heads, seq_len, _ = layer.keys.shape
    return [torch.arange(seq_len)] * heads


def _keep_best(scores: list[torch.Tensor], budgets: Budgets) -> Selection:
    """Each head's best-scored tokens, ties to the lower position (a stable sort: the same on every device)."""
    positions, seq_len = [], scores[0].shape[1]
    for layer, counts in zip(scores, budgets.values, strict=True):
        order = layer.sort(dim=-1, descending=True, stable=True).indices
        rank = torch.arange(seq_len, device=layer.device)
        kept = rank < torch.tensor(counts, device=layer.device)[:, None]
        mask = torch.zeros_like(kept).scatter_(-1, order, kept)
        positions.append(mask.nonzero()[:, 1].cpu())
    return Selection(torch.cat(positions), budgets.values, seq_len)


def _shape(prefill: Prefill) -> tuple[int, int, int]:
    """num_layers, num_kv_heads, seq_len"""
    heads = {layer.keys.shape[0] for layer in prefill.layers}
    if len(heads) != 1:
        raise CokvError(f"layers have {sorted(heads)} KV heads, expected one number, the same in every layer")
    return len(prefill.layers), heads.pop(), prefill.seq_len


def parameters(scorer: Scorer | None, allocator: Allocator | None) -> dict[str, JSON]:
    """Hyper-parameters by name, those a preset settles left out."""
    parts = [part for part in (scorer, allocator) if part is not None]
    return {
        field.name: getattr(part, field.name)
        for part in parts
        for field in fields(part)  # type: ignore[arg-type]  # every scorer and allocator is a dataclass
        if field.name not in SET_BY_PRESET
    }
