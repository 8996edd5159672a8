"""Scorers that look at the keys alone equal their formulas in loops."""

import numpy as np
import pytest

from cokv.methods.scorers.key_difference import KeyDifference
from cokv.methods.scorers.key_norm import KeyNorm


@pytest.mark.parametrize("seq_len", [1, 2, 23])
def test_key_norm_is_minus_the_length(make_world, heads, kind, seq_len):
    world = make_world(*heads, seq_len, kind=kind)
    lengths = [[-(sum(x**2 for x in key) ** 0.5) for key in head] for head in world.keys.double().numpy()]
    np.testing.assert_allclose(KeyNorm().scores(world.layer()).numpy(), lengths, rtol=1e-5)


@pytest.mark.parametrize("seq_len", [1, 2, 23])
def test_key_difference_is_minus_the_cosine_to_the_mean_direction(make_world, heads, kind, seq_len):
    world = make_world(*heads, seq_len, kind=kind)
    expected = np.zeros((heads[1], seq_len))
    for h, keys in enumerate(world.keys.double().numpy()):
        anchor = sum(key / np.sqrt((key**2).sum()) for key in keys) / seq_len
        for j, key in enumerate(keys):
            expected[h, j] = -(key @ anchor) / np.sqrt((key**2).sum() * (anchor**2).sum())
    np.testing.assert_allclose(KeyDifference().scores(world.layer()).numpy(), expected, atol=1e-5)


def test_a_token_like_no_other_stays(make_world):
    world = make_world(2, 2, 30)
    world.keys[:] = world.keys[:, :1]
    world.keys[1, 17] *= -1
    assert KeyDifference().scores(world.layer())[1].argmax() == 17
    world.keys[0, 5] *= 0.1
    assert KeyNorm().scores(world.layer())[0].argmax() == 5


@pytest.mark.parametrize("scorer", [KeyNorm(), KeyDifference()])
def test_half_precision_keys_are_scored_in_float32(make_world, scorer):
    world = make_world(2, 2, 40)
    world.keys = world.keys.bfloat16()
    scores = scorer.scores(world.layer())
    assert scores.dtype == world.queries.dtype and not scores.equal(scores.bfloat16().float())
    assert scorer.reserved(40) == 0 and scorer.window_size == 0
