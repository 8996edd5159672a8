"""Files as people have them: with byte order marks, in UTF-16; one in an old code page is refused with a remedy."""

import codecs
import json
import os
from pathlib import Path

import pytest
from command_line import call, refused

from cokv.profiles.duo_file import read_duo
from cokv.profiles.headkv_file import read_headkv
from longbench.data import read_v2_array
from longbench.templates import read_templates
from ruler.data import read_objects
from ruler.essays import read_essays
from ruler.questions import read_questions
from suite.errors import SuiteError
from suite.run.compare import read_prompt
from suite.spec import read_experiment
from suite.text_files import read_text

MARKED = ["utf-8", "utf-8-sig", "utf-16"]  # the last two write a byte order mark


@pytest.mark.parametrize("encoding", MARKED)
def test_a_prompt_is_the_same_text_in_every_encoding_with_a_mark(tmp_path, encoding):
    (tmp_path / "prompt.txt").write_bytes("Überall 日本\r\nund 4 5 6\r\n".encode(encoding))
    assert read_prompt(tmp_path / "prompt.txt") == "Überall 日本\nund 4 5 6"


@pytest.mark.parametrize("encoding", MARKED)
def test_an_experiment_is_the_same_in_every_encoding_with_a_mark(experiment_file, encoding):
    expected = read_experiment(experiment_file)
    experiment_file.write_bytes(experiment_file.read_text().encode(encoding))
    assert read_experiment(experiment_file) == expected


def test_an_old_code_page_is_refused_with_what_to_do(experiment_file, tmp_path):
    experiment_file.write_bytes(b'description = "d\xe9j\xe0 vu"\n' + experiment_file.read_bytes())
    message = refused(call("reproduce", "--experiment", experiment_file, "--runs", tmp_path / "runs"))
    assert "not UTF-8 text (byte 16); save it as UTF-8" in message
    experiment_file.write_bytes(experiment_file.read_bytes().decode("cp1252").encode())  # as the message says
    assert read_experiment(experiment_file).description == "déjà vu"


def test_half_a_character_of_utf_16_is_refused(tmp_path):
    (tmp_path / "prompt.txt").write_bytes("4 5 6".encode("utf-16")[:-1])
    with pytest.raises(SuiteError, match="not UTF-16 text"):
        read_text(tmp_path / "prompt.txt")


@pytest.mark.parametrize("name", ["prompt", "experiment"])
def test_a_missing_file_is_named(tmp_path, name):
    read = {"prompt": read_prompt, "experiment": read_experiment}[name]
    with pytest.raises(SuiteError, match=f"no {name} file .*none; .*check the path"):
        read(tmp_path / "none")


def test_an_experiment_nested_too_deeply_is_refused(experiment_file, tmp_path):
    experiment_file.write_text("x = " + "[" * 100_000)
    assert "nested too deeply" in refused(call("reproduce", "--experiment", experiment_file, "--runs", tmp_path))


def test_predictions_from_a_spreadsheet_are_read_with_their_mark(tmp_path):
    text = "task,predicted_answer,answers\r\nhotpotqa,Paris,\"['Paris']\"\r\n"
    scores = []
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / "predictions.csv").write_bytes(text.encode(encoding))
        result = call("eval", "--predictions", tmp_path / "predictions.csv")
        assert result.exit_code == 0, result.output
        scores.append(json.loads(result.stdout))
    assert scores[0] == scores[1] and scores[0]["hotpotqa"]["score"] == 100.0


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_json_lines_with_a_mark_are_refused_with_what_to_do(tmp_path, encoding):
    line = '{"pred": "a", "answers": ["a"], "all_classes": null}\n'
    (tmp_path / "hotpotqa.jsonl").write_bytes(line.encode(encoding))
    message = refused(call("eval", "--predictions", tmp_path / "hotpotqa.jsonl"))
    assert "save the file as plain UTF-8" in message or "convert the file" in message


def marked(path: Path, content: str) -> tuple[Path, Path]:
    """The file, and one of the same content and name that begins with a byte order mark."""
    path.write_text(content, encoding="utf-8")
    other = path.parent / "marked" / path.name
    other.parent.mkdir(exist_ok=True)
    other.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    return path, other


SQUAD = {"data": [{"paragraphs": [{"context": "Paris é.", "qas": [
    {"question": "Where?", "is_impossible": False, "answers": [{"text": "Paris"}]}]}]}]}  # fmt: skip
V2_RECORD = {name: name for name in ("_id", "domain", "sub_domain", "question", "context")}
V2_RECORD |= {f"choice_{letter}": letter for letter in "ABCD"} | {
    "difficulty": "easy",
    "length": "short",
    "answer": "A",
}


@pytest.mark.parametrize(
    ("name", "content", "read"),
    [
        ("vt.jsonl", '{"index": 0}\n{"index": 1}\n', lambda path: list(read_objects(path))),
        ("squad.json", json.dumps(SQUAD), read_questions),
        ("one.txt", "One é. Two.", lambda path: read_essays(path.parent)),
        ("data.json", json.dumps([V2_RECORD]), lambda path: read_v2_array(path, partial=True).samples),
        ("headkv.json", '{"0-0": [1], "0-1": [2]}', lambda path: read_headkv(path).values.tolist()),
    ],
)
def test_data_and_profiles_are_the_same_with_a_mark(tmp_path, name, content, read):
    plain, with_mark = marked(tmp_path / name, content)
    assert read(with_mark) == read(plain)


def test_a_table_of_gates_and_its_config_are_the_same_with_marks(tmp_path):
    marked(tmp_path / "config.json", '{"sink_size": 4, "recent_size": 8}')
    plain, with_mark = marked(tmp_path / "gates.tsv", "1\t0\n0\t1\n")
    assert read_duo(with_mark).gates.tolist() == read_duo(plain).gates.tolist()


@pytest.mark.skipif("COKV_TEST_DATA" not in os.environ, reason="COKV_TEST_DATA is not set: no official templates here")
def test_official_templates_are_the_same_with_a_mark(tmp_path):
    plain = Path(os.environ["COKV_TEST_DATA"]) / "longbench_config"
    for file in plain.glob("*.json"):
        (tmp_path / file.name).write_bytes(codecs.BOM_UTF8 + file.read_bytes())
    assert read_templates(tmp_path).prompt("qasper") == read_templates(plain).prompt("qasper")
