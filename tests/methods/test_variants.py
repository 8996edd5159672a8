"""Who sets a parameter, and what a method is called once one is changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from cokv.methods.method import NORMALIZED
from cokv.methods.registry import METHODS, describe_methods, get_method
from suite.errors import SuiteError
from suite.run.cells import grid_cells, variant_facts
from suite.spec import read_experiment

EXPERIMENT = """
name = "variants"
methods = [{methods}]
kv_budgets = [128]
{more}
[ruler]
preset = "mini"
length = 512
samples = 1
tasks = ["vt"]
"""
DEFAULTS = "[method_defaults]\nwindow_size = 8\nkernel_size = 9\npooling = 'avg'"


@pytest.fixture
def experiment(tmp_path: Path):
    def read(*methods: str, more: str = ""):
        path = tmp_path / "variants.toml"
        path.write_text(EXPERIMENT.format(methods=", ".join(methods), more=more), encoding="utf-8")
        return read_experiment(path)

    return read


def test_a_parameter_of_the_papers_makes_a_variant_with_its_name():
    assert get_method("headkv_r").variant == get_method("headkv_r", beta=1.5).variant == NORMALIZED
    assert get_method("headkv_r", beta=3).variant == "beta=3"
    assert get_method("duoattention", num_sinks=4, local=28).variant == "num_sinks=4, local=28"
    assert get_method("pyramidkv", "official", beta=10).variant == "official, beta=10"
    assert get_method("cake", kernel_size=7).variant == "kernel_size=7"
    assert get_method("razorattention", local=20).variant == "local=20", "the floor of the window is no paper's"


def test_a_parameter_that_papers_sweep_makes_none():
    method = get_method("snapkv", window_size=8, kernel_size=5)
    assert method.variant == NORMALIZED
    assert method.changed == {"window_size": (8, 32), "kernel_size": (5, 7)}
    assert get_method("snapkv", "unpooled", window_size=8).variant == "unpooled"
    assert get_method("snapkv", kernel_size=1).variant == "kernel_size=1", "no paper sweeps pooling away"
    twice = get_method(get_method("snapkv", window_size=8), window_size=32)
    assert twice.changed == {}, "compared with the paper, not with what was there before"
    assert get_method(get_method("snapkv", window_size=8), "official").variant == "official"


def test_every_swept_parameter_is_one():
    for row in METHODS.values():
        assert set(row.owners) <= set(row.parameters), row.name
        assert {row.owner(name) for name in row.parameters} <= {"paper", "experiment", "budget"}
    assert METHODS["cake"].owner("kernel_size") == METHODS["headkv_r"].owner("beta") == "paper"
    rows = {(row["name"], row["preset"]): row["set by"] for row in describe_methods()}
    assert rows["cake", "normalized"] == "paper: kernel_size, gamma; experiment: window_size, tau1, tau2"
    assert rows["fastgen", "normalized"] == "paper: frequent_share, local_share; budget: least_threshold"


def test_defaults_reach_what_papers_leave_to_the_experiment_and_nothing_else(experiment):
    """CAKE's kernel of 5 stays, as does every preset that runs as released, and what a preset is about."""
    names = [
        '"snapkv"', '"cake"', '"h2o"',
        "{name = 'snapkv', preset = 'official'}", "{name = 'snapkv', preset = 'unpooled'}",
        "{name = 'snapkv', params = {kernel_size = 3}}",
    ]  # fmt: skip
    spec = experiment(*names[:5], more=DEFAULTS)
    snapkv, cake, h2o, official, unpooled = (cell.method for cell in grid_cells(spec))
    sizes = {"window_size": 8, "kernel_size": 9, "pooling": "avg"}
    assert {name: snapkv.parameters[name] for name in sizes} == sizes
    assert (cake.parameters["window_size"], cake.parameters["kernel_size"]) == (8, 5)
    assert h2o == METHODS["h2o"] and official == METHODS["snapkv"].with_preset("official")
    assert (unpooled.parameters["kernel_size"], unpooled.parameters["window_size"]) == (1, 8)
    (own,) = grid_cells(experiment(names[5], more=DEFAULTS))
    assert own.method.parameters["kernel_size"] == 3


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "num_sinks = 8",
            "`method_defaults.num_sinks`: the papers of streamingllm, kvzip, .* fix it",
        ),
        ("beta = 2", "the papers of pyramidkv, headkv_r, headkv_r2 fix it; set it in a method's `params`"),
        ("window_sise = 8", "unknown key `method_defaults.window_sise`; did you mean window_size"),
    ],
)
def test_a_default_for_what_a_paper_fixes_is_refused(experiment, line, words):
    with pytest.raises(SuiteError, match=words):
        experiment('"snapkv"', more=f"[method_defaults]\n{line}")


def test_an_experiment_may_hold_a_method_and_its_variants_each_once(experiment):
    spec = experiment('"arkvale"', "{name = 'arkvale', params = {page = 8}}")
    assert [cell.method.variant for cell in grid_cells(spec)] == ["normalized", "page=8"]
    with pytest.raises(SuiteError, match="each with the same parameters once"):
        experiment('"arkvale"', "{name = 'arkvale', params = {page = 32}}")
    with pytest.raises(SuiteError, match="each with the same parameters once"):  # one method under two names
        experiment("{name = 'snapkv', params = {kernel_size = 1}}", "{name = 'snapkv', preset = 'unpooled'}")


def test_a_run_says_what_differs_from_the_papers():
    assert variant_facts(get_method("duoattention", local=28)) == {
        "method": "duoattention",
        "preset": "local=28",
        "ours": False,
        "changed": [["local", 28, 256]],
    }
    assert variant_facts(get_method("tova", "pooled"))["ours"]
