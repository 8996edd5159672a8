"""The last query's attention equals the last row of the whole matrix, averaged over all heads of the layer."""

import numpy as np
import pytest
import torch

from cokv.methods.scorers import blocks
from cokv.methods.scorers.last_query import LastQuery


@pytest.mark.parametrize("seq_len", [1, 2, 23])
@pytest.mark.parametrize("held", [1, None])
def test_scores_equal_the_last_row_of_the_matrix(make_world, heads, kind, seq_len, held):
    world = make_world(*heads, seq_len, kind=kind)
    last = np.mean([weights[seq_len - 1] for weights in world.attention()], axis=0)
    scores = LastQuery().scores(world.layer(held=held))
    np.testing.assert_allclose(scores.numpy(), [last] * heads[1], rtol=2e-5, atol=1e-7)


def test_the_newest_token_may_go_unless_it_is_to_be_kept(make_world):
    world = make_world(4, 2, 20)
    world.queries[:, -1], world.keys[:, -1] = 1, -9
    assert LastQuery().scores(world.layer())[:, -1].max() < 1e-6 and LastQuery().reserved(20) == 0
    keeping = LastQuery(keep_last=True)
    scores = keeping.scores(world.layer())
    assert keeping.reserved(20) == 1 and torch.isinf(scores).nonzero()[:, 1].tolist() == [19, 19]
    assert torch.equal(scores[:, :19], LastQuery().scores(world.layer())[:, :19])


def test_heads_too_large_to_hold_at_once_score_the_same(make_world, monkeypatch):
    world = make_world(6, 3, 30)
    whole = LastQuery().scores(world.layer())
    monkeypatch.setattr(blocks, "CHUNK", 1)
    torch.testing.assert_close(LastQuery().scores(world.layer()), whole, rtol=1e-6, atol=0)
