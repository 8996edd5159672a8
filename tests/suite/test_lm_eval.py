"""The real lm-eval, the embedded model, and a local task of each kind, written into a temporary folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cokv.model.loading import load_model
from cokv.types import CokvError, HeadScores
from ruler.generate import generate

pytest.importorskip("lm_eval", reason="lm-eval is not installed; tox -e lm-eval runs these")

from lm_eval import simple_evaluate  # only where it is installed
from lm_eval.tasks import TaskManager
from typer.testing import CliRunner

from suite.cli.main import app
from suite.integrations.lm_eval_model import CompressedLM

ROOT = Path(__file__).parents[2]
DOCS = 3
TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{prompt}}}}"
{rest}
"""
KINDS = {
    "generate_until": """
doc_to_target: " {{answer}}"
generation_kwargs: {until: ["\\n", "."], max_gen_toks: 12, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true}
""",
    "multiple_choice": """
doc_to_choice: "{{choices}}"
doc_to_target: "{{label}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
""",
    "loglikelihood_rolling": """
doc_to_target: ""
metric_list:
  - {metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}
""",
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Path:
    """Needles in noise: the answer generated, or chosen among those of the other documents."""
    folder = tmp_path_factory.mktemp("tasks")
    loaded = load_model("embedded")
    samples = list(generate("niah_single_1", loaded.tokenizer, 192, DOCS, 0, "mini"))
    answers = [" " + sample.outputs[0] for sample in samples]
    with (folder / "data.jsonl").open("w", encoding="utf-8") as file:
        for index, sample in enumerate(samples):
            line = {"prompt": sample.prompt, "answer": answers[index].strip(), "choices": answers, "label": index}
            file.write(json.dumps(line) + "\n")
    for kind, rest in KINDS.items():
        text = TASK.format(name=f"tiny_{kind}", data=folder / "data.jsonl", kind=kind, rest=rest)
        if kind == "loglikelihood_rolling":
            text = text.replace('doc_to_text: "{{prompt}}"', 'doc_to_text: ""').replace(
                'doc_to_target: ""', 'doc_to_target: "{{prompt}}"'
            )
        (folder / f"tiny_{kind}.yaml").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def evaluated(tasks):
    """Per document, what the model answered: lm-eval's own filtered responses."""

    def run(kind: str, model: object, **kwargs) -> list:
        result = simple_evaluate(
            model=model,
            tasks=[f"tiny_{kind}"],
            task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
            log_samples=True,
            bootstrap_iters=0,
            **kwargs,
        )
        run.results = result
        return [sample["filtered_resps"] for sample in result["samples"][f"tiny_{kind}"]]

    return run


@pytest.fixture(scope="module")
def hf():
    """lm-eval's own transformers model, on the same weights."""
    loaded = load_model("embedded")
    huggingface = pytest.importorskip("lm_eval.models.huggingface", reason="lm-eval's hf model needs accelerate, peft")
    return huggingface.HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, backend="causal", batch_size=1)


def cokv_lm(**arguments) -> CompressedLM:
    return CompressedLM(pretrained="embedded", device="cpu", **arguments)


def numbers(responses: list) -> list[float]:
    return [value for choices in responses for value, _ in choices]


def greedy(responses: list) -> list[bool]:
    return [bool(whether) for choices in responses for _, whether in choices]


def test_the_full_cache_generates_what_lm_evals_own_model_does(evaluated, hf):
    theirs = evaluated("generate_until", hf)
    assert evaluated("generate_until", cokv_lm(method="full")) == theirs
    assert len({str(text) for text in theirs}) > 1, "every answer is the same, so this compares nothing"


@pytest.mark.parametrize("first_token", ["prefill", "compressed"])
def test_the_full_cache_scores_choices_as_lm_evals_own_model_does(evaluated, hf, first_token):
    theirs = evaluated("multiple_choice", hf)
    ours = evaluated("multiple_choice", cokv_lm(method="full", first_token=first_token))
    assert numbers(ours) == pytest.approx(numbers(theirs), abs=1e-3)
    assert greedy(ours) == greedy(theirs)


@pytest.mark.parametrize("kind", ["generate_until", "multiple_choice"])
def test_the_full_budget_is_the_full_cache_bit_for_bit(evaluated, kind):
    assert evaluated(kind, cokv_lm(method="snapkv", kv_budget=4096)) == evaluated(kind, cokv_lm(method="full"))


def test_a_policy_that_evicts_nothing_scores_as_the_full_cache(evaluated):
    """It reads token by token, so the last digits may differ."""
    full = evaluated("multiple_choice", cokv_lm(method="full"))
    ours = evaluated("multiple_choice", cokv_lm(method="streamingllm", kv_budget=4096))
    assert numbers(ours) == pytest.approx(numbers(full), abs=1e-3)


def test_rolling_equals_lm_evals_own_model_and_is_refused_of_a_method(evaluated, hf):
    evaluated("loglikelihood_rolling", hf)
    theirs = evaluated.results["results"]["tiny_loglikelihood_rolling"]["word_perplexity,none"]
    evaluated("loglikelihood_rolling", cokv_lm(method="full"))
    ours = evaluated.results["results"]["tiny_loglikelihood_rolling"]["word_perplexity,none"]
    assert ours == pytest.approx(theirs, rel=1e-4)
    with pytest.raises(CokvError, match="no context that snapkv could compress"):
        evaluated("loglikelihood_rolling", cokv_lm(method="snapkv", kv_budget=64))


def test_a_budget_loses_the_needle_and_says_what_was_kept(evaluated):
    full = evaluated("multiple_choice", cokv_lm(method="full"))
    starved = evaluated("multiple_choice", cokv_lm(method="streamingllm", kv_budget=16))
    record = evaluated.results["config"]["cokv"]
    assert numbers(starved) != numbers(full)
    assert record["method"] == "streamingllm" and record["kv_budget"] == 16
    assert 0 < record["kept_bytes"] < record["full_bytes"] / 8
    assert record["contexts"] == DOCS, "choices of one document share a prefill"


def test_a_choices_first_token_sees_the_compression_only_when_asked(tasks):
    """One token after the context: from the prefill it is the full cache's, from the compressed cache it is not."""
    line = json.loads((tasks / "data.jsonl").read_text().splitlines()[0])
    full = cokv_lm(method="full", first_token="prefill")
    context = full.tok_encode(line["prompt"])
    token = full.tok_encode(line["answer"], add_special_tokens=False)[:1]
    values = {
        first: cokv_lm(method="streamingllm", kv_budget=16, first_token=first)._score(context, token)[0]
        for first in ("prefill", "compressed")
    }
    assert values["prefill"] == full._score(context, token)[0]
    assert abs(values["compressed"] - values["prefill"]) > 0.01


def test_an_answer_stops_at_its_stop_text(tasks):
    line = json.loads((tasks / "data.jsonl").read_text().splitlines()[0])
    lm = cokv_lm(method="snapkv", kv_budget=64, window_size=8)

    class Request:
        args = (line["prompt"], {"until": [], "max_gen_toks": 8})

    (whole,) = lm.generate_until([Request()], disable_tqdm=True)
    letter = whole[len(whole) // 2]
    Request.args = (line["prompt"], {"until": [letter], "max_gen_toks": 8})
    assert lm.generate_until([Request()], disable_tqdm=True) == [whole.split(letter)[0]]


def test_a_method_takes_its_profile_from_a_file(tasks, tmp_path):
    line = json.loads((tasks / "data.jsonl").read_text().splitlines()[0])
    model_args = {"method": "cokv", "kv_budget": 64, "window_size": 8}
    with pytest.raises(CokvError, match="needs sliced Shapley values"):
        cokv_lm(**model_args)._compressed([5] * 100)
    shape = cokv_lm().loaded.shape
    scores = HeadScores(np.arange(shape.num_layers * shape.num_kv_heads, dtype=float).reshape(shape.num_layers, -1))
    scores.save(tmp_path / "scores.safetensors")
    lm = cokv_lm(**model_args, profile=str(tmp_path / "scores.safetensors"))
    _, row = lm._compressed(lm.tok_encode(line["prompt"]))
    assert row.selection.counts.argmax() == scores.values.argmax() and lm.get_model_info()["cokv"]["profile"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "snapvk", "kv_budget": 64}, "did you mean snapkv"),
        ({"method": "snapkv"}, "without kv_budget"),
        ({"method": "snapkv", "kv_budget": 64, "windowsize": 8}, "unknown parameter"),
        ({"first_token": "last"}, "prefill, compressed"),
        ({"batch_size": 8}, "batch_size is 8"),
        ({"method": "headkv_r", "kv_budget": 64, "profile": "embedded/headkv_r"}, "headkv_r: no valid profile"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(CokvError, match=message):
        cokv_lm(**arguments)


def test_a_response_cache_of_another_method_is_refused(evaluated, tmp_path):
    cache = str(tmp_path / "responses")
    first = evaluated("generate_until", cokv_lm(method="full"), use_cache=cache)
    assert evaluated("generate_until", cokv_lm(method="full"), use_cache=cache) == first
    with pytest.raises(CokvError, match="give each its own --use_cache"):
        evaluated("generate_until", cokv_lm(method="streamingllm", kv_budget=16), use_cache=cache)


def test_the_command_line_runs_lm_evals_own(tasks):
    arguments = [
        "--model", "cokv", "--model_args", "pretrained=embedded,method=snapkv,kv_budget=64,window_size=8",
        "--include_path", str(tasks), "--tasks", "tiny_generate_until", "--limit", "2",
    ]  # fmt: skip
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "suite.cli.main", "lm-eval", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "exact_match" in done.stdout


def test_a_users_mistake_is_one_line_and_exit_code_2(monkeypatch):
    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", lambda: cokv_lm(method="snapvk", kv_budget=64))
    result = CliRunner().invoke(app, ["lm-eval", "--model", "cokv"])
    assert result.exit_code == 2 and result.stderr.startswith("cokv: unknown method 'snapvk'"), result.output


def test_the_chat_template_hears_of_thinking_only_where_it_is_said():
    turns = [{"role": "user", "content": "x"}]
    for given, written in ((False, "False"), (True, "True"), (None, "")):
        lm = cokv_lm(method="full", enable_thinking=given)
        lm.tokenizer.chat_template = "[{{ enable_thinking }}] {{ messages[0].content }}"
        assert lm.apply_chat_template(turns) == f"[{written}] x"
