"""Experiment files: what is right is read, what is wrong is named with its file, its key and what was expected."""

from pathlib import Path

import pytest
from small_experiment import GOOD

from suite.errors import SuiteError
from suite.spec import read_experiment


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
    ("old", "new", "message"),
    [
        ('"snapkv"', '"snapkw"', "snapkv"),
        ('"niah_single_1"', '"niah_singel_1"', "niah_single_1"),
        ("kv_budgets = [32]", "kv_budgets = [0]", "kv_budgets.0"),
        ("kv_budgets = [32]", "kv_budgets = [32, 32]", "each once"),
        ("kv_budgets = [32]", "kv_budget = [32]", "unknown key `kv_budget`; did you mean kv_budgets"),
        ("length = 256", "lenght = 256", "unknown key `ruler.lenght`; did you mean length"),
        ("length = 256", "", "key `ruler.length` is missing"),
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
def test_a_mistake_is_named(tmp_path, old, new, message):
    path = written(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(SuiteError) as caught:
        read_experiment(path)
    assert message in str(caught.value) and str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SuiteError, match=r"nothing\.toml"):
        read_experiment(tmp_path / "nothing.toml")


METHODS = 'methods = ["full", "snapkv"]'
GAME = "\n[game]\nslice_sizes = [2]\ncoalitions_per_size = 3\n"
MEASURE = "\n[measure]\nkv_budget = 16\nprompt_tokens = 64\n"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "tiny"', "name = 2026-01-01", "date"),
        (METHODS, 'methods = [{name = ["snapkv"]}]', "methods.0.name"),
        (METHODS, 'methods = [{name = "snapkv", preset = ["official"]}]', "methods.0.preset"),
        (METHODS, 'methods = [{name = "snapkv", params = 3}]', "methods.0.params"),
        (METHODS, 'methods = [{name = "snapkv", params = {name = "x"}}]', "beside `params`"),
        (METHODS, 'methods = [{name = "snapkv", params = {preset = "official"}}]', "beside `params`"),
        ("kv_budgets = [32]", "kv_budgets = [99999999999999999999]", "kv_budgets.0"),
        ("window_size = 8", "window_sise = 8", "did you mean window_size"),
        ("[ruler]", GAME + "seed = -1\n[ruler]", "game.seed"),
        ("[ruler]", GAME + "window_size = 256\n[ruler]", "smaller window_size"),
        ("[ruler]", GAME.replace("[2]", "[2, 2]") + "[ruler]", "each once"),
        ("[ruler]", MEASURE.replace("16", "64") + "[ruler]", "below prompt_tokens"),
    ],
)
def test_nothing_is_dropped_in_silence(tmp_path, old, new, message):
    with pytest.raises(SuiteError) as caught:
        read_experiment(written(tmp_path, GOOD.replace(old, new, 1)))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_defaults_that_are_no_table_are_refused(tmp_path):
    text = "method_defaults = 8\n" + GOOD.replace("[method_defaults]\nwindow_size = 8", "")
    with pytest.raises(SuiteError, match="expected a table"):
        read_experiment(written(tmp_path, text))


def test_defaults_leave_an_official_preset_as_released(tmp_path):
    text = GOOD.replace(METHODS, 'methods = [{name = "adakv", preset = "official"}, "adakv"]')
    official, normalized = read_experiment(written(tmp_path, text)).methods
    assert official.params == {} and normalized.params == {"window_size": 8}


def test_a_limit_does_not_hide_a_wrong_type(tmp_path):
    with pytest.raises(SuiteError, match=r"ruler\.samples"):
        read_experiment(written(tmp_path, GOOD.replace("samples = 3", 'samples = "3"')), limit=1)
