"""What the cache knows of full heads makes a rule quicker and changes no answer, with ties and without."""

from __future__ import annotations

import pytest
import torch

from cokv.cache.policies.protocol import EvictsByAttention, Known
from cokv.methods.policies.cake import CakeEviction
from cokv.methods.policies.fastgen import FastGenEviction
from cokv.methods.policies.h2o import H2OEviction
from cokv.methods.policies.scissorhands import ScissorhandsEviction
from cokv.methods.policies.tova import TOVAEviction

HEADS, GROUP, LIMIT, PROMPT, STEPS = 4, 2, 24, 90, 40
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
]


def counted(rule: ScissorhandsEviction, memory: torch.Tensor) -> torch.Tensor:
    """The counters by the counts themselves: int64 [heads, tokens]."""
    counts = torch.stack([memory[..., :-4] >> shift & 3 for shift in range(0, 8, 2)], dim=-1)
    return counts.long().flatten(-2).sum(-1)


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("levels", [2, 5, 1 << 20])
@pytest.mark.parametrize("even", [True, False])
def test_it_changes_no_answer(rule: EvictsByAttention, levels: int, even: bool) -> None:
    """Two books of the same heads, one asked with what is known; without `even`, heads differ in their limits."""
    generator = torch.Generator().manual_seed(levels)
    widths = torch.tensor([LIMIT + 1] * HEADS if even else [LIMIT + 1, LIMIT - 3, LIMIT + 1, LIMIT - 8])
    numbers = {ScissorhandsEviction: 4 + 100, H2OEviction: 1, TOVAEviction: 1}.get(type(rule), 2)
    dtype = torch.uint8 if isinstance(rule, ScissorhandsEviction) else torch.float32
    positions = torch.full((HEADS, LIMIT + 1), -1, dtype=torch.int32)
    for head, width in enumerate(widths.tolist()):
        old = torch.randperm(PROMPT - 12, generator=generator)[: width - 13].sort().values
        positions[head, : width - 1] = torch.cat([old, torch.arange(PROMPT - 12, PROMPT)])
    holes, memories = widths - 1, [torch.zeros(HEADS, LIMIT + 1, numbers, dtype=dtype) for _ in range(2)]
    dropped = set()
    for step in range(STEPS):
        positions.scatter_(1, holes[:, None], PROMPT + step)
        logits = torch.randint(0, levels, (1, HEADS, GROUP, LIMIT + 1), generator=generator) * (8 / levels)
        held = (positions >= 0)[None]
        weights = logits.masked_fill(~held[:, :, None], -torch.inf).softmax(-1)
        known = Known(even, step, 12 + step + 1, PROMPT + step + 1, torch.full((HEADS, 1), PROMPT + step + 1))
        answers, begun = [], torch.zeros(HEADS, numbers, dtype=dtype)
        if isinstance(rule, FastGenEviction):  # kinds of tokens
            begun[:, 1] = torch.tensor([0, 0, 3, 4])[torch.randint(0, 4, (HEADS,), generator=generator)]
        for memory, told in zip(memories, (Known(), known), strict=True):
            memory[torch.arange(HEADS), holes] = begun
            rule.update(memory[None], weights, held if told is not known or not even else None, step)
            answers.append(rule.worst(memory, positions, GROUP, told))
        assert answers[0].tolist() == answers[1].tolist(), f"step {step}"
        assert torch.equal(*memories)
        if isinstance(rule, ScissorhandsEviction):
            counters = memories[1][..., -4:].contiguous().view(torch.int32)[..., 0]
            assert torch.equal(counters.long(), counted(rule, memories[1]))
        holes = answers[1]
        dropped |= set(positions.gather(1, holes[:, None])[:, 0].tolist())
        positions.scatter_(1, holes[:, None], -1)
    assert len(dropped) > 20, "hardly anything went"
