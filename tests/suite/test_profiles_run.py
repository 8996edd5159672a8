"""Profiles of a run: computed once, found again, read from files, hashed; and what cannot be had is said."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cokv.model.loading import load_model
from cokv.profiles.lukv_file import RatioCurves
from cokv.types import CokvError, HeadScores
from suite.errors import SuiteError
from suite.experiment import asked, run_experiment
from suite.profiles import run_profiles as profiles_run
from suite.profiles.prompts import needle_prompts, passkey_prompts
from suite.profiles.run_profiles import PROFILERS, NoProfile, Profiles, needed
from suite.run.plan import plan
from suite.spec import read_experiment

EXPERIMENT = """
name = "profiled"
methods = [
    "full", "headkv_r", "lukv", "h2o",
    {{name = "lukv", preset = "kvpress"}},
    {{name = "duoattention", params = {{num_sinks = 2, local = 6}}}},
    {{name = "razorattention", params = {{local = 2, retrieval_share = 0.25}}}},
]
kv_budgets = [48]
model = {{name = "{model}"}}
method_defaults = {{window_size = 4}}
ruler = {{preset = "mini", length = 160, samples = 1, tasks = ["niah_single_1", "vt"]}}

[profiles]
prompts = 1
task_prompts = 1
passkey_length = 384
steps = 3
period = 20
{more}
"""
MEASURE = "\n[measure]\nkv_budget = 16\nprompt_tokens = 64\nnew_tokens = 2\nrepeats = 1"


@pytest.fixture
def experiment(tmp_path, random_model):
    def make(more: str = "", **changes: str):
        text = EXPERIMENT.format(model=random_model, more=more)
        for old, new in changes.items():
            text = text.replace(f"{old} = ", f"{old} = {new} #")
        file = tmp_path / "experiment.toml"
        file.write_text(text, encoding="utf-8")
        return read_experiment(file)

    return make


@pytest.fixture
def called(monkeypatch) -> list[str]:
    """Names of the profiles that are computed."""
    built: list[str] = []

    def counted(name):
        original = PROFILERS[name]
        return lambda *args: built.append(name) or original(*args)

    monkeypatch.setattr(profiles_run, "PROFILERS", {name: counted(name) for name in PROFILERS})
    return built


def test_each_profile_is_computed_once_and_found_again(experiment, tmp_path, called):
    spec = experiment(MEASURE)
    folder = run_experiment(spec, tmp_path / "runs")
    assert sorted(called) == ["duoattention", "headkv_r", "lukv", "lukv", "razorattention"]
    records = folder.lines("predictions.jsonl")
    for record in records:
        if record["method"] == "headkv_r":
            assert "answers none of 3 needle prompts right" in record["unsupported"]
        elif record["score"] is None:
            reason = record["infeasible"] or record["unsupported"]
            assert "no valid profile" in reason or "whole head" in reason, "random weights, a small budget"
        else:
            assert record["infeasible"] is None, record
            assert record["kept_tokens"] == (record["kv_budget"] or record["prompt_tokens"]) * 4
    stored = {file.name for file in (folder.path / "profiles").iterdir()}
    assert stored == {
        "duoattention-num_sinks=2-local=6.safetensors",
        "headkv_r.json",
        "lukv-kvpress.safetensors",
        "lukv-normalized.safetensors",
        "razorattention.safetensors",
    }
    gates = HeadScores.load(folder.path / "profiles" / "duoattention-num_sinks=2-local=6.safetensors").provenance
    assert (gates["sinks"], gates["recent"], gates["steps"]) == (2, 6, 3), "trained for what the method keeps"
    assert gates["model"]["digest"] == load_model(spec.model.name).digest
    curves = RatioCurves.load(folder.path / "profiles" / "lukv-kvpress.safetensors")
    assert curves.provenance["scorer"]["name"] == "ExpectedAttention"
    written = json.loads((folder.path / "spec.json").read_text())["profiles"]
    assert written["razorattention"] == {"version": 2, "seed": 0, "period": 20}

    measured = {row["method"]: row for row in folder.read("measurements.json")["decode"]}
    assert {"h2o", "lukv"} <= measured.keys(), "methods that observe, or need curves, have latency rows"
    assert measured["h2o"]["prefill_ms"] > 0

    called.clear()
    (folder.path / "done.json").unlink()
    (folder.path / "predictions.jsonl").unlink()
    resumed = run_experiment(spec, tmp_path / "runs")
    assert resumed.path == folder.path and called == [], "a resumed run computes no profile again"
    assert resumed.lines("predictions.jsonl") == records


def test_a_file_stands_for_a_profile(experiment, tmp_path, called):
    rng = np.random.default_rng(0)
    HeadScores(rng.random((2, 2)), {"kind": "HeadKV-R score, mean over needles"}).save(tmp_path / "heads.safetensors")
    np.save(tmp_path / "lukv.npy", (np.arange(1, 100)[:, None, None] / 100) ** rng.uniform(0.5, 2, (2, 2)))
    HeadScores(rng.random((2, 2)), {"kind": "sliced Shapley value"}).save(tmp_path / "ssv.safetensors")
    names = {"headkv_r": "heads.safetensors", "lukv": "lukv.npy", "cokv": "ssv.safetensors"}
    text = "\n".join(f'{method} = "{tmp_path}/{name}"' for method, name in names.items())
    spec = experiment(text)
    folder = run_experiment(spec, tmp_path / "runs")
    assert sorted(called) == ["duoattention", "razorattention"]
    assert all(record["infeasible"] is None for record in folder.lines("predictions.jsonl"))
    before = asked(spec)
    HeadScores(rng.random((2, 2)), {"kind": "HeadKV-R score, mean over needles"}).save(tmp_path / "heads.safetensors")
    assert asked(spec) != before, "other bytes are another profile"
    again = run_experiment(spec, tmp_path / "runs")
    others = again.lines("other_predictions.jsonl")
    assert again.path == folder.path and {record["method"] for record in others} == {"headkv_r"}
    assert {need.name for need in needed(spec) if need.files} == {"headkv_r", "lukv-normalized", "lukv-kvpress"}


def test_shapley_values_from_a_file_need_no_game(tmp_path, random_model):
    HeadScores(np.array([[3.0, 1.0], [2.0, 0.0]]), {"kind": "sliced Shapley value"}).save(tmp_path / "s.safetensors")
    file = tmp_path / "cokv.toml"
    text = f"""
name = "cokv"
methods = ["cokv"]
kv_budgets = [24]
model = {{name = "{random_model}"}}
method_defaults = {{window_size = 8}}
ruler = {{preset = "mini", length = 160, samples = 1, tasks = ["vt"]}}
"""
    file.write_text(text)
    with pytest.raises(SuiteError, match=r"cokv needs head scores: add a \[game\] section, or a file"):
        read_experiment(file)
    file.write_text(text + f'[profiles]\ncokv = "{tmp_path}/s.safetensors"\n')
    folder = run_experiment(read_experiment(file), tmp_path / "runs")
    assert [record["infeasible"] for record in folder.lines("predictions.jsonl")] == [None]
    file.write_text(text.replace('"cokv"]', '"snapkv", "h2o"]'))
    assert read_experiment(file).game is None


@pytest.mark.parametrize(
    ("key", "built", "message"),
    [
        ("lukv", lambda: HeadScores(np.ones((2, 2)), {"kind": "HeadKV-R score"}), "is of kind 'HeadKV-R score'"),
        ("headkv_r", lambda: HeadScores(np.ones((3, 2)), {"kind": "HeadKV-R score"}), "use scores computed on this"),
        ("headkv_r", None, "cannot be read"),
    ],
)
def test_a_wrong_file_ends_the_run_before_any_work(experiment, tmp_path, called, key, built, message):
    if built is not None:
        built().save(tmp_path / "wrong.safetensors")
    with pytest.raises((SuiteError, CokvError), match=message) as error:
        run_experiment(experiment(f'{key} = "{tmp_path}/wrong.safetensors"'), tmp_path / "runs")
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "runs").glob("*/predictions.jsonl"))


def test_settings_are_asked_for_where_they_are_in_use(experiment):
    one, other = experiment(), experiment(steps="4")
    assert asked(one) != asked(other)
    alone = [e.model_copy(update={"methods": e.methods[:2]}) for e in (one, other)]  # no DuoAttention
    assert asked(alone[0]) == asked(alone[1])
    without = one.model_copy(update={"methods": one.methods[:1]})
    assert asked(without)["profiles"] == {}


def test_a_profile_of_other_settings_is_computed_beside_the_first(experiment, tmp_path, called):
    folder = run_experiment(experiment(), tmp_path / "runs")
    stored = {file.name: file.read_bytes() for file in (folder.path / "profiles").iterdir()}
    called.clear()
    again = run_experiment(experiment(steps="4"), tmp_path / "runs")
    assert again.path == folder.path and called == ["duoattention"]
    called.clear()
    run_experiment(experiment(), tmp_path / "runs")
    assert called == []
    assert {file.name: file.read_bytes() for file in (folder.path / "profiles").iterdir()} == stored


def test_the_plan_counts_the_profiles(experiment, random_model):
    loaded = load_model(str(random_model))
    stages = {stage.name: stage for stage in plan(experiment(), loaded)}
    assert stages["profiles"].prompts == 3 + 3 + 3 + 2 + 2, "a text thrice, three steps, three needles, two tasks twice"
    needles, curves = 2 * 3 * 160, 2 * 2 * 2 * 160  # read twice; curves' prompts may fall short of the length
    sure = 3 * 4 * 20 + 4 * 3 * 384 + needles
    assert sure + 0.8 * curves < stages["profiles"].prefill_tokens <= sure + curves
    plain = experiment().model_copy(update={"methods": experiment().methods[:1]})
    assert "profiles" not in {stage.name for stage in plan(plain, loaded)}


def test_needles_stand_where_they_are_said_to(experiment, random_model):
    loaded = load_model(str(random_model))
    spec = experiment()
    for needle in needle_prompts(spec, loaded):
        needle_text = loaded.tokenizer.decode(needle.prompt.input_ids[needle.start : needle.end].tolist()).strip()
        assert needle_text.startswith("The secret") and needle_text.endswith("."), "the whole sentence"
        answer = needle_text.removesuffix(".").rpartition(" ")[2]
        assert needle.right(loaded.tokenizer.encode(f" {answer}.", add_special_tokens=False))
        assert not needle.right(loaded.tokenizer.encode(" nothing.", add_special_tokens=False))
        text = loaded.tokenizer.decode(needle.prompt.input_ids.tolist())
        assert text.count(needle_text) == 1
    for answered in passkey_prompts(spec, loaded, 384):
        assert 0 < answered.input_ids.numel() - answered.start < 64 and answered.input_ids.numel() <= 390


def test_a_method_is_given_its_own_profile():
    from cokv.methods.registry import get_method

    scores, heads = (HeadScores(np.eye(2), {"kind": kind}) for kind in ("sliced Shapley value", "HeadKV"))
    profiles = Profiles({"headkv_r": heads, "lukv-normalized": "it is broken"})
    assert profiles.of(get_method("snapkv"), scores) is None
    assert profiles.of(get_method("cokv"), scores) is scores
    assert profiles.of(get_method("headkv_r", "official"), scores) is heads
    flat = HeadScores(np.ones((2, 2)), {"kind": "sliced Shapley value"})
    with pytest.raises(NoProfile, match="cokv: no valid profile: all heads have the same score"):
        profiles.of(get_method("cokv"), flat)
    with pytest.raises(CokvError, match="lukv: no profile of this model: it is broken"):
        profiles.of(get_method("lukv"), scores)
