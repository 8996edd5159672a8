"""Methods of one's own: loaded by path, used like any other, and told in one line what they lack."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from cokv.cache.prefill import prefill
from cokv.methods.conformance import CHECKS, check_scorer
from cokv.methods.registry import METHODS, get_method
from cokv.types import CokvError

OWN = "own_scorers:ValueNorm"


@pytest.fixture(autouse=True)
def _path(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def test_it_is_a_method_like_any_other(make_model, prompt):
    method = get_method(OWN, recent=2)
    assert method.parameters == {"recent": 2} and method.paper == "of one's own"
    prefilled = prefill(make_model("llama", "gqa"), prompt(31))
    selection = method.select(prefilled, 9)
    assert (selection.counts == 9).all()
    for layer, head in np.ndindex(selection.counts.shape):
        norms = prefilled.layers[layer].values[head].float().norm(dim=-1)
        expected = {29, 30} | set(norms[:29].topk(7).indices.tolist())
        assert set(selection.head(layer, head).tolist()) == expected


def test_other_code_is_another_method(tmp_path, monkeypatch):
    """The digest of the file is part of what a run is named by."""
    source = Path(__file__).with_name("own_scorers.py").read_text(encoding="utf-8")
    reason = []
    monkeypatch.chdir(tmp_path)
    for text in (source, source.replace("long values", "Long values")):
        (tmp_path / "mine.py").write_text(text, encoding="utf-8")
        sys.modules.pop("mine", None)
        reason.append(get_method("mine:ValueNorm").spec()["source"])
        sys.path.remove(str(tmp_path))
    assert reason[0] != reason[1] and all("mine.py, sha256 " in one for one in reason)
    assert "source" not in get_method("snapkv").spec()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("own_scorers:ValueNrom", "has no class ValueNrom; it has ValueNorm"),
        ("own_scorers:Thawed", "no frozen dataclass"),
        ("own_scorers:Needy", "size of Needy has no default"),
        ("own_scorers:Half", "no reserved and no check_budget and no scores"),
        ("no_such_module_here:Thing", "no module 'no_such_module_here'"),
        ("own_scorers:", "expected a name of the table, or package.module:Class"),
        ("own scorers:Thing", "expected a name of the table, or package.module:Class"),
    ],
)
def test_what_is_no_scorer_is_refused_with_the_reason(name, reason):
    with pytest.raises(CokvError, match=reason):
        get_method(name)


def test_a_wrong_parameter_or_preset_is_refused():
    with pytest.raises(CokvError, match="did you mean recent"):
        get_method(OWN, recents=3)
    with pytest.raises(CokvError, match="unknown preset"):
        get_method(OWN, "official")
    assert get_method("snapkv") is METHODS["snapkv"]


# Conformance


def test_a_scorer_that_keeps_the_contract_passes_every_check():
    failed = [check for check in check_scorer(get_method(OWN).scorer) if not check.passed]
    assert not failed


@pytest.mark.parametrize(
    ("name", "check", "reason"),
    [
        ("Double", "shape and dtype", "torch.float64"),
        ("PerQueryHead", "shape and dtype", r"shape \[4, 1\], expected \[2, 1\]"),
        ("Divides", "numbers", "all alike: .* are NaN"),
        ("KeepsMore", "tokens that must stay", r"expected reserved\(7\) = 4"),
        ("RefusesAll", "exact totals", "refuses every kv_budget"),
        ("AcceptsAll", "exact totals", r"check_budget\(1\) is silent, but 4 tokens"),
        ("Draws", "deterministic", "global generator"),
        ("InPlace", "leaves its input", "changes the values"),
        ("Quadratic", "memory is O(seq_len)", "squared"),
        ("FollowsDtype", "bfloat16", "torch.bfloat16"),
        ("Fraction", "declares what it needs", "whole number"),
    ],
)
def test_each_way_to_break_the_contract_is_found(name, check, reason):
    assert check in CHECKS
    (failures,) = check_scorer(get_method(f"own_scorers:{name}").scorer, only=[check])
    assert not failures.passed
    assert re.search(reason, failures.message), failures.message


@pytest.mark.parametrize("name", ["snapkv", "h2o", "expectedattention"])
def test_methods_of_the_table_keep_it_too(name):
    checks = [check for check in CHECKS if not check.startswith("memory") or name == "h2o"]
    failed = [check for check in check_scorer(get_method(name).scorer, checks) if not check.passed]
    assert not failed
