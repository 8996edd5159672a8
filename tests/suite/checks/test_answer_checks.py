"""Checks of answers: known scores give known verdicts, and unequal bytes or refused profiles decide nothing."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cokv.types import HeadScores
from suite.checks import bits, methods, profiles, settings
from suite.checks.answers import Answered
from suite.checks.context import Context, category
from suite.checks.pooled import difference, mean_of, share, total
from suite.spec import Experiment

TASKS = ("niah_single_1", "niah_single_2", "vt")
SAMPLES = 12


def context(model: str = "some", records=(), **checks) -> Context:
    experiment = Experiment.model_validate_json(
        '{"name": "planted", "methods": [{"name": "full"}, {"name": "cokv", "params": {"kernel_size": 5}}],'
        ' "kv_budgets": [64], "ruler": {"preset": "mini", "length": 256, "samples": 2,'
        ' "tasks": ["niah_single_1", "niah_single_2", "vt"]},'
        ' "game": {"slice_sizes": [2], "coalitions_per_size": 4}, "checks": {}}'
    )
    changes = {"checks": experiment.checks.model_copy(update=checks)}
    changes["model"] = experiment.model.model_copy(update={"name": model})
    experiment = experiment.model_copy(update=changes)
    shape = SimpleNamespace(num_layers=4, num_kv_heads=4, head_dim=32, group_size=1)
    parameters = lambda: iter([torch.zeros(1)])  # noqa: E731  # element_size of a model in float32
    loaded = SimpleNamespace(shape=shape, model=SimpleNamespace(parameters=parameters))
    scores = {task: HeadScores(np.arange(16.0).reshape(4, 4) + place) for place, task in enumerate(TASKS)}
    return Context(experiment, loaded, scores, records)


def answered(points: dict[str, float], size: float = 1000.0, sizes=None, refused=None) -> Answered:
    """Samples of every task whose score by an arm is the sample's own ease and the arm's points."""
    ease = np.linspace(0, 50, SAMPLES)
    sizes = sizes or {}
    samples = [
        {
            arm: {"score": e + more, "bytes": sizes.get(arm, size), "slots": 64 if arm != bits.EVEN else None}
            for arm, more in points.items()
        }
        for e in ease
    ]
    return Answered({task: samples for task in TASKS}, refused or {})


def test_alpha_and_window_are_judged_against_their_defaults():
    given = context()
    assert settings.default_alpha(given) == 1 and settings.alphas(given) == [2, 4, 6, 8]
    points = {"alpha/default": 10, "alpha/2": 12, "alpha/4": 10, "alpha/6": 8, "alpha/8": 0}
    rows = settings.rows(given, "alpha", answered(points))
    assert [row["verdict"] for row in rows] == ["holds", "undecided", "does not hold", "does not hold"]
    assert rows[0]["score"] == pytest.approx(2) and rows[0]["low"] > 0 and rows[0]["n"] == 36
    assert rows[1]["low"] < 0 < rows[1]["high"] and rows[1]["p"] == 1
    points = {"window/default": 10, "window/4": 12, "window/16": 8, "window/32": 10}
    rows = settings.rows(given, "window", answered(points))
    assert [row["what"].split()[3] for row in rows] == ["4", "16", "32"]
    assert [row["verdict"] for row in rows] == ["holds", "does not hold", "undecided"]


def test_the_arms_differ_in_the_one_parameter():
    given = context()
    for check, name in (("alpha", "alpha"), ("window", "window_size")):
        arms = settings.arms(given, check, "vt")
        base = arms.pop(f"{check}/default")
        assert base.params["kernel_size"] == 5, "the experiment's own parameters of CoKV stay"
        for arm in arms.values():
            assert arm.profile is base.profile and arm.kv_budget == base.kv_budget
            assert {k for k in arm.params if arm.params[k] != base.params.get(k)} == {name}
    first = settings.arms(given, "first_token", "vt")
    assert {arm.first_token for arm in first.values()} == {"prefill", "compressed"}
    assert len({str(arm.params) for arm in first.values()}) == 1


def test_profiles_inside_and_across_categories():
    given = context()
    assert [category(given.experiment, task) for task in TASKS] == ["retrieval", "retrieval", "multi-hop tracing"]
    points = {"profiles/own": 20, "profiles/unified": 25, "profiles/layer averages": 0}
    points |= {"profiles/of niah_single_1": 20, "profiles/of niah_single_2": 20, "profiles/of vt": 5}
    rows = {row["what"]: row for row in profiles.rows(given, answered(points))}
    inside = rows["Own profile better than those of tasks inside its category?"]
    assert inside["pairs"] == {"niah_single_1": ["niah_single_2"], "niah_single_2": ["niah_single_1"]}
    assert inside["verdict"] == "undecided" and inside["n"] == 24
    across = rows["Own profile better than those of tasks of other categories?"]
    assert across["pairs"]["vt"] == ["niah_single_1", "niah_single_2"] and across["n"] == 36
    assert across["score"] == pytest.approx((15 + 15 + 0) / 3) and across["verdict"] == "holds"
    assert rows["Own profile better than the mean of all tasks?"]["verdict"] == "does not hold"
    layers = rows["Own profile better than another model's layer averages?"]
    assert layers["verdict"] == "holds" and "embedded model's shipped SSV" in layers["note"]
    (own,) = (r for r in profiles.rows(context("embedded"), answered(points)) if "layer averages" in r["what"])
    assert own["not_run"] == "the shipped profile is this model's own"


def test_the_unified_profile_is_the_mean_and_layer_averages_keep_their_place():
    assert profiles.unified(context()).values == pytest.approx(np.arange(16.0).reshape(4, 4) + 1)
    means = np.array([1.0, 3.0, 2.0, 5.0])
    assert profiles.resampled(means, 4) == pytest.approx(means), "as many layers: the same means"
    assert profiles.resampled(means, 2) == pytest.approx([2.0, 3.5]) and profiles.resampled(means, 1) == [2.5]
    longer = profiles.resampled(means, 30)
    assert longer[0] == 1 and longer[-1] == 5 and longer.max() == 5
    layers = profiles.layer_averages(30, 3)
    assert layers.values.shape == (30, 3) and (np.ptp(layers.values, axis=1) == 0).all()


def test_bits_are_judged_at_equal_bytes_alone():
    given = context()
    points = {bits.FOUR: 20, bits.AS_IS: 10, bits.BY_SCORE: 20, bits.AT_RANDOM: 10, bits.MIXED: 5, bits.EVEN: 10}
    assert [row["verdict"] for row in bits.rows(given, answered(points))] == ["holds", "holds", "does not hold"]
    apart = answered(points, sizes={bits.FOUR: 1031.0, bits.BY_SCORE: 1029.0})
    first, second, _ = bits.rows(given, apart)
    assert first["verdict"] == "undecided" and first["why"] == "bytes differ by 3.1 %"
    assert first["slots"] == {"arm": 64, "base": 64}
    assert second["verdict"] == "holds" and second["bytes"] == {"arm": 1029.0, "base": 1000.0}
    shares = bits.rows(context(kv_budget="20%"), answered(points))
    assert "expected a number of slots" in shares[0]["not_run"] and shares[1]["verdict"] == "holds"


def test_what_a_method_refuses_is_said_and_not_counted():
    given = context()
    points = {"alpha/default": 10, "alpha/2": 12, "alpha/4": 10, "alpha/6": 8, "alpha/8": 0}
    whole = answered(points)
    part = {task: samples for task, samples in whole.by_task.items() if task != "vt"}
    rows = settings.rows(given, "alpha", Answered(part, {"vt": dict.fromkeys(points, "no valid profile")}))
    assert rows[0]["n"] == 24 and rows[0]["left_out"] == {"vt": "no valid profile"}
    rows = settings.rows(given, "alpha", Answered({}, {"vt": dict.fromkeys(points, "no valid profile")}))
    assert {row["not_run"] for row in rows} == {"no valid profile"}
    for samples in whole.by_task.values():
        samples[3]["alpha/2"] = {"infeasible": "window above half"}
    assert settings.rows(given, "alpha", whole)[0]["not_run"] == "window above half"


def record(method, sample, score, budget=64, **facts):
    base = {"method": method, "preset": "normalized", "kv_budget": budget, "task": "vt", "seed": 0}
    return {**base, "sample_id": str(sample), "score": score, **facts}


def test_methods_are_paired_over_the_run_s_own_records():
    records = [record("snapkv", s, s) for s in range(12)] + [record("cokv", s, s + 5) for s in range(8)]
    records += [record("adakv", s, s - 1) for s in range(12)]
    records += [record("lukv", s, None, unsupported="no profile of this model") for s in range(12)]
    records += [record("cokv", s, 100) | {"preset": "alpha=3"} for s in range(12)]
    rows = {row["what"]: row for row in methods.rows(context(records=records))}
    cokv = rows["CoKV better than uniform at 64?"]
    assert cokv["verdict"] == "holds" and cokv["n"] == 8 and cokv["score"] == pytest.approx(5)
    assert rows["AdaKV better than uniform at 64?"]["verdict"] == "does not hold"
    assert rows["LU-KV better than uniform at 64?"]["not_run"] == "no profile of this model"
    assert "headkv_r2 is not a method of this run" in rows["HeadKV-R2 better than uniform budgets?"]["not_run"]
    assert "snapkv is not a method" in methods.rows(context(records=records[12:]))[0]["not_run"]


def test_tasks_weigh_alike_and_shares_are_of_the_whole():
    scores = {"a": np.array([100.0, 100.0]), "b": np.zeros(30)}
    assert mean_of(scores)["score"] == 50 and total(scores) == 32
    whole = {"a": np.full(2, 100.0), "b": np.full(30, 100.0)}
    half = share(scores, whole)
    assert half["score"] == 50 and half["low"] < 50 < half["high"]
    assert share(scores, {"a": np.zeros(2), "b": np.zeros(30)}) == {}
    assert difference(scores, whole)["differing"] == 30
