"""The record of published profiles: its numbers recomputed another way, and what is odd is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cokv.profiles.duo_file import read_duo
from cokv.profiles.load import expand, read_published
from cokv.profiles.published_summary import SummarySettings, summarize
from cokv.types import CokvError, HeadScores


def ranks(values: np.ndarray) -> np.ndarray:
    """Mean ranks, ties shared."""
    order = np.sort(values.ravel())
    return np.array([(np.searchsorted(order, v) + np.searchsorted(order, v, "right") - 1) / 2 for v in values.ravel()])


@pytest.fixture
def record(published: Path) -> dict:
    folders = [published / name for name in ("cokv_scores", "headkv_scores", "duo_patterns")]
    files = [path for path in expand(folders) if "qwen3" not in path.name]
    return summarize(files, SummarySettings(shape=(32, 8)))


def test_all_published_files_stand_side_by_side(record):
    names = ["hotpotqa", "qasper", "Llama-3-8B-Instruct-Gradient-1048k", "R2 Meta-Llama-3-8B-Instruct"]
    assert sorted(p["name"] for p in record["profiles"]) == sorted(names)
    assert record["remarks"] == [] and len(record["files"]) == 8
    json.dumps(record, allow_nan=False)


def test_correlations_are_those_of_the_numbers(record, published):
    def means(task: str, size: int) -> np.ndarray:
        data = np.load(published / "cokv_scores" / f"cc_{task}_{size}.npy", allow_pickle=True).item()
        return (data["cc_left"] / np.maximum(data["count_left"], 1))[:256]

    for task in ("hotpotqa", "qasper"):
        (profile,) = (p for p in record["profiles"] if p["name"] == task)
        result = profile["between_sizes"]
        assert result["names"] == ["32", "64", "96", "128"]
        for row, one in enumerate((32, 64, 96, 128)):
            for column, other in enumerate((32, 64, 96, 128)):
                pair = means(task, one), means(task, other)
                assert result["pearson"][row][column] == pytest.approx(np.corrcoef(*pair)[0, 1])
                expected = np.corrcoef(ranks(pair[0]), ranks(pair[1]))[0, 1]
                assert result["spearman"][row][column] == pytest.approx(expected)
    between, names = record["between_profiles"], record["between_profiles"]["names"]
    values = [np.array(p["values"]) for p in record["profiles"]]
    row, column = names.index("hotpotqa"), names.index("qasper")
    expected = np.corrcoef(ranks(values[row]), ranks(values[column]))[0, 1]
    assert between["spearman"][row][column] == pytest.approx(expected)


def test_budgets_are_both_formulas(record):
    for profile in record["profiles"]:
        if profile["method"] == "DuoAttention":
            assert "384 slots per head" in profile["infeasible"] and "budgets" not in profile
            assert [mask["retrieval_heads"] for mask in profile["masks"]] == [192, 128, 64]
            continue
        official, ours = profile["budgets"]
        assert (official["preset"], ours["preset"]) == ("official", "normalized")
        assert ours["total"] == ours["expected_total"] == 128 * 256
        assert 0 < official["expected_total"] - official["total"] < 256
        assert official["total"] == np.sum(official["values"])


def test_a_budget_that_pays_for_sinks_and_recent_tokens_gives_duo_whole_heads(published):
    path = published / "duo_patterns" / "Llama-3-8B-Instruct-Gradient-1048k.tsv"
    (profile,) = summarize([path], SummarySettings(kv_budget=1024))["profiles"]
    (budgets,) = profile["budgets"]
    assert budgets["total"] == 1024 * 256 and "infeasible" not in profile
    values = np.array(budgets["values"])
    whole = values == 8192
    assert whole.sum() == (1024 * 256 - 256 * 384) // (8192 - 384)
    sparsity = 1 - whole.sum() / 256
    np.testing.assert_array_equal(whole, read_duo(path).retrieval_heads(sparsity))
    assert values[~whole].min() >= 384 and np.ptp(values[~whole]) <= 1


def test_a_copied_file_is_said_and_counted_once_by_us_and_twice_by_the_released_code(published, tmp_path):
    for size in (32, 64):
        shutil.copy(published / "cokv_scores" / f"cc_qasper_{size}.npy", tmp_path)
    two = summarize([tmp_path])
    shutil.copy(tmp_path / "cc_qasper_64.npy", tmp_path / "cc_qasper_96.npy")
    three = summarize([tmp_path])
    assert two["remarks"] == []
    assert len(three["remarks"]) == 1 and three["remarks"][0].startswith("cc_qasper_96.npy is a copy of")
    assert three["profiles"][0]["values"] == two["profiles"][0]["values"]
    assert three["profiles"][0]["budgets"][1] == two["profiles"][0]["budgets"][1]
    assert three["profiles"][0]["budgets"][0]["values"] != two["profiles"][0]["budgets"][0]["values"]


def test_profiles_of_other_shapes_are_not_compared(tmp_path):
    rng = np.random.default_rng(0)
    HeadScores(rng.normal(size=(4, 8))).save(tmp_path / "a.safetensors")
    HeadScores(rng.normal(size=(8, 4))).save(tmp_path / "b.safetensors")
    HeadScores(np.ones((4, 8))).save(tmp_path / "c.safetensors")
    result = summarize([tmp_path], SummarySettings(alpha=2))
    assert result["between_profiles"]["spearman"] == [[pytest.approx(1), None, None], [None, pytest.approx(1), None],
                                                     [None, None, None]]  # fmt: skip
    assert [p["method"] for p in result["profiles"]] == ["CoKV", "CoKV", "HeadKV"]
    HeadScores(np.arange(32.0).reshape(4, 8), {"kind": "sliced Shapley value"}).save(tmp_path / "c.safetensors")
    assert summarize([tmp_path / "c.safetensors"])["profiles"][0]["method"] == "CoKV"


def test_curves_give_budgets(tmp_path):
    np.save(tmp_path / "curves.npy", np.broadcast_to(np.arange(1, 100)[:, None, None] / 100, (99, 2, 3)))
    (profile,) = summarize([tmp_path / "curves.npy"], SummarySettings(100, 8, 1000))["profiles"]
    assert profile["budgets"][0]["values"] == [[100] * 3] * 2


def test_what_cannot_be_read_is_said_in_one_line(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    np.save(tmp_path / "other.npy", {"a": 1})
    for path, message in (
        (tmp_path / "notes.txt", r"ends in '\.txt', expected one of"),
        (tmp_path / "none.npy", "no such file"),
        (tmp_path / "other.npy", "neither CoKV's sums and counts nor LU-KV's curves"),
    ):
        with pytest.raises(CokvError, match=message):
            read_published(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CokvError, match="no profiles in this folder"):
        summarize([tmp_path / "empty"])
    with pytest.raises(CokvError, match="no files"):
        summarize([])
    with pytest.raises(CokvError, match="window_size < kv_budget"):
        SummarySettings(kv_budget=8, window_size=8)
