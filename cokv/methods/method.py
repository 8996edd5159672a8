"""A method: a scorer ranks tokens, an allocator splits the budget over the heads, a policy rules the cache afterwards.

The total is kv_budget * num_layers * num_kv_heads slots; the allocator splits it over the heads; each head keeps its
reserved tokens and then its best-scored ones, ties to the earlier position. A scorer whose ranking depends on a head's
slots refines its scores once these are known. Every method keeps a prompt no longer than kv_budget whole.

Knows neither the list of methods nor tasks, models or decoding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import torch

from cokv.cache.policies.base import Policy, policy_parameters
from cokv.cache.policies.growth import Grow
from cokv.methods.allocators import Allocator, HasFloor, StatesFacts
from cokv.methods.keep_best import best_positions, keep_best, prefill_shape
from cokv.methods.profile_rules import check_profile
from cokv.methods.score_cache import ScoreCache, ranking, score_layer, score_prefill
from cokv.methods.scorers import Refines, Scorer
from cokv.methods.words import unknown
from cokv.model.observe import Replayer
from cokv.types import JSON, Budgets, CokvError, Infeasible, IntArray, KVBudget, Selection

if TYPE_CHECKING:
    from cokv.cache.prefill import Prefill, PrefillLayer
    from cokv.model.observe import Observer

NORMALIZED = "normalized"
SET_BY_PRESET = frozenset({"exact"})  # fields that a preset decides: no parameters
RELEASED = ("official", "kvpress")  # presets that do what another project's code does, its sizes included

# Who sets a parameter. "paper": it is fixed there, and changing it makes a variant, which tables name. "experiment":
# the papers themselves try several values, as of windows and pooling. "budget": it follows from the budget contract.
Owner = Literal["paper", "experiment", "budget"]


@dataclass(frozen=True)
class Method:
    """A method with its hyper-parameters; a row of the registry is one, in its preset `normalized`."""

    name: str
    title: str
    scorer: Scorer | None = None  # None: keeps everything
    allocator: Allocator | None = None
    policy: Policy = field(default_factory=Grow)  # before `bind`, without a budget
    note: str = ""
    paper: str = "-"
    code: str = "-"
    profile: str = ""  # what `select` needs as `profile`, in words; "" for nothing
    profile_kinds: tuple[str, ...] = ()  # accepted prefixes of the `kind` in the profile's provenance
    preset: str = NORMALIZED
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, compare=False)  # name -> changed fields
    source: str = ""  # version or digest of a scorer from outside this package
    owners: Mapping[str, Owner] = field(default_factory=dict, compare=False)  # of parameters that no paper fixes
    ours: bool = False  # an ablation or combination of this project's own
    coincides: Mapping[str, str] = field(default_factory=dict, compare=False)  # method with the same tokens -> where
    published: Method | None = field(default=None, compare=False, repr=False)  # before parameters were changed

    # ---- presets and parameters

    def with_preset(self, name: str) -> Method:
        """This method in another of its presets."""
        if name == self.preset:
            return self
        if name not in self.presets:
            raise CokvError(f"{self.name}: {unknown('preset', name, [NORMALIZED, *self.presets])}")
        return replace(self, **{"preset": name, "published": None, "ours": False, **self.presets[name]})

    def with_parameters(self, **params: Any) -> Method:
        """With other hyper-parameters: each replaces the scorer's, allocator's and policy's field of that name."""
        for name in params:
            if name not in self.parameters:
                raise CokvError(f"{self.name}: {unknown('parameter', name, self.parameters)}")
        with self._errors_with_name():
            parts = {key: _replaced(getattr(self, key), params) for key in ("scorer", "allocator", "policy")}
        return replace(self, published=self.published or self, **parts)

    @property
    def parameters(self) -> dict[str, JSON]:
        """Hyper-parameters by name, without those that a preset decides."""
        parts = [part for part in (self.scorer, self.allocator) if part is not None]
        values = {f.name: getattr(part, f.name) for part in parts for f in fields(part)}  # type: ignore[arg-type]
        for name, value in policy_parameters(self.policy).items():
            assert values.setdefault(name, value) == value, f"{self.name}: {name} differs between scorer and policy"
        return {name: value for name, value in values.items() if name not in SET_BY_PRESET}

    def owner(self, parameter: str) -> Owner:
        """Who sets a parameter: the paper, the experiment, or the budget contract."""
        return self.owners.get(parameter, "paper")

    @property
    def changed(self) -> dict[str, tuple[JSON, JSON]]:
        """Parameters that differ from the preset's: name -> (value here, value of the preset)."""
        before = (self.published or self).parameters
        return {name: (value, before[name]) for name, value in self.parameters.items() if value != before[name]}

    @property
    def variant(self) -> str:
        """The preset's name; with parameters changed that are not the experiment's to set, these too.

        A kernel of 1 is named always: papers try several kernels, but none without pooling.
        """
        changes = [
            f"{name}={here}"
            for name, (here, _) in self.changed.items()
            if self.owner(name) != "experiment" or (name, here) == ("kernel_size", 1)
        ]
        parts = ([] if changes and self.preset == NORMALIZED else [self.preset]) + changes
        return ", ".join(parts)

    @property
    def label(self) -> str:
        """The name, with the variant where it is not the paper's method: "headkv_r (beta=3)"."""
        return self.name if self.variant == NORMALIZED else f"{self.name} ({self.variant})"

    def spec(self) -> dict[str, JSON]:
        """Everything that decides what is kept, for a run's record and hash."""
        spec: dict[str, JSON] = {
            "method": self.name,
            "preset": self.preset,
            "policy": type(self.policy).__name__,
            "parameters": self.parameters,
        }
        return {**spec, "source": self.source} if self.source else spec

    # ---- requirements

    @property
    def needs_profile(self) -> bool:
        return self.profile != ""

    @property
    def takes_budget(self) -> bool:
        """Whether kv_budget has an effect: it has none on the full cache, quantized or not."""
        return self.scorer is not None or self.policy.takes_budget

    @property
    def window_size(self) -> int:
        """How many of the last prompt queries the prefill must hold: 0 for none."""
        return max(self.scorer.window_size if self.scorer else 0, self.policy.num_queries)

    @property
    def observers(self) -> tuple[Observer | Replayer, ...]:
        """Observers for the prefill: `prefill(..., observers=method.observers)`."""
        return (*getattr(self.scorer, "observers", ()), *self.policy.observers)

    @property
    def reads_prompt_again(self) -> bool:
        """Whether it reads the prompt a second time, which `model.generate` does not do: `cache.prefill` does."""
        return any(isinstance(observer, Replayer) for observer in self.observers)

    @property
    def needs(self) -> str:
        """What it reads of the prompt, and the profile it takes, in words.

        "all layers at once": its budgets follow from the scores of all of them, so that a prompt that is compressed as
        it is read stays dense until the last layer has read it; other methods have one dense layer at a time.
        """
        reads, layers = getattr(self.scorer, "reads", ""), "" if self.layer_local else "all layers at once"
        return ", ".join(part for part in (reads, layers, self.profile) if part) or "nothing"

    @property
    def exact(self) -> bool:
        """True: the selection uses exactly the total on every prompt."""
        return self.allocator is None or self.allocator.exact

    @property
    def layer_local(self) -> bool:
        """Whether a layer's selection depends only on that layer, the model's shape and the profile."""
        return self.allocator is None or self.allocator.looks_at in ("layer_scores", "shape")

    # ---- selection

    def select(
        self,
        prefill: Prefill,
        kv_budget: Any = None,
        profile: Any = None,
        score_cache: ScoreCache | None = None,
    ) -> Selection:
        """The prompt positions to keep. The full cache accepts any kv_budget and keeps all.

        kv_budget: mean KV slots per head, or a share of the prompt ("20%"). profile: head scores, or whatever else the
        method needs. score_cache: a dict the caller owns, through which methods with equal scorers score and measure a
        prefill once; an entry of another prefill is replaced, never used.
        """
        return self.select_with_facts(prefill, kv_budget, profile, score_cache)[0]

    def select_with_facts(
        self,
        prefill: Prefill,
        kv_budget: Any = None,
        profile: Any = None,
        score_cache: ScoreCache | None = None,
    ) -> tuple[Selection, dict[str, float]]:
        """The selection, and what the budget decided of the method's own terms, by name: whole heads, a threshold."""
        num_layers, num_kv_heads, seq_len = prefill_shape(prefill)
        whole = Selection.full(num_layers, num_kv_heads, seq_len)
        if self.scorer is None or self.allocator is None:
            return whole, {}
        with self._errors_with_name(), torch.autocast(prefill.layers[0].keys.device.type, enabled=False):
            self._check_profile(profile, (num_layers, num_kv_heads))
            slots = KVBudget.parse(kv_budget).of(seq_len)
            if slots >= seq_len:
                return whole, {}
            self._check_budget(slots)
            measure = self.allocator.looks_at == "prompt"
            scored = score_prefill(self.scorer, prefill, score_cache, measure=measure)
            reads = scored.measured if measure else profile
            budgets = self._budgets(scored.scores, slots, reads)
            facts: dict[str, float] = {}
            if isinstance(self.allocator, StatesFacts):
                total = slots * num_layers * num_kv_heads
                facts = self.allocator.facts(total, seq_len, self.scorer.reserved(seq_len), reads)
            return self._keep(prefill.layers, scored.scores, budgets), facts

    def select_layer(
        self, layer: PrefillLayer, index: int, num_layers: int, kv_budget: Any, profile: Any = None
    ) -> list[torch.Tensor]:
        """The same selection for full-attention layer number `index` alone: positions of each KV head, ascending.

        For `layer_local` methods, which can compress a layer as soon as it has read the prompt. Positions stay on the
        device of the keys, and nothing waits for it but an allocator that counts scores (AdaKV's), for one number per
        KV head.
        """
        assert self.layer_local, self.name
        heads, seq_len, _ = layer.keys.shape
        all_positions = [torch.arange(seq_len, device=layer.keys.device)] * heads
        if self.scorer is None or self.allocator is None:
            return all_positions
        with self._errors_with_name():
            slots = KVBudget.parse(kv_budget).of(seq_len)
            if slots >= seq_len:
                return all_positions
            self._check_budget(slots)
            by_shape = self.allocator.looks_at == "shape"
            scores = score_layer(self.scorer, layer)
            budgets = self._budgets([scores] * (num_layers if by_shape else 1), slots, profile)
            row = index if by_shape else 0
            counts = budgets.values[row]
            return best_positions(self._refined(layer, scores, counts), counts.tolist())

    def bound_policy(
        self, kv_budget: Any, seq_len: int, num_layers: int, num_kv_heads: int, profile: Any = None
    ) -> Policy:
        """The policy for decoding after a prompt of `seq_len` tokens."""
        with self._errors_with_name():
            has_budget = self.policy.takes_budget and kv_budget is not None
            slots = KVBudget.parse(kv_budget).of(seq_len) if has_budget else None
            return self.policy.bind(slots, (num_layers, num_kv_heads), profile)

    def check(
        self, kv_budget: Any, num_layers: int, num_kv_heads: int, profile: Any = None, group_size: int | None = None
    ) -> None:
        """Refuses, before a prompt is read, a budget, profile or model with which no prompt could be compressed.

        A budget that is a share of the prompt can only be checked once the prompt is known. group_size: query heads per
        KV head, where a scorer's rule has no meaning for some.
        """
        with self._errors_with_name():
            check_group = getattr(self.scorer, "check_group", None)
            if check_group is not None and group_size is not None:
                check_group(group_size)
            self._check_profile(profile, (num_layers, num_kv_heads))
            slots = KVBudget.parse(kv_budget).slots if self.takes_budget else None
            if self.takes_budget and slots is None:
                return
            if slots is not None and self.scorer is not None and self.allocator is not None:
                self._check_budget(slots)
                if isinstance(self.allocator, HasFloor):
                    self.allocator.check_floor(slots, num_layers * num_kv_heads, self.scorer.reserved(slots + 1))
                if self.allocator.looks_at == "shape":  # infeasible for the shortest prompt: infeasible for all
                    blank = torch.zeros(()).expand(num_kv_heads, slots + 1)
                    self._budgets([blank] * num_layers, slots, profile)
            self.policy.bind(slots, (num_layers, num_kv_heads), profile)

    @contextmanager
    def _errors_with_name(self) -> Iterator[None]:
        """Puts the method's name in front of the message of a CokvError raised inside."""
        try:
            yield
        except CokvError as error:
            raise type(error)(f"{self.name}: {error}") from None

    def _check_budget(self, slots: int) -> None:
        """Raises Infeasible where the scorer's check raises any CokvError.

        An allocator with a floor of its own, above the scorer's, names the budget that works instead.
        """
        assert self.scorer is not None
        if isinstance(self.allocator, HasFloor):
            return
        try:
            self.scorer.check_budget(slots)
        except CokvError as error:
            raise Infeasible(str(error)) from None

    def _check_profile(self, profile: Any, shape: tuple[int, int]) -> None:
        if self.needs_profile:
            check_profile(profile, self.profile, self.profile_kinds, shape)

    def _budgets(self, scores: list[torch.Tensor], slots: int, profile: Any) -> Budgets:
        """Budgets of as many layers as there are scores, each [num_kv_heads, seq_len]."""
        assert self.scorer is not None and self.allocator is not None
        num_kv_heads, seq_len = scores[0].shape
        total = slots * len(scores) * num_kv_heads
        budgets = self.allocator.budgets(scores, total, seq_len, self.scorer.reserved(seq_len), profile)
        assert not self.exact or budgets.total == total, (self.name, budgets.total, total)
        return budgets

    def _keep(self, layers: Sequence[PrefillLayer], scores: list[torch.Tensor], budgets: Budgets) -> Selection:
        """The selection by these budgets, one row per layer."""
        return keep_best([self._refined(*each) for each in zip(layers, scores, budgets.values, strict=True)], budgets)

    def _refined(self, layer: PrefillLayer, scores: torch.Tensor, counts: IntArray) -> torch.Tensor:
        """Scores [num_kv_heads, seq_len] once each head's slots, counts [num_kv_heads], are known."""
        if not isinstance(self.scorer, Refines):
            return scores
        return ranking(self.scorer.refine(layer, scores, torch.from_numpy(counts.copy())), layer)


def prefill_requirements(methods: Iterable[Method]) -> tuple[int, list[Observer | Replayer]]:
    """The window of queries, and the observers, that one prefill needs for all of these methods."""
    methods = list(methods)
    return max((method.window_size for method in methods), default=0) or 1, [o for m in methods for o in m.observers]


def _replaced(part: Any, params: Mapping[str, Any]) -> Any:
    if part is None:
        return None
    return replace(part, **{f.name: params[f.name] for f in fields(part) if f.name in params})
