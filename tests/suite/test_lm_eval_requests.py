"""What lm-eval tasks ask of a generation: read alike under every name, and nothing dropped in silence."""

from importlib.util import find_spec

import pytest
from typer.testing import CliRunner

from cokv.types import CokvError
from suite.cli.main import app
from suite.integrations.lm_eval_requests import cut, generation_options


@pytest.mark.parametrize("name", ["max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens"])
def test_a_length_has_many_names(name):
    assert generation_options({name: 7}, 256).max_new_tokens == 7
    assert generation_options({"max_gen_toks": 5, name: 7 if name != "max_gen_toks" else 5}, 256).max_new_tokens == 5


def test_the_default_length_and_one_stop_text_or_many():
    assert generation_options({}, 256).max_new_tokens == 256 and generation_options({}, 256).until == ()
    assert generation_options({"until": "\n"}, 1).until == ("\n",)
    assert generation_options({"until": ["a", "b"], "top_p": 0.9, "do_sample": False, "temperature": 0.7}, 1).until == (
        "a",
        "b",
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"do_sample": True}, "greedily"),
        ({"temperature": 0.8}, "greedily"),
        ({"num_beams": 4}, "num_beams=4"),
        ({"max_gen_toks": 0}, "at least 1"),
        ({"until": [3]}, "expected texts"),
    ],
)
def test_what_greedy_decoding_cannot_honour_is_refused(options, message):
    with pytest.raises(CokvError, match=message):
        generation_options(options, 16)


def test_a_text_ends_before_the_first_of_any_stop_text():
    assert cut("one. two\nthree", ["\n", "."]) == "one"
    assert cut("one two", ["", "\n"]) == "one two"
    assert cut(".one", ["."]) == ""


@pytest.mark.skipif(find_spec("lm_eval") is not None, reason="lm-eval is installed")
def test_without_the_package_the_fix_is_named():
    result = CliRunner().invoke(app, ["lm-eval", "--model", "cokv", "--tasks", "any"])
    assert result.exit_code == 2 and "pip install cokv[lm-eval]" in result.stderr
