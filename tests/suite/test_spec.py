"""Experiment files: what is right is read, what is wrong is named with its file, its key and what was expected."""

from pathlib import Path

import pytest

from suite.errors import SuiteError
from suite.spec import read_experiment

GOOD = """
name = "tiny"
methods = ["full", "snapkv"]
kv_budgets = [32]

[method_defaults]
window_size = 8

[ruler]
preset = "mini"
length = 256
samples = 3
tasks = ["niah_single_1"]
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "experiment.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_shipped_experiments_are_valid():
    for path in sorted(Path(__file__).parents[2].glob("experiments/*.toml")):
        assert read_experiment(path).name == path.stem


def test_defaults_reach_only_methods_that_have_the_parameter(tmp_path):
    full, snapkv = read_experiment(written(tmp_path, GOOD)).methods
    assert full.params == {} and snapkv.params == {"window_size": 8}


def test_limit_bounds_the_samples(tmp_path):
    assert read_experiment(written(tmp_path, GOOD), limit=2).ruler.samples == 2
    assert read_experiment(written(tmp_path, GOOD), limit=9).ruler.samples == 3


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"snapkv"', '"snapkw"', "snapkv"),
        ('"niah_single_1"', '"niah_singel_1"', "niah_single_1"),
        ("kv_budgets = [32]", "kv_budgets = [0]", "kv_budgets.0"),
        ("kv_budgets = [32]", "kv_budgets = [32, 32]", "each once"),
        ("kv_budgets = [32]", "kv_budget = [32]", "kv_budgets"),
        ("length = 256", "lenght = 256", "length"),
        ("length = 256", 'length = "256"', "ruler.length"),
        ("samples = 3", "samples = 3.5", "ruler.samples"),
        ('preset = "mini"', 'preset = "maxi"', "mini"),
        ('name = "tiny"', 'name = "Tiny run"', "name"),
        ('methods = ["full", "snapkv"]', "methods = []", "at least one"),
        ('methods = ["full", "snapkv"]', 'methods = ["full", "cokv"]', "[game]"),
        ('methods = ["full", "snapkv"]', 'methods = [{name = "snapkv", params = {windows = 3}}]', "window_size"),
        ('name = "tiny"', 'name = "tiny', "TOML"),
    ],
)
def test_a_mistake_is_named(tmp_path, old, new, said):
    path = written(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(SuiteError) as caught:
        read_experiment(path)
    assert said in str(caught.value) and str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SuiteError, match=r"nothing\.toml"):
        read_experiment(tmp_path / "nothing.toml")
