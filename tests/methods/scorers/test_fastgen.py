"""Tiers, their costs and what they retain equal the policies written out on the whole attention matrix."""

import numpy as np
import pytest
import torch

from cokv.methods.scorers.fastgen import FastGenScorer
from cokv.types import CokvError


class Tokenizer:
    """Tokens 1-3 are special, 4-20 punctuation (a few with a space), the others letters."""

    all_special_ids = (1, 2, 3)

    def decode(self, ids):
        (token,) = ids
        return {4: " .", 5: "...", 6: "\u3002", 7: "\n"}.get(token, "," if token <= 20 else "a,")


def written_out(world, frequent_share, local_share):
    """Per KV head: the kept set of each of the five policies, and the attention it retains."""
    seq_len = world.keys.shape[1]
    frequent_count, width = int(frequent_share * seq_len), int(local_share * seq_len)
    ids = world.ids.tolist()
    special = {j for j, token in enumerate(ids) if token in (1, 2, 3)}
    marks = {j for j, token in enumerate(ids) if 4 <= token <= 20 and token != 7}
    kept, retained = [], []
    for matrix in world.by_kv_head(world.attention()):
        sums = matrix.sum(axis=0)
        frequent = set(sorted(range(seq_len), key=lambda j: (-np.float32(sums[j]), j))[:frequent_count])
        newest = set(range(seq_len - width, seq_len))
        sets = [special, special | marks, special | marks | frequent]
        sets += [sets[2] | newest, set(range(seq_len))]
        shares = []
        for number, chosen in enumerate(sets):
            mass = 0.0
            for row, column in np.ndindex(seq_len, seq_len):
                near = number >= 3 and row - column < width
                mass += matrix[row, column] if column in chosen or near else 0.0
            shares.append(mass / seq_len)
        kept.append(sets)
        retained.append(shares)
    return kept, np.array(retained)


@pytest.mark.parametrize("seq_len", [1, 2, 23])
@pytest.mark.parametrize("shares", [(0.3, 0.3), (0.0, 0.5), (0.25, 0.0), (1.0, 1.0)])
@pytest.mark.parametrize("kind", ["random", "sink", "ties", "nothing"])
def test_tiers_costs_and_retained_attention(make_world, heads, kind, seq_len, shares):
    world = make_world(*heads, seq_len, kind=kind)
    if kind == "nothing":  # all of it to two tokens: the others tie at exactly nothing
        world.keys, world.queries = torch.zeros_like(world.keys), torch.ones_like(world.queries)
        world.keys[:, 0] = 2000
        world.keys[:, seq_len // 2] = 4000
        sums = world.attention().sum(axis=1)
        assert (sums > 0).sum() == heads[0] * len({0, seq_len // 2})
    world.ids = torch.randint(1, 40, (seq_len,), generator=torch.Generator().manual_seed(seq_len))
    scorer = FastGenScorer(*shares)
    layer = world.layer(scorer.observers, view=world.view(tokenizer=Tokenizer()))
    kept, retained = written_out(world, *shares)
    scores, measured = scorer.scores(layer), scorer.measure(layer)
    assert measured.shape == (heads[1], 2, 5)
    np.testing.assert_allclose(measured[:, 1], retained, rtol=1e-5, atol=1e-6)
    for head, sets in enumerate(kept):
        order = scores[head].sort(descending=True, stable=True).indices.tolist()
        for number, chosen in enumerate(sets):
            assert measured[head, 0, number] == len(chosen)
            assert set(order[: len(chosen)]) == chosen, "a policy is a number of slots in the ranking"


def test_no_two_tokens_of_a_head_score_alike(make_world):
    world = make_world(4, 2, 200, kind="ties")
    scorer = FastGenScorer()
    scores = scorer.scores(world.layer(scorer.observers, view=world.view(tokenizer=Tokenizer())))
    assert all(len(set(row.tolist())) == 200 for row in scores)


def test_without_a_tokenizer_it_says_so(make_world):
    world, scorer = make_world(4, 2, 20), FastGenScorer()
    with pytest.raises(CokvError, match="needs the model's tokenizer"):
        scorer.scores(world.layer(scorer.observers))


@pytest.mark.parametrize(("field", "value"), [("frequent_share", 1.1), ("local_share", -0.1), ("local_share", True)])
def test_a_bad_field_is_named(field, value):
    with pytest.raises(CokvError, match=field):
        FastGenScorer(**{field: value})
