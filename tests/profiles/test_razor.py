"""RazorAttention's echo and induction: planted heads, and an oracle over full attention matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from worlds import retrieval

from cokv.cache.prefill import prefill
from cokv.methods.registry import get_method
from cokv.model.observe import LayerView, ModelParts
from cokv.profiles.razor_scores import PERIODS, REPEATS, Repeats, copy_accuracy, razor_scores, selection_order
from cokv.types import CokvError, HeadScores

PERIOD = 6


def planted_view() -> LayerView:
    """Head 0 looks for the token of its own name, head 1 for the token after that one, head 2 at the first token."""
    tokens = torch.arange(PERIOD).repeat(REPEATS)
    names = torch.eye(PERIOD)[tokens]
    before = torch.cat([torch.zeros(1, PERIOD), names[:-1]])  # what a previous-token head has written
    first = torch.zeros(len(tokens), PERIOD)
    first[0, 0] = 1
    queries = torch.stack([names, names, torch.eye(PERIOD)[torch.zeros_like(tokens)]]) * 60
    keys = torch.stack([names, before, first])
    return LayerView(0, tokens, queries, keys, torch.zeros_like(keys), 1.0, ModelParts(None))


def test_planted_heads_echo_and_induce():
    (scores,) = Repeats(PERIOD).observe(planted_view())
    echo, induction = scores.numpy()
    # In the second, third and fourth period the name stands 2, 3, 4 times, itself included, the token after it one
    # time fewer. At a period's last token the one after it opens the next period, one place earlier in each.
    np.testing.assert_allclose(echo[0], np.mean([1 / 2, 1 / 3, 1 / 4]), rtol=1e-5)
    np.testing.assert_allclose(induction[1], np.mean([1, 1 / 2, 1 / 3]), rtol=1e-5)
    assert echo[1] < 1e-5 and induction[0] < 1e-5 and echo[2] < 0.1 and induction[2] < 0.1


@pytest.mark.parametrize("heads", ["mha", "gqa", "mqa"])
@pytest.mark.parametrize("start_ids", [(), (3, 5)])
def test_scores_are_those_of_the_full_matrices(make_model, full_attention, heads, start_ids):
    model, period = make_model("llama", heads), 13
    head_scores = razor_scores(model, period, seed=4, start_ids=start_ids)
    again = razor_scores(model, period, seed=4, start_ids=start_ids)
    assert head_scores == again, "a seed gives one profile"

    generator = torch.Generator().manual_seed(4)
    usable = [token for token in range(97) if token not in {0, *start_ids}]
    drawn = torch.tensor(usable)[torch.randperm(len(usable), generator=generator)[:period]]
    ids = torch.cat([torch.tensor(start_ids, dtype=torch.int64), drawn.repeat(4)])
    attention = full_attention(model, ids)
    num_kv_heads = model.config.num_key_value_heads
    echo, induction = (np.zeros((3, num_kv_heads)) for _ in range(2))
    first = len(start_ids) + period
    for layer in range(3):
        for head in range(4):
            group = head * num_kv_heads // 4
            rows = range(first, len(ids))
            echoed = np.mean([attention[layer, head, i, i - period] for i in rows])
            induced = np.mean([attention[layer, head, i, i - period + 1] for i in rows])
            echo[layer, group] = max(echo[layer, group], echoed)
            induction[layer, group] = max(induction[layer, group], induced)
    np.testing.assert_allclose(head_scores.provenance["echo"], echo, atol=1e-6)
    np.testing.assert_allclose(head_scores.provenance["induction"], induction, atol=1e-6)
    expected = one_by_one(np.array(head_scores.provenance["induction"]), np.array(head_scores.provenance["echo"]))
    np.testing.assert_allclose(head_scores.values, expected, atol=1e-12)


def one_by_one(induction: np.ndarray, echo: np.ndarray) -> np.ndarray:
    """Heads joined one by one by induction, and before every fourteenth of them one by echo."""
    heads = list(np.ndindex(induction.shape))
    by_induction, by_echo = (sorted(heads, key=lambda place: (-x[place], place)) for x in (induction, echo))
    scores = np.full(induction.shape, -1.0)
    for size in range(len(heads)):
        joined = [by_induction[size]]
        if size % 14 == 0:
            joined.append(by_echo[size // 14])
        for place in joined:
            if scores[place] < 0:
                scores[place] = 1 - size / len(heads)
    return scores


@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (5, 3), (20, 10)])
@pytest.mark.parametrize("ties", [False, True])
def test_heads_are_taken_fourteen_by_induction_for_one_by_echo(shape, ties):
    generator = np.random.default_rng(1)
    induction, echo = (np.round(x, 1) if ties else x for x in generator.random((2, *shape)))
    np.testing.assert_allclose(selection_order(induction, echo), one_by_one(induction, echo), atol=1e-12)


def test_retrieval_heads_are_the_papers_fourteen_and_one_percent():
    generator = np.random.default_rng(0)
    induction, echo = generator.random((20, 10)), generator.random((20, 10))
    score = selection_order(induction, echo)
    chosen = set(np.argsort(-score, axis=None, kind="stable")[:30].tolist())  # 15 % of 200 heads
    by_induction, by_echo = ({*np.argsort(-x, axis=None)[:n].tolist()} for x, n in ((induction, 28), (echo, 2)))
    assert by_induction | by_echo <= chosen
    assert score.max() == 1 and score.min() > 0


def test_what_cannot_be_profiled_is_said(make_model):
    with pytest.raises(CokvError, match="set the period to at most 128"):
        razor_scores(make_model(), 129)
    with pytest.raises(CokvError, match="at least 2"):
        razor_scores(make_model(), 1)


def test_a_method_takes_the_profile_of_a_model_that_copies(tmp_path):
    model = retrieval.retrieval_model()
    razor_scores(model, 32, start_ids=(retrieval.START,)).save(tmp_path / "razor.safetensors")
    profile = HeadScores.load(tmp_path / "razor.safetensors")
    prefilled = prefill(model, torch.arange(1, 91), 8)
    kept = get_method("razorattention", local=4).select(prefilled, 40, profile).counts
    assert (kept == 90).sum() == 1, "one head of eight is 15 percent"
    assert kept[np.unravel_index(profile.values.argmax(), kept.shape)] == 90


def test_the_period_is_the_longest_that_the_model_copies():
    model = retrieval.retrieval_model()
    facts = razor_scores(model, start_ids=(retrieval.START,)).provenance["evidence"]
    accuracy = {}
    for period in (p for p in PERIODS if p <= 500):  # four times 500 tokens fit 2048 positions
        stated = razor_scores(model, period, start_ids=(retrieval.START,)).provenance["evidence"]
        accuracy[period] = stated["copy_accuracy"]
    longest = max(period for period, share in accuracy.items() if share >= 0.8)
    assert (facts["period"], facts["copy_accuracy"]) == (longest, accuracy[longest])
    assert longest < 500, "longer texts repeat tokens of this small vocabulary inside a period"


def test_a_model_that_copies_nothing_is_refused_with_the_evidence(make_model):
    profile = razor_scores(make_model(), 16)
    prefilled = prefill(make_model(), torch.arange(1, 91), 8)
    with pytest.raises(CokvError, match=r"no valid profile: the model copies .* of a probe that repeats every 16 "):
        get_method("razorattention", local=4).select(prefilled, 40, profile)


def test_copy_accuracy_is_that_of_the_logits(make_model):
    model, ids = make_model(), torch.arange(1, 21).repeat(4)
    with torch.no_grad():
        predicted = model(ids[None]).logits[0].argmax(-1)
    expected = (predicted[20:-1] == ids[21:]).float().mean()
    assert copy_accuracy(model, ids, 20, 0) == pytest.approx(float(expected))
