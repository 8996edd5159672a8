"""The profiles that ship with the embedded model are made from a finished run of it that has all, or not at all."""

import json
from pathlib import Path

import numpy as np
import pytest

from cokv.model.loading import load_model
from cokv.profiles.shipped import EMBEDDED as SHIPPED
from cokv.types import HeadScores
from suite.profiles.shipped import PER_MODEL, main


@pytest.fixture
def run(tmp_path) -> Path:
    """What a run leaves behind of its profiles, made of the shipped ones."""
    folder = tmp_path / "run"
    (folder / "profiles").mkdir(parents=True)
    loaded = load_model()
    (folder / "spec.json").write_text(json.dumps({"model": loaded.identity()}))
    (folder / "done.json").write_text("{}")
    for name in PER_MODEL:
        (folder / "profiles" / f"{name}.safetensors").write_bytes((SHIPPED / f"{name}.safetensors").read_bytes())
    for place, task in enumerate(("vt", "cwe")):
        stated = {"kind": "sliced Shapley value", "task": task, "model": loaded.identity()}
        HeadScores(np.full((4, 4), float(place)), stated).save(folder / "head_scores" / f"{task}.safetensors")
    return folder


def test_they_are_copies_and_a_mean(run, tmp_path, capsys):
    assert main([str(run)], tmp_path / "out") == 0
    out = tmp_path / "out"
    assert len(capsys.readouterr().out.splitlines()) == len(list(out.iterdir())) == 6
    for name in PER_MODEL:
        assert (out / f"{name}.safetensors").read_bytes() == (SHIPPED / f"{name}.safetensors").read_bytes()
    mean = HeadScores.load(out / "cokv.safetensors")
    assert (mean.values == 0.5).all() and mean.provenance["tasks"] == ["cwe", "vt"]


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("done.json", "no finished run"),
        ("profiles/headkv_r.safetensors", "has no headkv_r;"),
        ("spec.json", "spec.json"),
    ],
)
def test_a_run_that_lacks_something_writes_nothing(run, tmp_path, capsys, gone, message):
    (run / gone).unlink()
    assert main([str(run)], tmp_path / "out") == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([]) == 2 and "usage" in capsys.readouterr().err
