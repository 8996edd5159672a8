"""One prompt under several methods: what is shown is what was kept and answered."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cokv.methods.registry import METHODS
from cokv.model.loading import load_model
from cokv.types import HeadScores, Selection
from ruler.generate import generate
from suite.cli.compare_show import BLOCKS, shares, show, stored_as, strip
from suite.cli.main import app
from suite.errors import SuiteError
from suite.experiment import open_run
from suite.profiles.method_profiles import profiles_of
from suite.profiles.profile_folder import mean_over_tasks, of_run, shipped
from suite.run.compare import compare, methods_by_names, read_prompt
from suite.spec import read_experiment

runner = CliRunner()
PARAMS = ["window_size=8", "kernel_size=3"]


@pytest.fixture(scope="module")
def random(random_model):
    return load_model(str(random_model))


@pytest.fixture(scope="module")
def text(random) -> str:
    return next(generate("niah_single_1", random.tokenizer, 128, 1, 0, "mini")).prompt


def test_every_method_answers_or_says_why(random, text):
    comparison = compare(random, text, methods_by_names("all", PARAMS), 24, 4)
    assert [row.method.name for row in comparison.methods] == [name for name in METHODS if name != "full"]
    shape = (random.shape.num_layers, random.shape.num_kv_heads)
    assert comparison.full.selection == Selection.full(*shape, comparison.seq_len)
    for row in comparison.methods:
        if row.infeasible:
            assert row.selection is None and not comparison.same(row)
            assert not row.method.needs_profile or "needs" in row.infeasible
        else:
            each = comparison.seq_len if row.method.scorer is None else 24
            assert row.selection.total == each * shape[0] * shape[1]
            assert comparison.same(row) == (row.answer == comparison.full.answer) and row.generated_tokens > 0
    assert {row.method.name for row in comparison.methods if not row.infeasible} >= {"snapkv", "streamingllm", "knorm"}


def test_a_profile_is_given_to_the_methods_that_take_it(random, text, tmp_path):
    shape = (random.shape.num_layers, random.shape.num_kv_heads)
    scores = HeadScores(np.arange(shape[0] * shape[1], dtype=np.float64).reshape(shape))
    scores.save(tmp_path / "scores.safetensors")
    methods = methods_by_names("cokv,headkv_r", ["window_size=8", "kernel_size=3", "alpha=1"])
    for profile_file, feasible in ((f"{tmp_path}/scores.safetensors", 2), (f"cokv={tmp_path}/scores.safetensors", 1)):
        comparison = compare(random, text, methods, 24, 4, profiles_of(methods, random, [profile_file]))
        assert sum(not row.infeasible for row in comparison.methods) == feasible
        row = comparison.methods[0]
        assert not row.infeasible and row.selection.counts.argmax() == scores.values.argmax()
        assert row.profile == f"from {tmp_path}/scores.safetensors"
        assert feasible == 2 or "--profile FILE" in comparison.methods[1].infeasible


def test_a_variant_is_named_so(random, text, capsys):
    changed = methods_by_names("cake,streamingllm", ["kernel_size=7", "window_size=8"])
    show(compare(random, text, changed, 24, 2))
    printed = capsys.readouterr().out
    assert "cake (kernel_size=7)" in printed and "streamingllm (" not in printed


def test_the_whole_budget_is_the_full_cache(random, text):
    comparison = compare(random, text, methods_by_names("snapkv,knorm", PARAMS), 4096, 4)
    assert all(comparison.same(row) and strip(row.selection) == BLOCKS[-1] * 48 for row in comparison.methods)


def test_a_strip_shows_where_tokens_are_kept():
    mask = np.zeros((2, 2, 100), dtype=bool)
    mask[:, :, 50:] = True
    mask[0, 0, 3] = True
    comparison = Selection.from_mask(torch.from_numpy(mask))
    assert strip(comparison, 10) == "▁" + " " * 4 + "█" * 5
    assert shares(comparison, 10)[0].tolist() == [0.1, 0, 0, 0, 0, 1, 1, 1, 1, 1]
    assert shares(comparison, 1000).shape == (4, 100)


@pytest.mark.parametrize(
    ("names", "params", "message"),
    [
        ("snapvk", [], "did you mean snapkv"),
        ("snapkv,snapkv", [], "each once"),
        ("", [], "expected `all`"),
        ("snapkv", ["windowsize=8"], "known to none"),
        ("snapkv", ["window_size"], "name=value"),
    ],
)
def test_a_wrong_choice_is_refused(names, params, message):
    with pytest.raises(ValueError, match=message):
        methods_by_names(names, params)


def test_an_empty_or_missing_prompt_is_refused(tmp_path):
    with pytest.raises(SuiteError, match="check the path"):
        read_prompt(tmp_path / "none.txt")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(SuiteError, match="is empty"):
        read_prompt(tmp_path / "empty.txt")
    (tmp_path / "one.txt").write_text("one\n\n")
    assert read_prompt(tmp_path / "one.txt") == "one\n"


def test_the_command_shows_and_writes(random_model, text, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "methods"))
    prompt, out = tmp_path / "prompt.txt", tmp_path / "out"
    prompt.write_text(text)
    names = "snapkv,own_scorers:ValueNorm,cokv"
    arguments = ["compare", "--prompt-file", prompt, "--kv-budget", 24, "--methods", names, "--model", random_model]
    arguments += ["--max-new-tokens", 3, "--param", "window_size=8", "--out", out]
    result = runner.invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    assert "own_scorers:ValueNorm" in result.stdout and "--profile FILE" in result.stdout
    assert {path.name for path in out.iterdir()} == {
        "compare.json", "snapkv.safetensors", "own_scorers_ValueNorm.safetensors", "kept.png", "kept.svg",
    }  # fmt: skip
    message = json.loads((out / "compare.json").read_text())
    kept = Selection.load(out / "snapkv.safetensors")
    assert message["methods"][1]["counts"] == kept.counts.tolist() and message["methods"][3]["infeasible"]


def called(text: str, tmp_path: Path, *arguments: object):
    prompt = tmp_path / "prompt.txt"
    prompt.write_text(text)
    return runner.invoke(app, ["compare", "--prompt-file", str(prompt), *map(str, arguments)])


def refused(result) -> str:
    assert result.exit_code == 2, result.output
    message = result.stderr.strip().splitlines()[-1]
    assert message.startswith("cokv: ") and "Traceback" not in result.output
    return message


@pytest.mark.parametrize(
    ("names", "budget", "message"),
    [
        ("cokv", 24, "cokv: cokv: needs sliced Shapley values; give them with --profile FILE or --run RUN"),
        ("snapkv", 8, "window"),
        ("cokv,headkv_r", 24, "none of the 2 methods could run; cokv: needs"),
    ],
)
def test_where_nothing_that_was_asked_for_ran_it_fails(random_model, text, tmp_path, names, budget, message):
    arguments = ("--methods", names, "--kv-budget", budget, "--model", random_model, "--out", tmp_path / "out")
    assert message in refused(called(text, tmp_path, *arguments))
    assert not (tmp_path / "out").exists()


def test_the_full_cache_counts_where_it_is_named(random, text):
    comparison = compare(random, text, methods_by_names("full,cokv", PARAMS), 24, 2)
    assert comparison.why_none_ran("full,cokv") == ""
    for names in ("all", "cokv"):
        assert comparison.why_none_ran(names).startswith("cokv: needs")


@pytest.mark.parametrize("budget", ["0", "-5"])
def test_a_budget_of_nothing_is_refused(random_model, text, tmp_path, budget):
    result = called(text, tmp_path, "--kv-budget", budget, "--model", random_model)
    assert result.exit_code == 2 and f"kv_budget is {budget!r}, expected a positive whole number" in result.stderr


@pytest.mark.parametrize(
    ("names", "profile_file", "message"),
    [
        ("cokv", "nope=FILE", "nope is not compared; methods compared that need a profile: cokv$"),
        ("cokv,lukv", "headkv_r=FILE", "headkv_r is not compared; .* need a profile: cokv, lukv$"),
        ("snapkv,cokv", "snapkv=FILE", "snapkv needs none; .* need a profile: cokv$"),
        ("snapkv", "FILE", "no method needs one"),
    ],
)
def test_a_profile_that_no_method_takes_is_refused(random, tmp_path, names, profile_file, message):
    file = tmp_path / "a=b.safetensors"
    HeadScores(np.ones((2, 2))).save(file)
    with pytest.raises(SuiteError, match=message):
        profiles_of(methods_by_names(names, []), random, [profile_file.replace("FILE", str(file))])
    taken_profiles = profiles_of(methods_by_names("cokv", []), random, [str(file)])
    assert taken_profiles["cokv"].origin == f"from {file}", "a path may hold an equals sign"
    HeadScores(np.ones((2, 2)), {"kind": "HeadKV-R score"}).save(file)
    with pytest.raises(SuiteError, match=r"kind 'HeadKV-R score', .* takes: cokv .sliced Shapley values.$"):
        profiles_of(methods_by_names("cokv", []), random, [str(file)])
    with pytest.raises(SuiteError, match="two files"):
        profiles_of(methods_by_names("cokv", []), random, [f"cokv={file}", f"cokv={file}"])


@pytest.fixture
def run(experiment_file, tmp_path):
    """A run's folder with head scores of two tasks and one profile per model."""
    folder, loaded = open_run(read_experiment(experiment_file), tmp_path / "runs")
    folder.open()
    for place, task in enumerate(("niah_single_1", "vt")):
        scores = HeadScores(np.eye(2) * (place + 1), {"kind": "sliced Shapley value", "task": task})
        scores.save(folder.path / "head_scores" / f"{task}.safetensors")
    stated = {"kind": "HeadKV-R score, mean over needles", "model": loaded.identity()}
    HeadScores(np.arange(4.0).reshape(2, 2), stated).save(folder.path / "profiles" / "headkv_r.safetensors")
    (folder.path / "profiles" / "headkv_r2.json").write_text('{"unavailable": "no needle was found"}')
    return folder.path


def test_profiles_of_a_run_are_used(run, random, tmp_path):
    methods = methods_by_names("cokv,headkv_r,headkv_r2,lukv,kivi_by_score,snapkv", [])
    usable = profiles_of(methods, random, [], of_run(run, None, random))
    assert set(usable) == {"cokv", "headkv_r", "headkv_r2", "lukv", "kivi_by_score"}
    assert np.array_equal(usable["cokv"].profile.values, np.eye(2) * 1.5), "the mean over tasks"
    assert usable["cokv"].origin == f"of the run {run.name}, mean over 2 tasks"
    assert usable["kivi_by_score"] == usable["cokv"] and usable["headkv_r"].origin == f"of the run {run.name}"
    assert "no needle was found" in usable["headkv_r2"] and "none of the run" in usable["lukv"]
    of_task = profiles_of(methods, random, [], of_run(run, "vt", random))["cokv"]
    assert of_task.origin.endswith("task vt") and np.array_equal(of_task.profile.values, np.eye(2) * 2)
    own = tmp_path / "own.safetensors"
    HeadScores(np.ones((2, 2)), {"kind": "HeadKV-R score"}).save(own)
    mixed = profiles_of(methods, random, [str(own)], of_run(run, None, random))
    assert mixed["headkv_r"].origin == f"from {own}" and mixed["cokv"].origin.startswith("of the run")


def test_a_run_of_another_model_or_task_is_refused(run, random, tmp_path):
    with pytest.raises(SuiteError, match="niah_single_1, vt"):
        of_run(run, "cwe", random)
    with pytest.raises(SuiteError, match="no run folder"):
        of_run(tmp_path, None, random)
    with pytest.raises(SuiteError, match="a run of the same model"):
        of_run(run, None, replace(random, digest="0" * 16))


def test_the_command_takes_a_run(run, random_model, text, tmp_path):
    arguments = ("--methods", "cokv", "--kv-budget", 24, "--model", random_model, "--max-new-tokens", 2)
    arguments += ("--param", "window_size=8", "--param", "alpha=1")
    result = called(text, tmp_path, *arguments, "--run", run, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert f"profile of the run {run.name}, mean over 2 tasks: cokv" in result.stdout
    assert json.loads((tmp_path / "out" / "compare.json").read_text())["methods"][1]["profile"].endswith("2 tasks")
    assert "--run" in refused(called(text, tmp_path, *arguments, "--task", "vt"))


def test_the_embedded_model_ships_its_profiles():
    """Of today's weights: after another training they are made again by suite/profiles/shipped.py."""
    loaded = load_model()
    methods = [method for method in methods_by_names("all", []) if method.needs_profile]
    usable = profiles_of(methods, loaded, [], shipped(loaded))
    assert {name for name, profile_file in usable.items() if isinstance(profile_file, str)} == set()
    for method in methods:
        profile = usable[method.name].profile
        assert profile.provenance["kind"].startswith(method.profile_kinds)
        assert profile.provenance["model"]["digest"] == loaded.digest
        profile.require_shape(loaded.shape.num_layers, loaded.shape.num_kv_heads)
    assert "mean over" in usable["cokv"].origin and usable["lukv"].origin.endswith("made for window_size=8")
    other = replace(loaded, digest="0" * 16)
    assert all("another model" in message for message in profiles_of(methods, other, [], shipped(other)).values())
    assert shipped(replace(loaded, name="./elsewhere")).folder == shipped(loaded).folder, "known by its digest"
    assert shipped(replace(other, name="./elsewhere")) is None


def test_the_mean_counts_every_task_the_same():
    stated = {"model": {"digest": "d"}}
    mean = mean_over_tasks(
        {"a": HeadScores(np.full((1, 2), 1.0), stated), "b": HeadScores(np.full((1, 2), 3.0), stated)}
    )
    assert mean.values.tolist() == [[2.0, 2.0]] and mean.provenance["tasks"] == ["a", "b"]
    assert mean.provenance["kind"] == "sliced Shapley value, mean over tasks"


def test_mistakes_are_named_before_the_model_answers(random_model, text, tmp_path):
    known = ("--kv-budget", 24, "--model", random_model, "--methods", "snapkv")
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert "file is a file; name a folder" in refused(called(text, tmp_path, *known, "--out", out))
    assert (tmp_path / "file").read_text() == "mine"
    message = refused(called(text * 9, tmp_path, *known))
    assert "with 24 of an answer" in message and "1024 positions; shorten the prompt" in message
    with pytest.raises(SuiteError, match="is a folder"):
        read_prompt(tmp_path)
    (tmp_path / "bytes").write_bytes("déjà vu".encode("cp1252"))
    with pytest.raises(SuiteError, match="save it as UTF-8"):
        read_prompt(tmp_path / "bytes")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("kivi2", "in 2 bits"), ("kivi_by_score", "in 3 bits on average, more where heads score best"),
        ("think", "keys without 40% of their channels"), ("arkvale", "in pages of 32 in CPU memory"), ("snapkv", ""),
    ],
)  # fmt: skip
def test_what_is_stored_otherwise_says_how(name, message):
    (method,) = methods_by_names(name, [])
    assert stored_as(method).startswith(message) and bool(stored_as(method)) == bool(message)


def test_check_method_ends_with_1_where_a_check_fails(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "methods"))
    result = runner.invoke(app, ["check-method", "own_scorers:Double"])
    assert result.exit_code == 1 and "FAIL" in result.stdout and "torch.float64" in result.stdout
    result = runner.invoke(app, ["check-method", "own_scorers:Missing"])
    assert result.exit_code == 2 and result.stderr.startswith("cokv: method ")


@pytest.fixture(scope="module")
def chat_model(random_model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("chat") / "model"
    shutil.copytree(random_model, folder)
    template = "<bos>{% for m in messages %}the {{ m.content }} is<eos>{% endfor %}"
    template += "{% if add_generation_prompt %}the{% endif %}"
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder


def test_chat_reads_the_prompt_as_the_users_turn(chat_model, random_model, tmp_path):
    file = tmp_path / "prompt.txt"
    file.write_text("road is long. " * 20)
    line = ["compare", "--prompt-file", str(file), "--kv-budget", "16", "--methods", "knorm", "--max-new-tokens", "4"]
    result = runner.invoke(app, [*line, "--model", str(chat_model), "--chat", "--out", str(tmp_path / "out")])
    assert result.exit_code == 0 and "in the chat template" in result.stdout and "--chat uses it" not in result.stdout
    stored = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert stored["chat"] is True
    tokenizer = load_model(str(chat_model)).tokenizer
    turn = [{"role": "user", "content": read_prompt(file)}]
    ids = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=False)
    assert stored["prompt_tokens"] == len(ids) and ids.count(tokenizer.bos_token_id) == 1
    assert not any("<" in str(row.get("answer", "")) for row in stored["methods"]), "no special token is shown"
    result = runner.invoke(app, [*line, "--model", str(chat_model), "--out", str(tmp_path / "bare")])
    assert result.exit_code == 0 and "--chat uses it" in result.stdout
    assert json.loads((tmp_path / "bare" / "compare.json").read_text())["chat"] is False
    result = runner.invoke(app, [*line, "--model", str(random_model), "--chat"])
    assert result.exit_code == 2 and "no chat template" in result.stderr and len(result.stderr.splitlines()) == 1
    assert "--chat" not in runner.invoke(app, [*line, "--model", str(random_model)]).stdout
