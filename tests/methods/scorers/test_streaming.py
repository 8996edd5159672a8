"""Streaming keeps the first tokens and the newest ones, whatever the attention."""

from types import SimpleNamespace

import pytest
import torch

from cokv.methods.scorers.streaming import Streaming
from cokv.types import CokvError


def layer(num_kv_heads, seq_len):
    return SimpleNamespace(keys=torch.randn(num_kv_heads, seq_len, 4))


@pytest.mark.parametrize(("num_sinks", "seq_len"), [(4, 10), (0, 5), (4, 4), (4, 2), (1, 7)])
def test_sinks_are_infinite_and_the_rest_is_ranked_by_recency(num_sinks, seq_len):
    scores = Streaming(num_sinks).scores(layer(3, seq_len))
    sinks = min(num_sinks, seq_len)
    assert scores.shape == (3, seq_len) and scores.dtype == torch.float32
    assert torch.isinf(scores).sum(dim=1).tolist() == [sinks] * 3 == [Streaming(num_sinks).reserved(seq_len)] * 3
    assert torch.isinf(scores[:, :sinks]).all()
    assert (scores[:, sinks:].diff(dim=1) > 0).all()


def test_a_budget_of_sinks_alone_says_what_to_change():
    Streaming(4).check_budget(5)
    with pytest.raises(CokvError, match=r"kv_budget 4.*4 sinks.*at least 5.*at most 3"):
        Streaming(4).check_budget(4)


@pytest.mark.parametrize("bad", [-1, 1.5, True, "4"])
def test_sinks_are_a_whole_number(bad):
    with pytest.raises(CokvError, match="num_sinks"):
        Streaming(bad)
