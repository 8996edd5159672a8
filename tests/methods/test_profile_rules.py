"""A profile that says nothing of its model is refused, on every path; one of a model that retrieves is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from worlds import retrieval

import cokv
from cokv.cache.prefill import prefill
from cokv.methods.profile_rules import effective_heads, evidence, refusal
from cokv.methods.registry import get_method
from cokv.profiles.duo_gates import Training, train_gates
from cokv.profiles.evidence import reliability
from cokv.profiles.headkv_scores import retrieval_scores
from cokv.profiles.load import load_profile
from cokv.profiles.lukv_file import RatioCurves
from cokv.profiles.razor_scores import razor_scores
from cokv.types import CokvError, HeadScores

START = (retrieval.START,)
TRAINING = Training(sinks=4, recent=16, steps=60, rate=0.05)
PROFILERS: dict[str, Callable[[Any], HeadScores]] = {
    "headkv_r": lambda model: retrieval_scores(model, retrieval.needle_prompts(6, 0, 96), "R"),
    "headkv_r2": lambda model: retrieval_scores(model, retrieval.needle_prompts(6, 0, 96), "R2"),
    "razorattention": lambda model: razor_scores(model, 64, start_ids=START),
    "duoattention": lambda model: train_gates(model, retrieval.passkey_prompts(4, 0, 96), TRAINING),
}


@pytest.fixture(scope="module")
def planted() -> Any:
    return retrieval.retrieval_model()


@pytest.mark.parametrize("name", PROFILERS)
def test_a_model_with_retrieval_heads_has_a_valid_profile_that_ranks_them_first(planted, name):
    profile = PROFILERS[name](planted)
    assert refusal(profile) == ""
    best = np.argsort(-profile.values, axis=None, kind="stable")[:2]
    assert {divmod(int(head), 4) for head in best} == set(retrieval.RETRIEVAL_HEADS)
    facts = evidence(profile)
    count = facts.get("effective_heads") or facts["effective_query_heads"] / 2
    assert facts["largest"] >= 0.1 and count == pytest.approx(2, abs=0.1), "two heads, of two query heads each"
    more = {
        "headkv_r": {"reliability"},
        "headkv_r2": {"reliability", "chance"},
        "razorattention": {"reliability", "copy_accuracy", "period", "effective_heads"},
        "duoattention": {"loss_of_half_by_gate", "loss_of_none", "random_halves_better", "answers_predicted"},
    }
    assert more[name] <= facts.keys(), "a profile states what it rests on"


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", PROFILERS)
def test_a_random_model_has_none(name, seed):
    """HeadKV's profilers find no needle that it answers; the others make scores, and the rule refuses them."""
    model = retrieval.random_model(seed)
    if name.startswith("headkv"):
        with pytest.raises(CokvError, match="answers none of 6 needle prompts right"):
            PROFILERS[name](model)
        return
    profile = PROFILERS[name](model)
    reason = refusal(profile)
    assert ("copies" if name == "razorattention" else "of the passkeys") in reason, evidence(profile)


def test_methods_compress_and_runs_refuse_alike(planted):
    profile = razor_scores(retrieval.random_model(0), 64, start_ids=START)
    method = get_method("razorattention", local=4)
    read = prefill(planted, torch.arange(1, 91), 8)
    for refused in (
        lambda: method.select(read, 40, profile),
        lambda: method.check(40, 2, 4, profile),
        lambda: cokv.compress(planted, method, 40, profile),
    ):
        with pytest.raises(CokvError, match="razorattention: no valid profile: the model copies"):
            refused()
    cokv.detach(planted)


def scores(kind: str, values: Any = ((4.0, 3.0), (2.0, 1.0)), **facts: Any) -> HeadScores:
    return HeadScores(np.array(values), {"kind": kind, "evidence": facts})


R, R2 = "HeadKV-R score, mean over needles", "HeadKV-R2 score, mean over needles"
RAZOR, DUO = "RazorAttention order by induction and echo", "DuoAttention gate, clipped to 0..1"
ONE_HEAD = ((9.0, 0.1), (0.0, 0.0))
TWO_HEADS = ((1.0, 1.0), (1e-4, 0.0))  # a little more than two
FEWER = ((1.0, 0.9), (0.0, 0.0))  # (1.9)^2 / 1.81 = 1.994


@pytest.mark.parametrize(
    ("valid", "refused", "words"),
    [
        (scores("any", reliability=0.5), scores("any", reliability=0.49), "reliability 0.49"),
        (scores("any"), scores("any", ((1.0, 1.0), (1.0, 1.0))), "all heads have the same score"),
        (scores(R, TWO_HEADS), scores(R, FEWER), "as if 1.99 heads shared it"),
        (scores(R), scores(R, ONE_HEAD), "as if 1.02 heads shared it, expected at least 2"),
        (scores(R, largest=0.1), scores(R, largest=0.09), "largest retrieval score of a head is 0.090"),
        (
            scores(R2, largest=0.04, chance=0.02),
            scores(R2, largest=0.039, chance=0.02),
            "even attention would give 0.02",
        ),
        (scores(RAZOR, copy_accuracy=0.8), scores(RAZOR, copy_accuracy=0.79, period=64), "copies 79.0% .* 64 tokens"),
        (scores(RAZOR, largest=0.1), scores(RAZOR, largest=0.05), "largest induction score of a head is 0.050"),
        (scores(DUO, answers_predicted=0.5), scores(DUO, answers_predicted=0.49), "predicts 49.0% of the passkeys"),
        (
            scores(DUO, random_halves=20, random_halves_better=1),
            scores(DUO, random_halves=20, random_halves_better=2),
            "2 of 20 random halves of the heads, kept whole, lose less",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_rule_at_its_edge(valid, refused, words):
    assert refusal(valid) == ""
    with pytest.raises(CokvError, match=words):
        raise CokvError(refusal(refused))


def test_curves_that_are_the_same_for_all_heads_are_refused():
    line = np.linspace(0.01, 0.99, 99)[:, None, None]
    flat, bent = RatioCurves(line.repeat(2, 1).repeat(2, 2)), RatioCurves(line ** np.array([[1.0, 0.9], [1.1, 1.0]]))
    assert "all heads keep the same share" in refusal(flat, "LU-KV") and refusal(bent, "LU-KV") == ""
    for spread, refused in ((0.0099, True), (0.0101, False)):  # at a quarter of the cache
        values = line.repeat(1, 1).repeat(2, 2)
        values[24:, 0, 1] += spread * (1 - line[24:, 0, 0]) / 0.75
        assert bool(refusal(RatioCurves(values), "LU-KV")) is refused


def test_what_a_file_does_not_state_is_not_held_against_it():
    for kind in (R, R2, RAZOR, DUO, "sliced Shapley value"):
        assert refusal(HeadScores(np.array([[3.0, 2.0], [2.0, 1.0]]), {"kind": kind})) == ""
    assert refusal(HeadScores(np.ones((1, 1))), "HeadKV") == "", "a single head has no rival"
    assert "one head has nearly" in refusal(HeadScores(np.array(ONE_HEAD)), "HeadKV"), "the method's kind"


@pytest.mark.parametrize("value", ["high", [0.9], True, {"a": 1}])
def test_evidence_that_is_no_number_is_an_error_with_words(value):
    profile = HeadScores(np.array([[2.0, 1.0]]), {"kind": "sliced Shapley value", "evidence": {"reliability": value}})
    with pytest.raises(CokvError, match=r"cokv: the profile's evidence 'reliability' is .* expected a number"):
        get_method("cokv").check(64, 1, 2, profile)


def test_a_reliability_that_could_not_be_measured_is_refused():
    unknown = HeadScores(np.array([[2.0, 1.0]]), {"kind": "any", "evidence": {"reliability": None}})
    assert "reliability could not be measured" in refusal(unknown)
    assert refusal(HeadScores(np.array([[2.0]]), unknown.provenance)) == "", "a single head has no order"


def test_a_games_reliability_is_that_of_its_stability():
    unstable = HeadScores(np.array([[2.0, 1.0]]), {"kind": "sliced Shapley value", "split_half": 0.3})
    assert "reliability 0.30" in refusal(unstable)
    with pytest.raises(CokvError, match=r"cokv: no valid profile: split-half reliability 0\.30"):
        get_method("cokv").check(64, 1, 2, unstable)


def test_effective_heads_count_equal_ones():
    for count in (1, 3, 8):
        values = np.zeros(8)
        values[:count] = 0.7
        assert effective_heads(values) == pytest.approx(count)
    assert effective_heads(np.zeros(4)) == 0 and effective_heads(np.array([1e-300, 0])) == 1


def test_reliability_is_one_for_equal_samples_and_none_for_noise():
    generator = np.random.default_rng(0)
    signal = generator.random(64)
    assert reliability(np.tile(signal, (6, 1))) == pytest.approx(1)
    assert abs(reliability(generator.random((6, 64)))) < 0.3
    noisy = reliability(signal + 0.3 * generator.standard_normal((12, 64)))
    expected = signal.var() / (signal.var() + 0.09 / 12)  # of the mean over 12 samples
    assert noisy == pytest.approx(expected, abs=0.1)
    assert reliability(signal[None]) is None and reliability(np.ones((4, 1))) is None
    assert reliability(np.array([[1.0, 2.0, 3.0], [1.0, 1.0, 1.0]])) == 0, (
        "halves of which one is constant show no order"
    )


def test_shipped_profiles_are_valid_but_for_those_that_the_model_cannot_have():
    refused = {"headkv_r": "one head has nearly all", "razorattention": "the model copies"}
    for name in ("headkv_r", "headkv_r2", "razorattention", "duoattention-normalized", "lukv-normalized", "cokv"):
        reason = refusal(load_profile(f"embedded/{name}"))
        assert (refused[name] in reason) if name in refused else reason == "", (name, reason)
