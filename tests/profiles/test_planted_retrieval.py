"""Every profiler finds the retrieval heads of a model that retrieves by a planted induction circuit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from worlds.retrieval import (
    KV_HEADS,
    LAYERS,
    RETRIEVAL_HEADS,
    START,
    TEXT,
    UNKNOWN,
    VOCAB,
    needle_prompts,
    passkey_prompts,
    random_model,
    retrieval_model,
    retrieval_prompts,
)

from cokv.cache.prefill import prefill
from cokv.decode.batches import Row
from cokv.decode.decode import Stop, decode
from cokv.profiles.duo_gates import Training, train_gates
from cokv.profiles.headkv_scores import retrieval_scores
from cokv.profiles.razor_scores import razor_scores
from cokv.types import CokvError, Selection


@pytest.fixture(scope="module")
def model():
    return retrieval_model()


def best_heads(values: np.ndarray) -> set[tuple[int, int]]:
    """The (layer, KV head) of as many highest values as there are retrieval heads."""
    order = np.argsort(-values, axis=None, kind="stable")[: len(RETRIEVAL_HEADS)]
    return {divmod(int(player), KV_HEADS) for player in order}


def of_retrieval_and_others(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    retrieval = np.zeros((LAYERS, KV_HEADS), dtype=bool)
    retrieval[tuple(zip(*RETRIEVAL_HEADS, strict=True))] = True
    return values[retrieval], values[~retrieval]


@pytest.mark.parametrize("period", [32, 64, 100])
def test_the_model_copies_what_repeats_and_knows_nothing_else(model, period):
    tokens = TEXT + torch.randperm(VOCAB - TEXT, generator=torch.Generator().manual_seed(period))[:period]
    ids = torch.cat([torch.tensor([START]), tokens.repeat(4)])
    with torch.no_grad():
        said = model(ids[None]).logits[0, :-1].argmax(dim=-1)
    right = said == ids[1:]
    assert right[1 + period :].float().mean() > 0.95  # from the first token on that has occurred before
    assert (said[: 1 + period] == UNKNOWN).all(), "where a token is new its heads rest on the start token"


@pytest.mark.parametrize("length", [64, 200, 512, 2000])
def test_greedy_answers_are_the_needle_s_values(model, greedy_tokens, length):
    for needle in needle_prompts(5, seed=length, length=length):
        ids = needle.prompt.input_ids
        assert len(ids) == length and ids[needle.start] == ids[-1]
        spoken = greedy_tokens(model, ids, needle.answer_tokens)
        assert spoken == ids[needle.start + 1 : needle.end].tolist() and needle.right(spoken)


def whole_in(heads: tuple[tuple[int, int], ...], seq_len: int) -> Row:
    """These heads keep the prompt, the others 4 sinks and 16 recent tokens."""
    mask = torch.zeros(LAYERS, KV_HEADS, seq_len, dtype=torch.bool)
    mask[..., :4] = mask[..., -16:] = True
    for layer, kv_head in heads:
        mask[layer, kv_head] = True
    return Row(Selection.from_mask(mask))


def test_answers_need_both_retrieval_heads_and_no_other(model):
    choices = [RETRIEVAL_HEADS, *((head,) for head in RETRIEVAL_HEADS)]
    for prompt in retrieval_prompts(4, seed=5, length=200):
        rows = [whole_in(heads, 200) for heads in choices]
        read = prefill(model, prompt.input_ids, 1)
        both, *alone = decode(model, read, rows, Stop(3), first_token="compressed")
        assert both.tokens == prompt.values
        assert [answer.tokens[0] for answer in alone] == [UNKNOWN] * len(RETRIEVAL_HEADS)


@pytest.mark.parametrize("length", [64, 400])
@pytest.mark.parametrize("kind", ["R", "R2"])
def test_needles_tell_the_retrieval_heads(model, kind, length):
    scores = retrieval_scores(model, needle_prompts(8, seed=1, length=length), kind)
    assert scores.provenance["answered_right"] == 8
    assert best_heads(scores.values) == set(RETRIEVAL_HEADS)
    found, others = of_retrieval_and_others(scores.values)
    # R: each step attends a token of the needle and copies it. R2: that one of its four tokens has all the attention.
    np.testing.assert_allclose(found, {"R": 1, "R2": 1 / 4}[kind], atol=1e-3)
    assert others.max() < 0.01


@pytest.mark.parametrize("period", [32, 64, 100])
def test_repeats_tell_the_retrieval_heads(model, period):
    scores = razor_scores(model, period=period, start_ids=(START,))
    induction = np.array(scores.provenance["induction"])
    assert best_heads(induction) == set(RETRIEVAL_HEADS)
    found, others = of_retrieval_and_others(induction)
    # In the second, third and fourth period the token has 1, 2, 3 occurrences before, and only one a period back.
    np.testing.assert_allclose(found, np.mean([1, 1 / 2, 1 / 3]), atol=1e-3)
    assert others.max() < 1e-3
    assert best_heads(scores.values) == set(RETRIEVAL_HEADS), "no head echoes, so that echo puts no other before them"


def test_trained_gates_tell_the_retrieval_heads(model):
    training = Training(sinks=4, recent=16, steps=60, rate=0.1)
    gates = train_gates(model, passkey_prompts(8, seed=3, length=256), training).values
    assert best_heads(gates) == set(RETRIEVAL_HEADS)
    found, others = of_retrieval_and_others(gates)
    assert found.min() > 0.9 and others.max() < 0.1


def test_a_random_model_retrieves_nothing():
    before = torch.random.get_rng_state()
    model, other = random_model(seed=1), random_model(seed=2)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not torch.equal(model.get_input_embeddings().weight, other.get_input_embeddings().weight)
    with pytest.raises(CokvError, match="none of 8 needle prompts right"):
        retrieval_scores(model, needle_prompts(8, seed=1, length=64), "R")


def test_prompts_too_short_for_a_needle_are_refused():
    with pytest.raises(ValueError, match="length is 43, expected at least 44"):
        needle_prompts(1, seed=0, length=43)
    assert len(needle_prompts(1, seed=0, length=44)[0].prompt.input_ids) == 44
