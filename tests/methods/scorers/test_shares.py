"""A share of a head's slots is one number, before decoding and while it lasts."""

from fractions import Fraction

import pytest
import torch

from cokv.methods.policies.h2o import H2OEviction
from cokv.methods.scorers.accumulated_attention import AccumulatedAttention
from cokv.methods.scorers.checks import part_of
from cokv.types import CokvError


@pytest.mark.parametrize("hundredths", range(101))
def test_prompt_and_decoding_leave_the_newest_the_same_slots(hundredths):
    share, limits = hundredths / 100, range(2, 201)
    exact = [int(Fraction(hundredths, 100) * limit) for limit in limits]
    refined = AccumulatedAttention(share).refine(None, torch.zeros(len(limits), 250), torch.tensor(limits))
    assert torch.isinf(refined).sum(-1).tolist() == exact
    for limit, slots in zip(limits, exact, strict=True):
        assert part_of(limit, share) == slots
        positions = torch.arange(limit + 1)[None]  # the later, the less attention: the latest that is not spared goes
        worst = H2OEviction(limit, share).worst(-positions[..., None].float(), positions, 1)
        assert worst.item() == limit - slots, (share, limit)


@pytest.mark.parametrize("share", [-0.1, 1.5, True, "half", float("nan")])
@pytest.mark.parametrize("build", [AccumulatedAttention, lambda recent_share: H2OEviction(8, recent_share)])
def test_what_is_no_share_is_named(build, share):
    with pytest.raises(CokvError, match=r"recent_share is .* between 0 and 1"):
        build(recent_share=share)
