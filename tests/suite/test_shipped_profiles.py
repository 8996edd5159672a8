"""Profiles that ship with models: by name and by digest, picked by the method, used by experiments, and written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cokv
from cokv.methods.registry import get_method
from cokv.model import store
from cokv.model.known import KNOWN
from cokv.model.loading import load_model
from cokv.profiles import shipped as shipped_files
from cokv.profiles.load import load_profile, profile_for
from cokv.profiles.shipped import EMBEDDED, model_of_digest, shipped_for, shipped_profiles
from cokv.types import CokvError, HeadScores
from suite.errors import SuiteError
from suite.experiment import asked, run_experiment
from suite.profiles.profile_folder import shipped
from suite.profiles.run_profiles import needed
from suite.profiles.shipped import main
from suite.spec import read_experiment

MODEL = "smollm2-135m"
EXPERIMENT = """
name = "with-shipped"
methods = ["snapkv", "cokv", "headkv_r2", "razorattention"]
kv_budgets = [64]
method_defaults = {{ window_size = 8 }}
model = {{ name = "embedded" }}
ruler = {{ preset = "mini", length = 256, samples = 1, tasks = ["vt"] }}
{profiles}
"""


@pytest.fixture
def known_profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A shipped folder of a known model, made on weights of its digest."""
    folder = tmp_path / "known_profiles" / MODEL
    folder.mkdir(parents=True)
    model = {"digest": store.digest_of(KNOWN[MODEL].sha256)}
    for stem, kind in {"cokv": "sliced Shapley value, mean over tasks", "headkv_r2": "HeadKV-R2 scores"}.items():
        HeadScores(np.linspace(0, 1, 8).reshape(2, 4), {"kind": kind, "model": model}).save(
            folder / f"{stem}.safetensors"
        )
    (folder / "razorattention.json").write_text(json.dumps({"unavailable": "it copies nothing"}))
    monkeypatch.setattr(shipped_files, "KNOWN", folder.parent)
    return folder


def test_names_digest_and_the_method_lead_to_a_profile(known_profiles: Path) -> None:
    assert shipped_profiles(MODEL) == (f"{MODEL}/cokv", f"{MODEL}/headkv_r2")
    assert model_of_digest(store.digest_of(KNOWN[MODEL].sha256)) == MODEL
    assert model_of_digest(load_model().digest) == "embedded" and model_of_digest("0" * 16) is None
    assert load_profile(f"{MODEL}/cokv") == profile_for(MODEL, get_method("cokv"))
    assert profile_for(MODEL, get_method("kivi_by_score")) == load_profile(f"{MODEL}/cokv"), "also Shapley values"
    assert profile_for(MODEL, get_method("headkv_r2")).provenance["kind"] == "HeadKV-R2 scores"
    assert profile_for(MODEL, get_method("snapkv")) is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (f"{MODEL}/lukv", f"expected one of {MODEL}/cokv, {MODEL}/headkv_r2, or a file"),
        (MODEL, f"names all profiles of a model; name one of them: {MODEL}/cokv"),
        (f"{MODEL}/razorattention", "as it can have none: it copies nothing"),
    ],
)
def test_what_does_not_ship_is_one_clear_line(known_profiles: Path, name: str, message: str) -> None:
    with pytest.raises(CokvError, match=message):
        load_profile(name)
    with pytest.raises(CokvError, match=rf"no profile 'duoattention-normalized' .* {MODEL}/cokv"):
        shipped_for(MODEL, get_method("duoattention"))
    with pytest.raises(CokvError, match=f"no profiles ship with model 'other'; they do with embedded, {MODEL}"):
        shipped_for("other", get_method("cokv"))


def test_compress_takes_a_model_s_name_and_refuses_another_shape(known_profiles: Path) -> None:
    model = load_model().model
    assert cokv.compress(model, "cokv", 64, profile="embedded", window_size=8)
    assert cokv.compress(model, "snapkv", 64, profile="embedded", window_size=8)
    with pytest.raises(CokvError, match="shape"):
        cokv.compress(model, "cokv", 64, profile=MODEL, window_size=8)


def test_a_loaded_model_finds_its_folder_by_name_or_digest(known_profiles: Path) -> None:
    from dataclasses import replace

    loaded = replace(load_model(), name="own.gguf", digest=store.digest_of(KNOWN[MODEL].sha256))
    folder = shipped(loaded)
    assert folder is not None and folder.folder == known_profiles and folder.origin == f"shipped with {MODEL}"
    assert not isinstance(folder.of(get_method("cokv"), loaded.digest), str)
    assert "another model" in str(folder.of(get_method("cokv"), "0" * 16))
    assert "it copies nothing" in str(folder.of(get_method("razorattention"), loaded.digest))


def experiment(tmp_path: Path, profiles: str) -> Any:
    file = tmp_path / "experiment.toml"
    file.write_text(EXPERIMENT.format(profiles=profiles), encoding="utf-8")
    return read_experiment(file)


def test_an_experiment_runs_on_shipped_profiles_and_its_hash_covers_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SuiteError, match=r"add a .game. section, or a file in .profiles., or source = 'shipped'"):
        experiment(tmp_path, "")
    spec = experiment(tmp_path, '[profiles]\nsource = "shipped"')
    assert [need.files for need in needed(spec)] == [
        (f"embedded/{m}",) for m in ("cokv", "headkv_r2", "razorattention")
    ]
    folder = run_experiment(spec, tmp_path / "runs")
    assert (folder.path / "profiles" / "cokv.safetensors").is_file()
    cells = {record["method"]: record for record in folder.lines("predictions.jsonl")}
    assert cells["cokv"]["infeasible"] is None and "no valid profile" in json.dumps(cells["razorattention"])
    before = asked(spec)
    copy = tmp_path / "profiles"
    shutil.copytree(EMBEDDED, copy)
    HeadScores(np.arange(16.0).reshape(4, 4), load_profile("embedded/cokv").provenance).save(copy / "cokv.safetensors")
    monkeypatch.setattr(shipped_files, "EMBEDDED", copy)
    assert asked(spec) != before  # and the digest of its cells, see test_grow.py


def test_shipped_profiles_of_other_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "profiles"
    shutil.copytree(EMBEDDED, copy)
    scores = load_profile("embedded/cokv")
    HeadScores(scores.values, {**scores.provenance, "model": {"digest": "0" * 16}}).save(copy / "cokv.safetensors")
    monkeypatch.setattr(shipped_files, "EMBEDDED", copy)
    with pytest.raises(SuiteError, match="embedded/cokv was made on a model of digest 0000"):
        run_experiment(experiment(tmp_path, '[profiles]\nsource = "shipped"'), tmp_path / "runs")


def test_a_model_without_shipped_profiles_says_what_to_do(tmp_path: Path, random_model: Path) -> None:
    spec = experiment(tmp_path, '[profiles]\nsource = "shipped"')
    spec = spec.model_copy(update={"model": spec.model.model_copy(update={"name": str(random_model)})})
    with pytest.raises(SuiteError, match=r"but no profiles ship .*; leave `source` out, .* as \[profiles\] cokv"):
        needed(spec)


def test_live_head_scores_come_before_shipped_ones(tmp_path: Path) -> None:
    game = "[game]\nprompts = 1\nslice_sizes = [4]\ncoalitions_per_size = 8\n"
    spec = experiment(tmp_path, '[profiles]\nsource = "shipped"\n' + game)
    from suite.profiles.run_profiles import Profiles

    live = HeadScores(np.ones((4, 4)), {"kind": "sliced Shapley value"})
    stored = load_profile("embedded/cokv")
    profiles = Profiles({"cokv": stored}, frozenset(["cokv"]))
    assert "cokv" in [need.name for need in needed(spec)]
    assert profiles.of(get_method("cokv"), None) == stored
    assert Profiles({"cokv": stored}).of(get_method("cokv"), live) == stored, "a file that is named is used"
    with pytest.raises(CokvError, match="no valid profile"):
        profiles.of(get_method("cokv"), live)  # all heads alike: refused, and not replaced by another profile


def test_a_run_of_a_known_model_is_written_into_its_folder(known_profiles: Path, tmp_path: Path, capsys: Any) -> None:
    run = tmp_path / "run"
    (run / "profiles").mkdir(parents=True)
    model = {"digest": store.digest_of(KNOWN["qwen2.5-coder-0.5b"].sha256)}
    (run / "spec.json").write_text(json.dumps({"model": model}))
    (run / "done.json").write_text("{}")
    shutil.copyfile(known_profiles / "headkv_r2.safetensors", run / "profiles" / "headkv_r2.safetensors")
    shutil.copyfile(known_profiles / "razorattention.json", run / "profiles" / "razorattention.json")
    scores = HeadScores(np.ones((2, 4)), {"kind": "sliced Shapley value", "task": "vt", "model": model})
    scores.save(run / "head_scores" / "vt.safetensors")
    assert main([str(run)]) == 0, capsys.readouterr().err
    names = {Path(line).name for line in capsys.readouterr().out.splitlines()}
    assert names == {"cokv.safetensors", "headkv_r2.safetensors", "razorattention.json"}
    assert model_of_digest(model["digest"]) == "qwen2.5-coder-0.5b"
    (run / "spec.json").write_text(json.dumps({"model": {"digest": "f" * 16}}))
    assert main([str(run)]) == 2 and "expected embedded, smollm2-135m" in capsys.readouterr().err
