"""Data sets of the hub, through `cokv reproduce`, against a local stand-in that serves the hub's layout."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from dataset_hub import REVISION, call, repository, serve

from suite.errors import SuiteError
from suite.spec.reading import read_experiment

RULER, LONGBENCH = "someone/ruler", "someone/longbench"
EXPERIMENT = """
name = "{name}"
methods = ["full", "snapkv"]
kv_budgets = [32]

[model]
name = "{model}"

[method_defaults]
window_size = 8

"""


def ruler_rows(task: str, count: int = 5) -> list[dict[str, object]]:
    question = "Find all variables that are assigned the value"
    return [
        {"context": f"VAR A{i} = {i}. " * 6, "question": f"Question: {question} {i}. ", "answer_prefix": "Answer:"}
        | {"answer": [f"A{i}", f"B{i}"], "task": task, "max_new_tokens": 3}
        for i in range(count)
    ]


def longbench_rows(count: int = 200) -> list[dict[str, object]]:
    """Whole, in the official schema; a table writes the null of `all_classes` as an empty list."""
    return [
        {"input": f"Which lantern is number {i}?", "context": f"The lantern {i} is green. ", "answers": ["green"]}
        | {"length": 5, "dataset": "qasper", "language": "en", "all_classes": [], "_id": f"id-{i}"}
        for i in range(count)
    ]


def v2_rows(count: int = 503) -> list[dict[str, object]]:
    choices = {f"choice_{letter}": f"lantern {letter}" for letter in "ABCD"}
    fields = {"domain": "d", "sub_domain": "s", "difficulty": "hard", "length": "short", "answer": "B"} | choices
    return [fields | {"_id": f"v2-{i}", "question": "Which?", "context": "A shelf."} for i in range(count)]


def ruler_experiment(folder: Path, model: Path, query_aware: bool = True, **section: object) -> Path:
    values = {"data": f"hub:{RULER}", "revision": REVISION, "length": 512, "samples": 4, "tasks": ["vt"]} | section
    return write(folder, model, "hub", f"[protocol]\nquery_aware = {json.dumps(query_aware)}\n\n[ruler]\n", values)


def longbench_experiment(folder: Path, model: Path, name: str = "hub", **section: object) -> Path:
    (folder / "dataset2prompt.json").write_text(json.dumps({"qasper": "{context} {input}"}), encoding="utf-8")
    (folder / "dataset2maxlen.json").write_text(json.dumps({"qasper": 4}), encoding="utf-8")
    (folder / "0shot.txt").write_text("$DOC$ $Q$ $C_A$ $C_B$ $C_C$ $C_D$", encoding="utf-8")
    values = {"data": f"hub:{LONGBENCH}", "revision": REVISION, "samples": 2, "tasks": ["qasper"]} | section
    return write(folder, model, name, "[longbench]\n", {"templates": str(folder), "protocol": "cokv"} | values)


def write(folder: Path, model: Path, name: str, head: str, values: dict[str, object]) -> Path:
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items() if value is not None]
    path = folder / f"experiment-{len(list(folder.glob('*.toml')))}.toml"
    path.write_text(EXPERIMENT.format(name=name, model=model) + head + "\n".join(lines), encoding="utf-8")
    return path


REPRODUCE = """
import dataclasses, json, sys
from typer.testing import CliRunner
from longbench import presets
from suite.cli.main import app
presets.PRESETS["cokv"] = dataclasses.replace(presets.PRESETS["cokv"], max_length=120, max_lengths=())
runner, results = CliRunner(), []
for path in sys.argv[2:]:
    done = runner.invoke(app, ["reproduce", "--experiment", path, "--runs", sys.argv[1]])
    results.append([done.exit_code, done.stderr])
print(json.dumps(results))
"""


def reproduce(address: str, folder: Path, *experiments: Path, offline: bool = False) -> list[tuple[int, str]]:
    """Exit code and stderr of each, in one process."""
    done = call(address, folder / "cache", "-c", REPRODUCE, folder / "runs", *experiments, offline=offline)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, "nothing but the error itself is said"
    return [tuple(result) for result in json.loads(done.stdout.splitlines()[-1])]


def refused(address: str, folder: Path, cases: list[tuple[Path, str]], offline: bool = False) -> None:
    """Every experiment ends in one line that says what its case expects, and leaves no run."""
    results = reproduce(address, folder, *(path for path, _ in cases), offline=offline)
    for (code, error), (_, message) in zip(results, cases, strict=True):
        assert code == 2 and message in error and error.count("\n") == 1, (message, error)
    assert not (folder / "runs").exists()


def records(folder: Path, name: str = "hub") -> list[dict[str, object]]:
    """Of all runs of this name."""
    files = (folder / "runs").glob(f"{name}-*/predictions.jsonl")
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def test_rulers_rows_run_with_the_question_inside_the_prompt_or_behind_it(random_model, tmp_path):
    paths = [ruler_experiment(tmp_path, random_model, query_aware) for query_aware in (True, False)]
    with serve({RULER: repository({"512": ruler_rows("cwe", 1) + ruler_rows("vt")})}) as (address, requested):
        assert [code for code, _ in reproduce(address, tmp_path, *paths)] == [0, 0]
    full = [record for record in records(tmp_path) if record["method"] == "full"]
    for query_aware in (True, False):
        of_run = [record for record in full if record["query_aware"] is query_aware]
        assert [record["references"] for record in of_run] == [[f"A{i}", f"B{i}"] for i in range(4)]
    assert all(record["generated_tokens"] <= 3 for record in full)
    assert all("as kvpress publishes RULER" in str(record["notes"]) for record in full)
    for spec in (tmp_path / "runs").glob("*/spec.json"):
        assert list(json.loads(spec.read_text(encoding="utf-8"))["data"]["ruler"]["sources"]) == ["data/vt"]
    files = [path for path in requested if "/resolve/" in path]
    assert files and all(REVISION in path for path in files)
    again = reproduce("http://127.0.0.1:9", tmp_path, paths[0], offline=True)
    assert again[0][0] == 0, "without the hub, the cache is read"
    other = ruler_experiment(tmp_path, random_model, revision="e" * 40)
    ((code, error),) = reproduce("http://127.0.0.1:9", tmp_path, other, offline=True)
    assert code == 2 and "e" * 40 in error, "another commit in the cache is never taken for the one asked for"


def test_what_cannot_be_read_is_one_clear_line(random_model, tmp_path):
    ruler, rows = ruler_rows("vt"), longbench_rows()
    rulers = {  # files of a repository, what the experiment changes, and what is said
        RULER: (ruler, {"revision": "f" * 40}, f"cannot read '512' of {RULER} at {'f' * 40} from the hub"),
        "r/length": (ruler, {"length": 4096}, "cannot read '4096' of r/length"),
        "r/task": (ruler, {"tasks": ["fwe"]}, "holds no row of fwe"),
        "r/count": (ruler, {"samples": 6}, "6 test samples and 0 validation prompts asked"),
        "r/nothing": (None, {}, "cannot read '512' of r/nothing"),
        "r/answer": ([row | {"answer": []} for row in ruler], {}, "row 1: 'outputs' is an empty list"),
        "r/tokens": ([row | {"max_new_tokens": 0} for row in ruler], {}, "row 1: 'max_new_tokens' is 0; expected"),
        "r/question": ([row | {"question": " "} for row in ruler], {}, "row 1: 'question' is empty"),
        "r/context": ([row | {"context": None} for row in ruler], {}, "row 1: 'context' is null"),
    }
    formatted = [row | {"question": "Which?", "answer_prefix": "Answer:"} for row in rows]
    longbenches = {
        "l/few": (rows[1:], "holds 199 records, expected 200"),
        "l/twice": (rows[1:] + rows[1:2], "1 ids appear twice, 'id-1' first"),
        "l/answers": ([row | {"answers": []} for row in rows], "row 1: field 'answers' is an empty list"),
        "l/formatted": (formatted, "holds prompts that are formatted already"),
    }
    script = {"script.py": b"raise SystemExit('a script of the hub ran')", "README.md": b"---\n---\n"}
    repos = {name: repository({"512": content}) for name, (content, _, _) in rulers.items() if content}
    repos |= {name: repository({"qasper": content}) for name, (content, _) in longbenches.items()} | {
        "l/script": script
    }
    cases = [
        (ruler_experiment(tmp_path, random_model, data=f"hub:{name}", **changes), message)
        for name, (_, changes, message) in rulers.items()
    ]
    messages = {name: message for name, (_, message) in longbenches.items()}
    cases += [
        (longbench_experiment(tmp_path, random_model, data=f"hub:{name}"), message)
        for name, message in (messages | {"l/script": "Dataset scripts are no longer supported"}).items()
    ]
    with serve(repos) as (address, _):
        refused(address, tmp_path, cases)


@pytest.mark.parametrize("offline", [True, pytest.param(False, marks=pytest.mark.slow)])  # tries again for 30 s
def test_without_the_hub_and_without_a_cache_it_is_one_clear_line(random_model, tmp_path, offline):
    path = ruler_experiment(tmp_path, random_model)
    refused("http://127.0.0.1:9", tmp_path, [(path, f"cannot read '512' of {RULER}")], offline)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"revision": None}, "no commit of someone/ruler is known here; name its 40 hex digits as `revision`"),
        ({"revision": "main"}, "revision is 'main', expected the 40 hex digits of a commit"),
        ({"data": "hub:ruler"}, "expected hub:OWNER/NAME"),
        ({"data": "some/folder"}, "`revision` belongs to data = 'hub:OWNER/NAME'"),
    ],
)
def test_a_source_without_a_commit_is_refused_when_the_file_is_read(random_model, tmp_path, section, message):
    with pytest.raises(SuiteError, match=message):
        read_experiment(ruler_experiment(tmp_path, random_model, **section))


def test_longbench_of_the_hub_runs_as_the_official_files_do(random_model, tmp_path):
    local, v2 = tmp_path / "local", json.dumps(v2_rows())
    local.mkdir()
    lines = "".join(json.dumps(row | {"all_classes": None}) + "\n" for row in longbench_rows())
    (local / "qasper.jsonl").write_text(lines, encoding="utf-8")
    (local / "data.json").write_text(v2, encoding="utf-8")
    files, file_tasks = {"data": str(local), "revision": None}, ["qasper", "longbench_v2"]
    paths = [
        longbench_experiment(tmp_path, random_model, name="hub"),
        longbench_experiment(tmp_path, random_model, name="v2", data="hub:someone/v2", tasks=["longbench_v2"]),
        longbench_experiment(tmp_path, random_model, name="local", tasks=file_tasks, **files),
    ]
    repos = {LONGBENCH: repository({"qasper": longbench_rows()}), "someone/v2": {"data.json": v2.encode()}}
    with serve(repos) as (address, _):
        assert [code for code, _ in reproduce(address, tmp_path, *paths)] == [0, 0, 0]
    of_hub, of_files = records(tmp_path, "hub") + records(tmp_path, "v2"), records(tmp_path, "local")
    for record in (*of_hub, *of_files):
        record.pop("cell")  # it covers the checksum of the source
    assert of_hub == of_files
    assert len(records(tmp_path, "local")) == 8


@pytest.mark.parametrize("repo", ["THUDM/LongBench", "zai-org/LongBench", "zai-org/LongBench-v2"])
def test_known_repositories_need_no_revision(random_model, tmp_path, repo):
    longbench = read_experiment(longbench_experiment(tmp_path, random_model, data=f"hub:{repo}", revision=None))
    ruler = read_experiment(ruler_experiment(tmp_path, random_model, data="hub:simonjegou/ruler", revision=None))
    assert longbench.longbench is not None and len(longbench.longbench.hub_revision or "") == 40
    assert ruler.ruler is not None and len(ruler.ruler.hub_revision or "") == 40


def test_prompts_that_kvpress_has_formatted_are_refused_by_name(random_model, tmp_path):
    with pytest.raises(SuiteError, match="Xnhyacinth/LongBench holds prompts that kvpress has formatted"):
        read_experiment(longbench_experiment(tmp_path, random_model, data="hub:Xnhyacinth/LongBench", revision=None))


def test_datasets_is_imported_only_where_a_hub_source_is_read():
    code = (
        "import sys, longbench, ruler, reports, suite.cli.main, suite.tasks.hub_rows; print('datasets' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "False", done.stderr
