"""LongBench through the suite: data, template, truncation, run, official numbers, score, rescore.

On the official sample files, and on records of our own in the official schema.
"""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from longbench import presets
from suite.cli.main import app

DATA = os.environ.get("COKV_TEST_DATA")
official_files = pytest.mark.skipif(DATA is None, reason="COKV_TEST_DATA is not set: no official files here")

EXPERIMENT = """
name = "longbench"
methods = ["full", "snapkv"]
kv_budgets = [32]

[model]
name = "{model}"

[method_defaults]
window_size = 8

[longbench]
{data}
templates = "{templates}"
tasks = {tasks}
samples = {samples}
partial = true
protocol = "{protocol}"
"""
OFFICIAL = ["multi_news", "passage_retrieval_zh"]
MARKS = "$DOC$ $Q$ $C_A$ $C_B$ $C_C$ $C_D$"


@pytest.fixture
def experiment(tmp_path, random_model, monkeypatch):
    """Writes an experiment file. Text falls apart into many tokens here: the protocol's length is cut to what the
    random model holds."""

    def write(protocol: str = "cokv", model: Any = random_model, tasks: list[str] = OFFICIAL, **more: Any) -> Path:
        short = dataclasses.replace(presets.PRESETS[protocol], max_length=120, max_lengths=())
        monkeypatch.setitem(presets.PRESETS, protocol, short)
        data = more.get("data", f"{DATA}/longbench")
        text = EXPERIMENT.format(
            model=model,
            data=f'data = "{data}"' if data else "",
            templates=more.get("templates", f"{DATA}/longbench_config"),
            tasks=json.dumps(tasks),
            samples=more.get("samples", 1),
            protocol=protocol,
        )
        text += more.get("fields", "")
        path = tmp_path / "longbench.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="module")
def chat_model(random_model, tmp_path_factory) -> Path:
    """The random model with a chat template, which some protocols need."""
    folder = tmp_path_factory.mktemp("chat") / "model"
    shutil.copytree(random_model, folder)
    template = "{% for m in messages %}the {{ m.content }} is{% endfor %}"
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder


@pytest.fixture
def local(tmp_path) -> Path:
    """A folder of our own records, and templates of our own wording, in the official schemas."""
    folder = tmp_path / "local"
    folder.mkdir()
    lengths = [10, 20, 4000, 30, 40, 50, 60, 7999]  # LongBench-E: no sample of 8000 words or more
    e = [
        {
            "input": f"Which lantern is number {i}?",
            "context": "The lantern is green. " * 9,
            "answers": ["green"],
            "length": length,
            "dataset": "qasper_e",
            "language": "en",
            "all_classes": None,
            "_id": f"e-{i}",
        }
        for i, length in enumerate(lengths)
    ]
    choices = {f"choice_{letter}": f"lantern {letter}" for letter in "ABCD"}
    v2 = [
        {"_id": f"v2-{i}", "domain": "d", "sub_domain": "s", "difficulty": "hard", "length": size, "answer": "B"}
        | {"question": "Which lantern?", "context": "A shelf of lanterns. " * 9}
        | choices
        for i, size in enumerate(["short", "medium"] * 4)
    ]
    (folder / "qasper_e.jsonl").write_text("".join(json.dumps(row) + "\n" for row in e), encoding="utf-8")
    (folder / "data.json").write_text(json.dumps(v2), encoding="utf-8")
    (folder / "dataset2prompt.json").write_text(json.dumps({"qasper": "{context} {input}"}), encoding="utf-8")
    (folder / "dataset2maxlen.json").write_text(json.dumps({"qasper": 4}), encoding="utf-8")
    (folder / "0shot.txt").write_text(MARKS, encoding="utf-8")
    return folder


def call(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def run(path: Path, runs: Path) -> Path:
    result = call("reproduce", "--experiment", path, "--runs", runs)
    assert result.exit_code == 0, result.output
    (folder,) = runs.glob("*-*")
    return folder


def records_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]


@official_files
@pytest.mark.parametrize("protocol", ["cokv", "kvpress", "duoattention"])
def test_official_samples_run_and_are_judged_again_alike(experiment, chat_model, tmp_path, protocol):
    folder = run(experiment(protocol, chat_model), tmp_path / "runs")
    records = records_of(folder)
    assert {r["task"] for r in records} == {"multi_news", "passage_retrieval_zh"} and len(records) == 4
    assert {r["first_token"] for r in records} == {"prefill" if protocol == "cokv" else "compressed"}
    spec = json.loads((folder / "spec.json").read_text())
    assert len(spec["data"]["longbench"]["data"]["multi_news"]["sha256"]) == 64
    again = call("score", folder)
    assert again.exit_code == 0 and "4 predictions judged again, 4 scores the same" in again.stdout


@official_files
def test_a_tokenizer_without_a_chat_template_is_said_not_passed_over(experiment, tmp_path):
    result = call("reproduce", "--experiment", experiment("kvpress"), "--runs", tmp_path / "runs")
    assert result.exit_code == 2 and "chat template" in result.stderr


def test_longbench_e_runs_with_its_buckets_beside_version_2(experiment, local, tmp_path):
    path = experiment(tasks=["qasper_e", "longbench_v2"], data=local, templates=local, samples=7)
    folder = run(path, tmp_path / "runs")
    spec = json.loads((folder / "spec.json").read_text())["data"]["longbench"]
    assert set(spec["templates"]["sha256"]) == {"dataset2prompt.json", "dataset2maxlen.json", "0shot.txt"}
    records = [r for r in records_of(folder) if r["task"] == "qasper_e"]
    assert {r["groups"]["length"] for r in records} == {"0-4k", "4-8k"} and len(records) == 14
    numbers = json.loads((folder / "longbench.json").read_text())
    assert [row["task"] for row in numbers["rows"]] == ["longbench_v2"] * 2 + ["qasper_e"] * 2
    for row in numbers["rows"][2:]:
        assert set(row["groups"]) == {"0-4k", "4-8k"} and row["n"] == 7
        assert row["empty"] == {"8k+": "no sample of 8000 words or more"}
    report = (folder / "report" / "report.md").read_text()
    assert "LongBench, official numbers" in report and "no sample of 8000 words or more" in report
    assert "scores the same" in call("score", folder).stdout


@pytest.mark.parametrize("protocol", ["longbench-v2", "kvpress"])
def test_version_2_runs_with_its_columns(experiment, chat_model, local, tmp_path, protocol):
    path = experiment(protocol, chat_model, ["longbench_v2"], data=local / "data.json", templates=local, samples=6)
    folder = run(path, tmp_path / "runs")
    records = records_of(folder)
    assert len(records) == 12 and {r["references"][0] for r in records} == {"B"}
    assert {(r["groups"]["difficulty"], r["groups"]["length"]) for r in records} == {
        ("hard", "short"),
        ("hard", "medium"),
    }
    row = json.loads((folder / "longbench.json").read_text())["rows"][0]
    assert set(row["groups"]) == {"hard", "short", "medium"} and set(row["empty"]) == {"easy", "long"}
    assert "12 predictions judged again, 12 scores the same" in call("score", folder).stdout


def test_prompts_that_pass_the_models_positions_are_refused(experiment, local, tmp_path, monkeypatch):
    path = experiment(tasks=["qasper_e"], data=local, templates=local)
    remedy = "set [longbench.fields] max_length = 1004"  # 1024 positions - 4 of an answer - 16 for cutting
    for kept, message in ((2000, "keeps prompts of 2000 tokens"), (None, "does not cut it")):
        wide = dataclasses.replace(presets.PRESETS["cokv"], max_length=kept)
        monkeypatch.setitem(presets.PRESETS, "cokv", wide)
        rows = [json.loads(line) for line in (local / "qasper_e.jsonl").read_text().splitlines()]
        rows = [row | {"context": "The lantern is green. " * 400} for row in rows]
        (local / "qasper_e.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        result = call("reproduce", "--experiment", path, "--runs", tmp_path / "runs")
        assert result.exit_code == 2 and message in result.stderr and "1024" in result.stderr
        assert remedy in result.stderr and len(result.stderr.strip().splitlines()) == 1
    path.write_text(path.read_text() + "[longbench.fields]\nmax_length = 1004\n")
    folder = run(path, tmp_path / "fits")
    prompt_tokens = {r["prompt_tokens"] for r in records_of(folder)}
    assert all(900 < tokens <= 1020 for tokens in prompt_tokens), prompt_tokens


def test_changed_fields_are_named_wherever_the_protocol_is(experiment, chat_model, local, tmp_path):
    fields = """
[longbench.fields]
max_length = 60
max_new_tokens = { qasper = 3 }
chat = "always"
cut_at = ["lantern"]
strip = true
"""
    name = 'cokv (chat=always, cut_at=["lantern"], max_length=60, max_new_tokens={"qasper": 3}, strip=true)'
    path = experiment(model=chat_model, tasks=["qasper_e"], data=local, templates=local, samples=2)
    plain = run(path, tmp_path / "plain")
    path.write_text(path.read_text() + fields)
    folder = run(path, tmp_path / "runs")
    assert folder.name != plain.name
    records = records_of(folder)
    assert {r["generated_tokens"] for r in records} <= {1, 2, 3} and len(records) == 4
    assert all(f"protocol {name}" in r["notes"] and "in the model's chat template" in r["notes"] for r in records)
    assert all("an instruct model without its chat template" in r["notes"] for r in records_of(plain))
    assert json.loads((folder / "longbench.json").read_text())["protocol"] == name
    identity = json.loads((folder / "spec.json").read_text())["data"]["longbench"]["protocol"]
    assert identity["max_length"] == 60 and identity["max_new_tokens"] == [["qasper", 3]] and identity["name"] == name
    report = (folder / "report" / "report.md").read_text()
    assert "max_length=60" in report.replace("\\", "") and "without it: an instruct" not in report
    assert "read all tasks without it" in (plain / "report" / "report.md").read_text()
    assert "4 scores the same" in call("score", folder).stdout


def test_the_length_that_is_proposed_fits_with_the_template_and_the_answer(experiment, chat_model, local, tmp_path):
    rows = [json.loads(line) for line in (local / "qasper_e.jsonl").read_text().splitlines()]
    rows = [row | {"context": "The lantern is green. " * 400} for row in rows]
    (local / "qasper_e.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = experiment(model=chat_model, tasks=["qasper_e"], data=local, templates=local)
    plain = path.read_text() + '[longbench.fields]\nchat = "always"\nmax_new_tokens = 9\nmax_length = '
    path.write_text(f"{plain}1020\n")  # and an answer of 9: too long for 1024 positions
    refused = call("reproduce", "--experiment", path, "--runs", tmp_path / "runs")
    assert refused.exit_code == 2 and "answers of up to 9" in refused.stderr, refused.output
    length = int(refused.stderr.split("max_length = ")[-1].split(",")[0])
    assert 1024 - 9 - 40 < length < 1024 - 9 - 16, "the template has tokens too"
    path.write_text(f"{plain}{length}\n")
    folder = run(path, tmp_path / "runs")
    assert {r["prompt_tokens"] for r in records_of(folder)} <= set(range(900, 1024 - 9 + 1))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("max_lenght = 7", "fields.max_lenght: a protocol has no such field; did you mean max_length"),
        ('max_length = "7"', "fields.max_length: got '7', expected an integer"),
        ("max_length = 1", "got max_length 1, expected at least 2"),
        ('chat = "task_"', "fields.chat: got 'task_', expected one of task, always, never"),
        ("strip = 1", "fields.strip: got 1, expected true or false"),
        ('max_new_tokens = { qasper = "4" }', "expected an integer or a table of names, each with an integer"),
        ("max_new_tokens = { qasberg = 4 }", "unknown data set 'qasberg'; did you mean qasper"),
        ("max_new_tokens = 0", "max_new_tokens 0"),
        ('first_token = "prefill"', "[protocol] first_token"),
        ('name = "mine"', "a protocol has no such field"),
    ],
)
def test_a_wrong_field_is_one_line(experiment, local, tmp_path, fields, message):
    path = experiment(tasks=["qasper_e"], data=local, templates=local, fields=f"[longbench.fields]\n{fields}\n")
    result = call("reproduce", "--experiment", path, "--runs", tmp_path / "runs")
    assert result.exit_code == 2 and message in result.stderr and len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("task", ["qasper", "longbench_v2"])
def test_missing_templates_are_said_before_anything_is_fetched(experiment, tmp_path, monkeypatch, task):
    def never(*_: object, **__: object) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("suite.tasks.longbench_tasks.load_from_hub", never)
    monkeypatch.setattr("suite.experiment.load_model", never)
    path = experiment(tasks=[task], data=None, templates=tmp_path / "nothing")
    result = call("reproduce", "--experiment", path, "--runs", tmp_path / "runs")
    assert result.exit_code == 2 and "curl" in result.stderr and not (tmp_path / "runs").exists()


@official_files
def test_missing_templates_name_the_command(experiment, tmp_path):
    path = experiment("cokv")
    path.write_text(path.read_text().replace("longbench_config", "nothing"))
    result = call("reproduce", "--experiment", path, "--runs", tmp_path)
    assert result.exit_code == 2 and "curl" in result.stderr and len(result.stderr.strip().splitlines()) == 1


@official_files
def test_an_unknown_data_set_is_refused(experiment, tmp_path):
    path = experiment("cokv")
    path.write_text(path.read_text().replace('"multi_news"', '"multinews"'))
    result = call("reproduce", "--experiment", path, "--runs", tmp_path)
    assert result.exit_code == 2 and "multi_news" in result.stderr


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("qasper_e.jsonl", b'{"input": "cut', "line 1: broken JSON"),
        ("qasper_e.jsonl", b"\xff\xfe{}", "not UTF-8"),
        ("data.zip", b"PK\x03\x04 torn", "not a whole zip archive"),
    ],
)
def test_malformed_data_is_one_line_before_any_work(experiment, local, tmp_path, monkeypatch, name, content, message):
    def never(*_: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("suite.experiment.load_model", never)
    (local / "qasper_e.jsonl").unlink()
    (local / name).write_bytes(content)
    path = experiment(tasks=["qasper_e"], data=local, templates=local)
    result = call("reproduce", "--experiment", path, "--runs", tmp_path / "runs")
    assert result.exit_code == 2 and message in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_foreign_predictions_are_scored(tmp_path):
    file = tmp_path / "multi_news.jsonl"
    rows = [{"pred": "the river rose", "answers": ["the river rose"], "all_classes": None, "length": 3}] * 2
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = call("eval", "--predictions", file)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["multi_news"]["score"] == 100.0


def test_protocols_stand_side_by_side():
    result = call("protocols")
    assert result.exit_code == 0 and "8000" in result.stdout and "31500" in result.stdout
    assert "answer_prefix" in result.stdout and "behind the template's generation prompt" in result.stdout


@official_files
def test_minilongbench_runs_as_it_is_and_says_how_many_samples_each_part_has(experiment, tmp_path):
    path = experiment(data=f"{DATA}/minilongbench", tasks=["trec", "passage_count"], samples=9)
    path.write_text(path.read_text().replace("partial = true", 'subset = "mini"'))
    records = [json.loads(line) for line in (run(path, tmp_path / "runs") / "predictions.jsonl").open()]
    counts = {"trec": (7, 1), "passage_count": (3, 1)}
    for task, (test, validation) in counts.items():
        of_task = [record for record in records if record["task"] == task and record["method"] == "full"]
        note = f"MiniLongBench: {task} has {test} samples for test and {validation} for validation"
        assert len(of_task) == test and all(note in record["notes"] for record in of_task)


@official_files
def test_files_that_lack_samples_of_minilongbench_are_one_clear_line(experiment, tmp_path):
    path = experiment(tasks=["multi_news"])
    path.write_text(path.read_text().replace("partial = true", 'subset = "mini"'))
    result = call("reproduce", "--experiment", path, "--runs", tmp_path / "runs")
    assert result.exit_code == 2 and "lacks 5 of MiniLongBench's 11 samples of multi_news" in result.output
    path.write_text(path.read_text().replace('subset = "mini"', 'subset = "mini"\npartial = true'))
    folder = run(path, tmp_path / "runs")
    assert "5 samples for test and 1 for validation" in (folder / "predictions.jsonl").read_text()
