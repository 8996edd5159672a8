"""kvpress's presses on our cache: their scores, our budgets. Run where kvpress is installed: tox -e kvpress."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest

from cokv.cache.prefill import prefill
from cokv.decode.batches import Row
from cokv.decode.decode import Stop, decode
from cokv.methods.conformance import check_scorer
from cokv.methods.registry import get_method
from cokv.types import CokvError

try:
    import kvpress  # noqa: F401
except ImportError:
    INSTALLED = False
else:
    INSTALLED = True

peer = pytest.mark.peer
needs_kvpress = pytest.mark.skipif(not INSTALLED, reason="kvpress is not installed; tox -e kvpress runs these")
ROOT = Path(__file__).parents[2]
SEQ_LEN = 120
ALIKE = {
    "kvpress:KnormPress": ("knorm", "normalized", {}),
    "kvpress:KeyDiffPress": ("keydiff", "normalized", {}),
    "kvpress:TOVAPress": ("tova", "kvpress", {}),
    "kvpress:ExpectedAttentionPress": ("expectedattention", "normalized", {}),
    "kvpress:SnapKVPress": ("snapkv", "normalized", {"window_size": 8, "kernel_size": 5, "pooling": "avg"}),
    "kvpress:StreamingLLMPress": ("streamingllm", "normalized", {}),
}


def select(model, ids, method, budget):
    prefilled = prefill(model, ids, max(method.window_size, 1), method.observers)
    return prefilled, method.select(prefilled, budget)


@pytest.mark.skipif(INSTALLED, reason="kvpress is installed")
def test_without_the_package_the_fix_is_named():
    with pytest.raises(CokvError, match=r"pip install cokv\[kvpress\]"):
        get_method("kvpress:KnormPress")


@peer
@needs_kvpress
@pytest.mark.parametrize("budget", [17, 90])
@pytest.mark.parametrize("heads", ["mha", "gqa"])
@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("name", ALIKE)
def test_a_press_keeps_what_our_own_method_keeps(make_model, prompt, name, family, heads, budget):
    model, ids = make_model(family, heads), prompt(SEQ_LEN)
    own, preset, params = ALIKE[name]
    press = get_method(name, **({"window_size": 8} if own == "snapkv" else {}))
    _, theirs = select(model, ids, press, budget)
    _, ours = select(model, ids, get_method(own, preset, **params), budget)
    assert (theirs.counts == budget).all()
    assert theirs == ours, f"{int((theirs.mask() != ours.mask()).sum())} (head, token) pairs differ"


@peer
@needs_kvpress
@pytest.mark.parametrize("name", ["kvpress:LeverageScorePress", "kvpress:LagKVPress", "kvpress:NonCausalAttnPress"])
def test_presses_that_have_no_counterpart_here_run_and_decode(make_model, prompt, name):
    model, ids = make_model("llama", "gqa"), prompt(SEQ_LEN)
    prefilled, selection = select(model, ids, get_method(name), 40)
    assert (selection.counts == 40).all()
    (answer,) = decode(model, prefilled, [Row(selection)], Stop(4))
    assert answer.kept_tokens == selection.total


@peer
@needs_kvpress
def test_the_model_and_transformers_are_left_as_they_were(make_model, prompt):
    """No hook, no borrowed module, and none of kvpress's attention wrappers stay."""
    model, ids = make_model("llama", "gqa"), prompt(40)

    def attached():
        return {
            name: (dict(m._modules), dict(m._forward_hooks), dict(m._forward_pre_hooks))
            for name, m in model.named_modules()
        }

    before = attached()
    select(model, ids, get_method("kvpress:ExpectedAttentionPress"), 12)
    assert attached() == before
    code = """
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS as table
before = dict(table.items())
from cokv.methods.registry import get_method
get_method("kvpress:KnormPress")
assert dict(table.items()) == before
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@peer
@needs_kvpress
def test_hooks_are_gone_after_a_failure_too(fresh_model, prompt):
    model = fresh_model("llama", "gqa")
    broken = copy.deepcopy(model)
    broken.model.layers[1].mlp.forward = lambda *args: 1 / 0
    before = [(dict(m._forward_hooks), dict(m._forward_pre_hooks)) for m in broken.modules()]
    with pytest.raises(ZeroDivisionError):
        select(broken, prompt(40), get_method("kvpress:KnormPress"), 12)
    assert [(dict(m._forward_hooks), dict(m._forward_pre_hooks)) for m in broken.modules()] == before


@peer
@needs_kvpress
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("kvpress:KnromPress", "is not in it; score-based presses"),
        ("kvpress:ThinKPress", "no scores of its own"),
        ("kvpress:AdaKVPress", "no scores of its own|made of other presses"),
        ("kvpress:QFilterPress", "loads something"),
    ],
)
def test_what_is_no_score_based_press_is_refused(name, message):
    with pytest.raises(CokvError, match=message):
        get_method(name)


@peer
@needs_kvpress
def test_a_press_that_cannot_score_a_prompt_says_so(make_model, prompt):
    model, ids = make_model("llama", "gqa"), prompt(40)
    with pytest.raises(CokvError, match="SnapKVPress cannot score this prompt: AssertionError"):
        select(model, ids, get_method("kvpress:SnapKVPress", window_size=64), 12)


@peer
@needs_kvpress
def test_a_press_keeps_the_contract_of_scorers():
    assert not [check for check in check_scorer(get_method("kvpress:KnormPress").scorer) if not check.passed]


@peer
@needs_kvpress
def test_settings_and_the_version_are_in_the_record():
    method = get_method("kvpress:SnapKVPress", window_size=8)
    assert method.parameters["window_size"] == 8 and "compression_ratio" not in method.parameters
    assert method.spec()["source"].startswith("kvpress 0.")
