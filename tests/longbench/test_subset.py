"""MiniLongBench: the same samples out of its own files and out of the official ones, and no others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from longbench.data import DataSet, read_dataset
from longbench.errors import LongBenchError
from longbench.sources import load_dataset
from longbench.split import split_ids
from longbench.subset import check_has_subset, content_hash, mini_samples, select_mini
from longbench.tasks import TASKS

OFFICIAL_MEMBERS = {"multi_news": 6, "passage_retrieval_zh": 5}  # of the 40 samples of each that the tests have


def own_file(data_root: Path, task: str) -> DataSet:
    return load_dataset(data_root / "minilongbench", task, partial=True)


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_the_list_names_237_samples_of_all_21_data_sets_and_holds_no_text() -> None:
    samples = mini_samples()
    assert set(samples) == set(TASKS) and sum(map(len, samples.values())) == 237
    assert all(len(digest) == 64 and len(name) == 48 for ids in samples.values() for digest, name in ids.items())
    assert len({name for ids in samples.values() for name in ids.values()}) == 237


@pytest.mark.parametrize("task", TASKS)
def test_every_sample_of_its_own_files_is_chosen_under_its_own_id(data_root: Path, task: str) -> None:
    whole = own_file(data_root, task)
    chosen = select_mini(whole)
    assert chosen.samples == whole.samples and len(chosen.samples) == len(mini_samples()[task])
    assert chosen.to_record()["subset"] == "mini" and "subset" not in whole.to_record()


@pytest.mark.parametrize("task", OFFICIAL_MEMBERS)
def test_the_official_files_give_the_same_samples_with_the_same_ids_and_nothing_else(
    data_root: Path, task: str
) -> None:
    official = load_dataset(data_root / "longbench", task, partial=True)
    chosen = select_mini(official, partial=True)
    own = {sample.id: sample.record for sample in own_file(data_root, task).samples}
    assert len(official.samples) == 40 and len(chosen.samples) == OFFICIAL_MEMBERS[task]
    for sample in chosen.samples:
        for field in ("context", "input", "answers", "all_classes"):
            assert sample.record[field] == own[sample.id][field]
    assert {s.record["context"] for s in official.samples} & {r["context"] for r in own.values()} == {
        sample.record["context"] for sample in chosen.samples
    }, "a sample of both is chosen, and only that"


@pytest.mark.parametrize("task", ["lcc", "repobench-p", "qasper"])
def test_the_input_may_stand_in_the_context_or_beside_it(data_root: Path, task: str) -> None:
    for sample in own_file(data_root, task).samples:
        context = sample.record["context"] + sample.record["input"]
        for cut in (len(context) // 3, len(context) - 1):
            assert content_hash({"context": context[:cut], "input": "\n" + context[cut:]}) == content_hash(
                sample.record
            )


def test_a_text_that_differs_by_one_letter_is_another_sample(data_root: Path, tmp_path: Path) -> None:
    records = [dict(sample.record) for sample in own_file(data_root, "multi_news").samples]
    for record in records:
        place = next(i for i, letter in enumerate(record["context"]) if letter == "e")
        record["context"] = record["context"][:place] + "a" + record["context"][place + 1 :]
    changed = read_dataset(write(tmp_path / "multi_news.jsonl", records), "multi_news", partial=True)
    for partial in (False, True):
        with pytest.raises(LongBenchError, match=r"lacks 11 of MiniLongBench's 11 samples of multi_news, f4f80300"):
            select_mini(changed, partial=partial)


def test_what_lacks_is_named_unless_a_part_is_asked_for(data_root: Path, tmp_path: Path) -> None:
    first, *rest = [dict(sample.record) for sample in own_file(data_root, "trec").samples]
    short = read_dataset(write(tmp_path / "trec.jsonl", rest), "trec", partial=True)
    with pytest.raises(LongBenchError, match=rf"lacks 1 of MiniLongBench's 8 samples of trec, {first['_id']}"):
        select_mini(short)
    assert len(select_mini(short, partial=True).samples) == 7


def test_one_text_twice_counts_once_and_with_two_answers_is_refused(data_root: Path, tmp_path: Path) -> None:
    records = [dict(sample.record) for sample in own_file(data_root, "trec").samples]
    for again in ({"_id": "again"}, {"_id": "again", "answers": ["Another"]}):
        twice = write(tmp_path / "trec.jsonl", [*records, records[0] | again])
        data = read_dataset(twice, "trec", partial=True)
        if "answers" not in again:
            assert len(select_mini(data).samples) == len(records)
        else:
            with pytest.raises(LongBenchError, match="'again' are one text with different answers"):
                select_mini(data)


@pytest.mark.parametrize("name", ["qasper_e", "longbench_v2"])
def test_data_sets_it_does_not_draw_from_are_refused(name: str) -> None:
    with pytest.raises(LongBenchError, match=f"MiniLongBench has no {name}"):
        check_has_subset(name)


def test_both_parts_of_every_split_have_samples() -> None:
    for task, ids in mini_samples().items():
        split = split_ids(task, ids.values())
        assert split.validation and len(split.test) >= 3, task
