"""The checks: each tries one promise of a scorer and says what it found, or raises Broken with what is wrong."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from cokv.cache.live_bytes import live_bytes
from cokv.methods.allocators import Allocator
from cokv.methods.allocators.ada import Ada
from cokv.methods.allocators.uniform import Uniform
from cokv.methods.conformance.worlds import KV_HEADS, read, roomy, scored
from cokv.methods.method import Method
from cokv.methods.scorers import Scorer
from cokv.model.observe import LayerView, Observation, Observer
from cokv.types import CokvError

LENGTHS = (1, 2, 7, 33)
LONG = (2048, 4096)
GROWTH = 3.0  # of the most bytes held, when the prompt gets twice as long: 2 is linear, 4 is quadratic
AGREEMENT = 0.75  # share of the float32 choice that bfloat16 must find again, half of the tokens chosen


class Broken(Exception):
    """What a check found wrong."""


def _require(holds: bool, said: str) -> None:
    if not holds:
        raise Broken(said)


def _declared(scorer: Scorer) -> str:
    for name, value in (("window_size", scorer.window_size), ("reserved(100)", scorer.reserved(100))):
        _require(type(value) is int and value >= 0, f"{name} is {value!r}, expected a whole number, 0 or more")
    for seq_len in (*LENGTHS, 1000):
        kept = scorer.reserved(seq_len)
        _require(kept <= seq_len, f"reserved({seq_len}) is {kept}, more than there are tokens")
    _require(hash(scorer) == hash(replace(scorer)) and scorer == replace(scorer), "equal copies differ or do not hash")  # type: ignore[type-var]
    scorer.check_budget(1 << 20)
    return f"window_size {scorer.window_size}, reserved {scorer.reserved(1 << 14)}"


def _shapes(scorer: Scorer) -> str:
    count = 0
    for heads, num_kv_heads in KV_HEADS.items():
        for where, seq_len, scores in scored(scorer, (*LENGTHS, roomy(scorer)), heads=heads):
            _require(isinstance(scores, torch.Tensor), f"{where}: got {type(scores).__name__}, expected a tensor")
            expected = [num_kv_heads, seq_len]
            _require(list(scores.shape) == expected, f"{where}: shape {list(scores.shape)}, expected {expected}")
            _require(scores.dtype == torch.float32, f"{where}: {scores.dtype}, expected torch.float32")
            count += 1
    return f"[num_kv_heads, seq_len] in float32, {count} layers of MHA, GQA and MQA, 1 to {roomy(scorer)} tokens"


def _numbers(scorer: Scorer) -> str:
    for repeated in (False, True):
        for where, _, scores in scored(scorer, (*LENGTHS, roomy(scorer)), repeated=repeated):
            bad = int(torch.isnan(scores).sum())
            _require(not bad, f"{where}{' all alike' if repeated else ''}: {bad} of {scores.numel()} scores are NaN")
    return "no NaN, on random tokens and on one token repeated"


def _reserved(scorer: Scorer) -> str:
    for where, seq_len, scores in scored(scorer, (*LENGTHS, roomy(scorer))):
        found = (scores == torch.inf).sum(-1).tolist()
        expected = scorer.reserved(seq_len)
        _require(
            all(count == expected for count in found),
            f"{where}: {found} scores of +inf per head, expected reserved({seq_len}) = {expected}",
        )
    return "as many +inf in every head as reserved(seq_len) says"


def _totals(scorer: Scorer) -> str:
    seq_len = roomy(scorer)
    budgets = (1, seq_len // 4, seq_len // 2, seq_len - 1)
    met = set()
    allocators: tuple[Allocator, ...] = (Uniform(), Ada())
    for heads, allocator in itertools.product(KV_HEADS, allocators):
        method, made = _method(scorer, allocator), read(scorer, seq_len, heads)
        for budget in budgets:
            try:
                scorer.check_budget(budget)
            except CokvError:
                continue
            kept = scorer.reserved(seq_len)
            _require(
                kept <= budget,
                f"check_budget({budget}) is silent, but {kept} tokens of each head must stay; raise CokvError there",
            )
            selection = method.select(made, budget)
            total = budget * made.shape.num_layers * made.shape.num_kv_heads
            _require(
                selection.total == total, f"{heads}, kv_budget {budget}: {selection.total} slots, expected {total}"
            )
            met.add(budget)
    _require(bool(met), f"check_budget refuses every kv_budget of {budgets} for {seq_len} tokens")
    return f"exact for kv_budget {', '.join(map(str, sorted(met)))} of {seq_len} tokens, evenly and by AdaKV"


def _deterministic(scorer: Scorer) -> str:
    made = read(scorer, roomy(scorer))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        state = torch.get_rng_state()
        first = [scorer.scores(layer) for layer in made.layers]
        _require(torch.equal(state, torch.get_rng_state()), "draws from torch's global generator; own one with a seed")
        torch.manual_seed(2)
        again = [replace(scorer).scores(layer) for layer in made.layers]  # type: ignore[type-var]
    same = all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    _require(same, "the same layer scored twice gives different scores")
    return "the same scores twice, and from an equal copy"


def _pure(scorer: Scorer) -> str:
    made = read(scorer, roomy(scorer))
    for layer in made.layers:
        tensors = {"keys": layer.keys, "values": layer.values, "window_queries": layer.window_queries}
        before = {name: tensor.clone() for name, tensor in tensors.items()}
        scorer.scores(layer)
        for name, tensor in tensors.items():
            _require(torch.equal(before[name], tensor), f"changes the {name} it is given")
    return "keys, values and queries are left as they are"


def _memory(scorer: Scorer) -> str:
    peaks = []
    for seq_len in LONG:
        looks = tuple(_Measured(o) if hasattr(o, "observe") else o for o in getattr(scorer, "observers", ()))
        made = read(scorer, seq_len, observers=looks)
        peak = max((o.peak[0] for o in looks if isinstance(o, _Measured)), default=0)
        for layer in made.layers:
            seen = {o.inner if isinstance(o, _Measured) else o: value for o, value in layer.observed.items()}
            with live_bytes() as held:
                scorer.scores(replace(layer, observed=seen))
            peak = max(peak, held.peak)
        peaks.append(peak)
    said = " and ".join(f"{peak / 2**20:.1f} MiB at {n} tokens" for peak, n in zip(peaks, LONG, strict=True))
    _require(peaks[1] <= GROWTH * max(peaks[0], 1), f"{said}: grows as seq_len squared; work in blocks of queries")
    return said


def _bfloat16(scorer: Scorer) -> str:
    seq_len, shares = roomy(scorer), []
    full, half = (read(scorer, seq_len, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    for one, other in zip(full.layers, half.layers, strict=True):
        ours, theirs = scorer.scores(one), scorer.scores(other)
        _require(
            theirs.dtype == torch.float32, f"scores of a bfloat16 layer are {theirs.dtype}, expected torch.float32"
        )
        _require(not torch.isnan(theirs).any(), "NaN on a bfloat16 layer; compute in float32")
        chosen = [set(h.topk(seq_len // 2).indices.tolist()) for h in ours]
        found = [set(h.topk(seq_len // 2).indices.tolist()) for h in theirs]
        shares += [len(a & b) / (seq_len // 2) for a, b in zip(chosen, found, strict=True)]
    share = sum(shares) / len(shares)
    said = f"{100 * share:.0f} % of the tokens chosen in float32 are chosen again"
    _require(share >= AGREEMENT, f"{said}, expected {100 * AGREEMENT:.0f} %; compute in float32")
    return said


@dataclass(frozen=True)
class _Measured:
    """An observer, and the most bytes it ever held."""

    inner: Observer

    @property
    def needs_inputs(self) -> bool:
        return getattr(self.inner, "needs_inputs", False)

    @functools.cached_property
    def peak(self) -> list[int]:
        return [0]

    def observe(self, view: LayerView) -> Observation:
        with live_bytes() as held:
            seen = self.inner.observe(view)
        self.peak[0] = max(self.peak[0], held.peak)
        return seen


def _method(scorer: Scorer, allocator: Allocator) -> Method:
    name = type(scorer).__name__
    return Method(
        name=name,
        title=name,
        scorer=scorer,
        allocator=allocator,
    )


CHECKS: Mapping[str, Callable[[Scorer], str]] = {
    "declares what it needs": _declared,
    "shape and dtype": _shapes,
    "numbers": _numbers,
    "tokens that must stay": _reserved,
    "exact totals": _totals,
    "deterministic": _deterministic,
    "leaves its input": _pure,
    "memory is O(seq_len)": _memory,
    "bfloat16": _bfloat16,
}
