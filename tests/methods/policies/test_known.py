"""What the cache knows of full heads makes a rule quicker, in torch and in compiled code, and changes no answer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cokv.cache.attention.build import OFF
from cokv.cache.policies.protocol import EvictsByAttention, FullHeads, Known
from cokv.methods.policies import one_call
from cokv.methods.policies.cake import CakeEviction
from cokv.methods.policies.fastgen import FastGenEviction
from cokv.methods.policies.h2o import H2OEviction
from cokv.methods.policies.scissorhands import ScissorhandsEviction
from cokv.methods.policies.tova import TOVAEviction
from cokv.types import CokvError

HEADS, GROUP, LIMIT, PROMPT, STEPS, NEWEST = 4, 2, 24, 90, 40, 12
RULES: list[EvictsByAttention] = [
    H2OEviction(LIMIT),
    H2OEviction(LIMIT, 0.3, kernel_size=3),
    TOVAEviction(LIMIT),
    ScissorhandsEviction(LIMIT, 8, 5),
    ScissorhandsEviction(LIMIT, 400, 5, count_unseen=False),
    CakeEviction(LIMIT, 8, 5),
    CakeEviction(LIMIT, 8, 1),
    FastGenEviction(LIMIT),
    FastGenEviction(LIMIT, 0.1, 0.1),
    FastGenEviction(LIMIT, 0.15, 0.0),
]
NUMBERS = {ScissorhandsEviction: 104, H2OEviction: 1, TOVAEviction: 1}


def full_heads(rule: EvictsByAttention, even: bool, generator: torch.Generator) -> FullHeads:
    """Heads that hold as many tokens as they may, among others of a store; the last of their segments is the last."""
    widths = torch.tensor([LIMIT + 1] * HEADS if even else [LIMIT + 1, LIMIT - 3, LIMIT + 1, LIMIT - 8])
    positions = torch.full((HEADS, LIMIT + 1), -1, dtype=torch.int32)
    for head, width in enumerate(widths.tolist()):
        old = torch.randperm(PROMPT - NEWEST, generator=generator)[: width - NEWEST - 1].sort().values
        if rule.same_in_all_heads and head:
            positions[head] = positions[0]
            widths[head] = widths[0]
        else:
            positions[head, : width - 1] = torch.cat([old, torch.arange(PROMPT - NEWEST, PROMPT)])
    dtype = torch.uint8 if isinstance(rule, ScissorhandsEviction) else torch.float32
    memory = torch.zeros(HEADS, LIMIT + 1, NUMBERS.get(type(rule), 2), dtype=dtype)
    if isinstance(rule, CakeEviction) and not even:  # ranks of a prompt that was longer than the limit
        ranks = torch.stack([torch.randperm(PROMPT, generator=generator)[: LIMIT + 1] + 1.0 for _ in range(HEADS)])
        memory[..., 1] = torch.where((positions >= 0) & (positions < PROMPT - rule.window_size), ranks, 0)
    return FullHeads(
        weights=torch.zeros(HEADS + 1, GROUP, LIMIT + 4),
        segments=torch.arange(1, HEADS + 1),
        memory=memory,
        positions=positions,
        next=torch.full((HEADS,), PROMPT, dtype=torch.int32),
        hole=widths - 1,
        lengths=torch.cat([torch.tensor([5]), widths]),
        kinds=None,
        together=HEADS if isinstance(rule, TOVAEviction) else 1,
        step=0,
        known=Known(),
    )


def in_torch(rule: EvictsByAttention, heads: FullHeads, knows: bool) -> None:
    """What a cache does where the rule has no code of its own."""
    rows = torch.arange(HEADS)
    heads.positions[rows, heads.hole] = heads.next
    heads.memory[rows, heads.hole] = 0
    if heads.kinds is not None:
        heads.memory[rows, heads.hole, 1] = heads.kinds[heads.segments].float()
    heads.next.add_(1)
    held = None if knows and heads.known.even else (heads.positions >= 0)[None]
    weights = heads.weights[heads.segments][None, ..., : LIMIT + 1]
    rule.update(heads.memory[None], weights, held, heads.step)
    known = replace(heads.known, next=heads.next[:, None]) if knows else Known()
    heads.hole.copy_(rule.worst(heads.memory, heads.positions, GROUP, known))
    heads.positions[rows, heads.hole] = -1
    heads.lengths[heads.segments] -= 1


def counted(memory: torch.Tensor) -> torch.Tensor:
    """Scissorhands' counters by the counts themselves: int64 [heads, tokens]."""
    counts = torch.stack([memory[..., :-4] >> shift & 3 for shift in range(0, 8, 2)], dim=-1)
    return counts.long().flatten(-2).sum(-1)


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("levels", [2, 5, 1 << 20])
@pytest.mark.parametrize("even", [True, False])
def test_it_changes_no_answer(rule: EvictsByAttention, levels: int, even: bool) -> None:
    """Three books of the same heads; attention in a few levels makes ties, and exact sums."""
    generator = torch.Generator().manual_seed(levels)
    start = full_heads(rule, even, generator)
    books = [
        replace(start, **{k: v.clone() for k, v in vars(start).items() if isinstance(v, torch.Tensor)}) for _ in "abc"
    ]
    dropped, calls = set(), 0
    for step in range(STEPS):
        weights = torch.randint(0, levels, start.weights.shape, generator=generator) / (8 << (levels - 1).bit_length())
        books[0].positions.scatter_(1, books[0].hole[:, None], 0)  # a token, for the mask below
        weights[1:, :, : LIMIT + 1] *= (books[0].positions >= 0)[:, None]
        kinds = torch.tensor([0, 0, 3, 4])[torch.randint(0, 4, (HEADS + 1,), generator=generator)]
        known = Known(even or rule.same_in_all_heads, step, NEWEST + step + 1, PROMPT + step + 1)
        for book in books:
            book.lengths[book.segments] += 1
        now = {"weights": weights, "kinds": kinds if isinstance(rule, FastGenEviction) else None}
        books = [replace(book, **now, step=step, known=known) for book in books]
        in_torch(rule, books[0], knows=False)
        in_torch(rule, books[1], knows=True)
        if rule.drop(books[2]):
            calls += 1
        else:
            in_torch(rule, books[2], knows=True)
        for name in ("hole", "positions", "memory", "lengths", "next"):
            for book in books[1:]:
                assert torch.equal(getattr(book, name), getattr(books[0], name)), f"{name} after step {step}"
        if isinstance(rule, ScissorhandsEviction):
            counters = books[2].memory[..., -4:].contiguous().view(torch.int32)[..., 0]
            assert torch.equal(counters.long(), counted(books[2].memory))
        dropped |= set(zip(range(HEADS), books[2].hole.tolist(), strict=True))
    assert len(dropped) > 8, "nearly always the same columns went"
    pools = isinstance(rule, H2OEviction) and rule.kernel_size > 1
    first = isinstance(rule, CakeEviction)  # whose ranks are those of a last drop from the second step on
    assert calls == (STEPS - first if one_call.available() and not pools else 0)


def test_without_a_compiler_the_rules_go_on_in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    heads = full_heads(RULES[0], True, torch.Generator())
    monkeypatch.setenv(OFF, "1")
    one_call.function.cache_clear()
    try:
        assert not one_call.available() and not TOVAEviction(LIMIT).drop(heads)
        assert heads.next.tolist() == [PROMPT] * HEADS
    finally:
        one_call.function.cache_clear()


@pytest.mark.skipif(not one_call.available(), reason="needs a C compiler")
def test_notes_that_are_not_those_of_full_heads_are_refused() -> None:
    heads = full_heads(TOVAEviction(LIMIT), True, torch.Generator())
    for wrong in ({"hole": heads.hole + 1}, {"segments": heads.segments + 1}, {"segments": heads.segments - 2}):
        with pytest.raises(CokvError, match="the notes of watched head"):
            TOVAEviction(LIMIT).drop(replace(heads, **wrong))
    assert (heads.next == PROMPT).all(), "nothing is written"
