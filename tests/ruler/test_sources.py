"""Essays and question files of the user: what is made of them, and what is said of broken ones."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from ruler import RulerError
from ruler.essays import BUNDLED, read_essays
from ruler.generate import Sources, generate
from ruler.questions import read_questions
from ruler.scoring import score


def squad(articles: int = 4, version: str = "v2") -> dict[str, Any]:
    """Articles of three paragraphs with two questions each; with v2, one more that cannot be answered."""
    data = []
    for a in range(articles):
        paragraphs = []
        for p in range(3):
            text = f"Lighthouse {a}-{p} was built in {1500 + 10 * a + p} by the mason number {a}{p}. " * 3
            answer = {"text": f"the mason number {a}{p}", "answer_start": 0}
            year = {"text": str(1500 + 10 * a + p), "answer_start": 0}
            qas = [
                {"question": f"Who built lighthouse {a}-{p}?", "id": f"{a}{p}w", "answers": [answer, answer]},
                {"question": f"When was lighthouse {a}-{p} built?", "id": f"{a}{p}y", "answers": [year]},
            ]
            if version == "v2":
                qas = [q | {"is_impossible": False} for q in qas]
                qas.append({"question": "Who painted it?", "id": f"{a}{p}n", "answers": [], "is_impossible": True})
            paragraphs.append({"context": text.strip(), "qas": qas})
        data.append({"title": f"Lighthouses {a}", "paragraphs": paragraphs})
    return {"version": version, "data": data}


def hotpot(count: int = 6) -> list[dict[str, Any]]:
    """Questions with two needed and eight other documents."""
    items = []
    for q in range(count):
        titles = [f"Ship {q}", f"Harbour {q}", *(f"Boat {q}.{i}" for i in range(8))]
        context = [[t, [f"{t} is well known.", f" Its keeper is number {q}{i}."]] for i, t in enumerate(titles)]
        items.append(
            {
                "_id": str(q),
                "question": f"Who keeps the harbour of ship {q}?",
                "answer": f"number {q}1",
                "supporting_facts": [[titles[0], 0], [titles[1], 1]],
                "context": context,
            }
        )
    return items


@pytest.fixture
def write(tmp_path: Path):
    def put(name: str, content: Any) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return path

    return put


def samples_of(tokenizer, task: str, path: Path, length: int, count: int = 3, seed: int = 0):
    sources = Sources.read(question_files={task: path})
    return list(generate(task, tokenizer("whitespace"), length, count, seed=seed, sources=sources))


def documents(context: str) -> list[str]:
    return re.split(r"\n?Document \d+: ", context)[1:]


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_squad_sample_i_asks_question_i_over_its_paragraph_and_others(tokenizer, write, version: str) -> None:
    drawn = samples_of(tokenizer, "qa_1", write("squad.json", squad(version=version)), 200)
    questions = [s.question.strip() for s in drawn]
    assert questions == ["Who built lighthouse 0-0?", "When was lighthouse 0-0 built?", "Who built lighthouse 0-1?"]
    assert [s.outputs for s in drawn] == [("the mason number 00",), ("1500",), ("the mason number 01",)]
    for sample in drawn:
        assert sample.notes == ()
        assert sample.answer_prefix == " Answer:"
        assert score(sample, sample.gold) == 100.0
        texts = documents(sample.context)
        assert len(set(texts)) == len(texts) > 1
        assert sum(sample.outputs[0] in t for t in texts) == 1


def test_near_documents_come_before_far_ones(tokenizer, write) -> None:
    path = write("squad.json", squad())
    few, many = (samples_of(tokenizer, "qa_1", path, n, count=1, seed=3)[0] for n in (155, 300))
    assert len(documents(few.context)) == 3
    assert all("Lighthouse 0-" in d for d in documents(few.context)), "the article's own paragraphs first"
    assert len(documents(many.context)) > 3
    assert all(any(f"Lighthouse 0-{p} " in d for d in documents(many.context)) for p in range(3))


def test_all_documents_used_up_is_noted(tokenizer, write) -> None:
    (sample,) = samples_of(tokenizer, "qa_1", write("squad.json", squad()), 5000, count=1)
    assert len(documents(sample.context)) == 12
    assert sample.notes == ("the haystack ends below the length: there is nothing new to add",)


def test_hotpot_keeps_both_needed_documents_in_any_length(tokenizer, write) -> None:
    path = write("hotpot.json", hotpot())
    for length in (75, 90, 150, 300):
        for q, sample in enumerate(samples_of(tokenizer, "qa_2", path, length, count=6)):
            texts = documents(sample.context)
            assert sample.question == f"\nWho keeps the harbour of ship {q}?"
            assert [sum(d.startswith(f"{kind} {q}\n") for d in texts) for kind in ("Ship", "Harbour")] == [1, 1]
            assert len(set(texts)) == len(texts)
            assert sample.length <= length
            assert score(sample, sample.gold) == 100.0


def test_more_samples_than_questions_is_an_error(tokenizer, write) -> None:
    with pytest.raises(RulerError, match="qa_2: 7 samples asked, but its file has 6 questions"):
        samples_of(tokenizer, "qa_2", write("hotpot.json", hotpot()), 300, count=7)


def test_an_index_past_the_last_question_begins_again_with_other_distractors(tokenizer, write) -> None:
    sources = Sources.read(question_files={"qa_2": write("hotpot.json", hotpot())})
    first, again = (
        next(generate("qa_2", tokenizer("whitespace"), 300, 1, seed=0, sources=sources, offset=offset))
        for offset in (1, 7)
    )
    assert first.question == again.question
    assert first.context != again.context


def test_a_question_file_for_another_task_is_an_error(write) -> None:
    path = write("squad.json", squad())
    with pytest.raises(RulerError, match="vt takes no question file"):
        Sources.read(question_files={"vt": path})
    with pytest.raises(RulerError, match="did you mean qa_"):
        Sources.read(question_files={"qa_3": path})


def broken_hotpot(**changes: Any) -> list[dict[str, Any]]:
    return [hotpot(1)[0] | changes]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "broken JSON"),
        (b'{"data": [', "broken JSON .* line 1"),
        (b'\xff\xfe{"data": []}', "not UTF-8"),
        (b"[" * 100_000, "cannot be parsed"),
        ({}, "neither SQuAD nor HotpotQA"),
        ([], "no answerable question"),
        ({"data": []}, "no answerable question"),
        (7, "neither SQuAD nor HotpotQA"),
        (None, "neither SQuAD nor HotpotQA"),
        ({"data": [{"paragraphs": [{"context": "a", "qas": [{"answers": [{"text": "a"}]}]}]}]}, "'question'"),
        ({"data": [{"paragraphs": [{"context": 3, "qas": []}]}]}, "a context is 3"),
        (broken_hotpot(answer=None), "an answer is None"),
        (broken_hotpot(answer=" "), "an answer is ' '"),
        (broken_hotpot(supporting_facts=[]), "no document holds a supporting fact"),
        (broken_hotpot(context=[["title"]]), "neither SQuAD nor HotpotQA"),
        ([{"question": "Where?"}], "neither SQuAD nor HotpotQA"),
    ],
)
def test_a_broken_question_file_is_one_clear_line(write, content: Any, message: str) -> None:
    path = write("questions.json", content)
    with pytest.raises(RulerError, match=message) as caught:
        read_questions(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_question_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RulerError, match="no question file"):
        read_questions(tmp_path / "none.json")
    with pytest.raises(RulerError, match="cannot read"):
        read_questions(tmp_path)


def test_essays_are_read_in_name_order_and_used_from_their_start(tokenizer, tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("Third one!\nFourth one? ", encoding="utf-8")
    (tmp_path / "a.txt").write_text("\ufeffFirst one.  Second\none.\n", encoding="utf-8")
    (tmp_path / "notes.md").write_text("Not an essay.", encoding="utf-8")
    assert read_essays(tmp_path).sentences == ("First one.", "Second one.", "Third one!", "Fourth one?")
    sources = Sources.read(essays=tmp_path)
    sample = next(generate("niah_single_2", tokenizer("whitespace"), 500, 1, seed=0, sources=sources))
    text = re.sub(r"The secret number of \S+ is \d+\. ?", "", sample.context.partition("\n")[2])
    assert text.startswith("First one. Second one. Third one! Fourth one? First one.")
    assert sample.notes == ("the essays are shorter than the haystack and repeat",)
    short = next(generate("niah_single_2", tokenizer("whitespace"), 162, 1, seed=0, sources=sources))
    assert short.notes == ()


@pytest.mark.skipif("COKV_TEST_DATA" not in os.environ, reason="COKV_TEST_DATA is not set: no essays here")
@pytest.mark.parametrize("length", [1024, 4096])
def test_rulers_essay_files_are_joined_in_the_official_order_and_fill_the_length(tokenizer, length: int) -> None:
    folder = Path(os.environ["COKV_TEST_DATA"]) / "essays"
    names = sorted(file.name for file in folder.glob("*.txt"))
    whole = " ".join(" ".join((folder / name).read_text(encoding="utf-8").split()) for name in names)
    sources = Sources.read(folder)
    assert len(names) == 49 and " ".join(sources.essays.sentences if sources.essays else ()) == whole
    for task in ("niah_single_2", "niah_multivalue"):
        sample = next(generate(task, tokenizer("whitespace"), length, 1, seed=0, sources=sources))
        text = re.sub(r"The secret numbers? of \S+ is \d+\. ?", "", sample.context.partition("\n")[2])
        assert whole.startswith(text.strip()), "the haystack is the essays from their start, the needles apart"
        assert 0.9 * length < (sample.length or 0) <= length and sample.notes == ()


def test_a_bundled_text_is_chosen_by_name_and_named_in_the_notes(tokenizer, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "alice").mkdir()
    (tmp_path / "alice" / "own.txt").write_text("My own essay.", encoding="utf-8")
    sample = next(generate("niah_single_2", tokenizer("whitespace"), 1024, 1, seed=0, sources=Sources.read("alice")))
    text = re.sub(r"The secret number of \S+ is \d+\. ?", "", sample.context.partition("\n")[2])
    assert text.startswith("Alice was beginning to get very tired of sitting by her sister on the bank")
    assert "haystack: Alice's Adventures in Wonderland" in sample.notes[0] and "not RULER's essays" in sample.notes[0]
    assert read_essays("./alice").sentences == ("My own essay.",)
    other_task = next(generate("cwe", tokenizer("whitespace"), 1024, 1, seed=0, sources=Sources.read("alice")))
    assert other_task.notes == ()


@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_text_is_prose_and_nothing_else(name: str) -> None:
    text = BUNDLED[name].path.read_text(encoding="utf-8")
    assert 100_000 < len(text) < 200_000
    assert not re.search(
        r"gutenberg|copyright|licen[sc]e|fulcrum|\betext|\bchapter [IVX]|http|\*|_", text, re.IGNORECASE
    )
    assert all(line[0] != " " and line[-1] != " " and "  " not in line for line in text.splitlines() if line)


def test_essay_folders_that_cannot_be_used_are_errors(tmp_path: Path) -> None:
    with pytest.raises(RulerError, match=r"no \.txt file"):
        read_essays(tmp_path / "none")
    with pytest.raises(RulerError, match=r"no \.txt file"):
        read_essays(tmp_path)
    (tmp_path / "a.txt").write_text(" \n", encoding="utf-8")
    with pytest.raises(RulerError, match="only empty files"):
        read_essays(tmp_path)
    (tmp_path / "b.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(RulerError, match=r"b\.txt is not UTF-8 text"):
        read_essays(tmp_path)
