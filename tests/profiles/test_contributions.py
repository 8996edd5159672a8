"""CoKV's published sums and counts: what a file says is checked, and the released formulas come out of the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cokv.methods.allocators.cokv import CoKV
from cokv.profiles.contributions import Contributions, head_scores, read_contributions, remarks
from cokv.types import CokvError

SIZES = (32, 64, 96, 128)


def drawn(n: int = 12, size: int = 4, samples: int = 40, seed: int = 0) -> dict[str, Any]:
    """Sums and counts of a random additive game, as the released code keeps them."""
    rng = np.random.default_rng(seed)
    worth = np.arange(n) / n
    arrays = {key: np.zeros(n + 1) for key in ("cc_left", "cc_right", "count_left", "count_right")}
    for _ in range(samples):
        order = rng.permutation(n)
        inside, outside = order[:size], order[size:]
        contribution = worth[inside].sum() - worth[outside].sum()
        arrays["cc_left"][inside] += contribution
        arrays["count_left"][inside] += 1
        arrays["cc_right"][outside] -= contribution
        arrays["count_right"][outside] += 1
    return {**arrays, "sampling_count": samples}


@pytest.fixture
def write(tmp_path):
    def save(name: str = "cc_toy_4.npy", **changes: Any) -> Path:
        settings = {key: changes.pop(key) for key in ("n", "size", "samples", "seed") if key in changes}
        np.save(tmp_path / name, {**drawn(**settings), **changes})
        return tmp_path / name

    return save


def test_size_samples_and_players_come_from_the_counts(write):
    parsed = read_contributions(write(size=5, samples=30))
    assert (parsed.num_players, parsed.size, parsed.samples) == (12, 5, 30)
    assert (parsed.task, parsed.stated_size) == ("toy", 4)
    assert remarks([parsed]) == ["cc_toy_4.npy holds coalitions of size 5, not 4 as its name says"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cc_2wikimqa_96.npy", ("", "2wikimqa", 96)),
        ("cc_passage_retrieval_en_128.npy", ("", "passage_retrieval_en", 128)),
        ("cc_mistral_repobench-p_64.npy", ("mistral", "repobench-p", 64)),
        ("cc_qwen3_average_size_256.npy", ("qwen3", "average", 256)),
        ("other.npy", ("", "other", None)),
    ],
)
def test_published_names_are_understood(write, name, expected):
    parsed = read_contributions(write(name))
    assert (parsed.model, parsed.task, parsed.stated_size) == expected


def test_a_copy_under_another_size_is_named(write):
    files = [read_contributions(write("cc_toy_4.npy")), read_contributions(write("cc_toy_6.npy", size=6))]
    assert remarks(files) == []
    copy = read_contributions(write("cc_toy_8.npy", size=4))
    assert remarks([*files, copy]) == [
        "cc_toy_8.npy is a copy of cc_toy_4.npy: the same sums and counts, of size 4",
    ]
    with pytest.raises(CokvError, match=r"sizes \[4, 6, 4\], expected each once \(cc_toy_8.npy is a copy"):
        head_scores([*files, copy], shape=(3, 4))
    official = head_scores([*files, copy], "official", (3, 4))
    np.testing.assert_allclose(official.values.ravel(), 2 * files[0].means + files[1].means, rtol=1e-14)
    assert official.provenance["remarks"] == remarks([*files, copy])


def test_the_paper_averages_sizes_and_uses_the_second_side_where_it_belongs(write):
    four = read_contributions(write("cc_toy_4.npy", size=4))
    eight = read_contributions(write("cc_toy_8.npy", size=8, seed=1))
    one = head_scores([four], shape=(3, 4)).values.ravel()
    np.testing.assert_array_equal(one, four.means)  # the complements have size 8, which is not asked for
    both = head_scores([four, eight], shape=(3, 4)).values.ravel()
    at_4 = (four.sums + eight.outside_sums) / (four.counts + eight.outside_counts)
    at_8 = (eight.sums + four.outside_sums) / (eight.counts + four.outside_counts)
    np.testing.assert_allclose(both, (at_4 + at_8) / 2, rtol=1e-14)


def test_the_shape_must_fit_the_players(write):
    parsed = read_contributions(write(n=24, size=8))
    scores = head_scores([parsed])
    assert scores.values.shape == (3, 8) and scores.provenance["num_kv_heads"] == "8, as in the released code"
    assert head_scores([parsed], shape=(6, 4)).values.shape == (6, 4)
    with pytest.raises(CokvError, match="holds 24 players, expected num_layers x num_kv_heads = 4 x 8"):
        head_scores([parsed], shape=(4, 8))


def test_files_of_two_tasks_are_not_mixed(write):
    files = [read_contributions(write("cc_a_4.npy")), read_contributions(write("cc_b_4.npy"))]
    with pytest.raises(CokvError, match="does not go with"):
        head_scores(files, shape=(3, 4))


BROKEN: dict[str, dict[str, Any]] = {
    "a key less": {"cc_left": None},
    "no array": {"cc_left": [1.0, 2.0]},
    "two axes": {"count_left": np.zeros((13, 2))},
    "other length": {"cc_left": np.zeros(9), "cc_right": np.zeros(9)},
    "NaN": {"cc_left": np.full(13, np.nan)},
    "counts that do not add up": {"count_left": np.zeros(13)},
    "negative counts": {"count_left": np.array([-1.0] * 12 + [0]), "count_right": np.array([41.0] * 12 + [0])},
    "no whole counts": {"count_left": np.array([0.5] * 12 + [0]), "count_right": np.array([39.5] * 12 + [0])},
    "samples 0": {"sampling_count": 0},
    "samples a share": {"sampling_count": 4.5},
    "samples a bool": {"sampling_count": True},
    "last entry used": {"cc_left": np.ones(13)},
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_cannot_come_from_draws_is_refused(write, name):
    with pytest.raises(CokvError) as error:
        read_contributions(write(**BROKEN[name]))
    assert "cc_toy_4.npy" in str(error.value) and "\n" not in str(error.value)


def test_a_player_never_drawn_has_no_mean(write):
    parsed = read_contributions(write(samples=1))
    with pytest.raises(CokvError, match="is in none of the 1 coalitions"):
        head_scores([parsed], "official", (3, 4))


def test_another_profile_is_refused(tmp_path):
    np.save(tmp_path / "curves.npy", np.zeros((99, 2, 2)))
    with pytest.raises(CokvError, match="expected CoKV's dictionary"):
        read_contributions(tmp_path / "curves.npy")


# On the published files


def released(root: Path, task: str, capacity: int, window: int, k_th: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores and budgets as the released set_cokv_size has them, in plain NumPy and Python."""
    summed = np.zeros(257)
    for size in SIZES:
        data = np.load(root / f"cc_{task}_{size}.npy", allow_pickle=True).item()  # files we know
        with np.errstate(invalid="ignore"):
            summed = summed + data["cc_left"] / data["count_left"]
    scores = summed[:256].reshape(32, 8)
    border = sorted(float(score) for row in scores for score in row)[k_th - 1]
    above = [[max(float(score) - border, 0) for score in row] for row in scores]
    whole = sum(score for row in above for score in row)
    total = (capacity - window) * 32 * 8
    return scores, np.array([[int(score / whole * total) + window for score in row] for row in above])


@pytest.fixture
def groups(data_files: list[Path]) -> dict[str, list[Contributions]]:
    files = [read_contributions(path) for path in data_files]
    return {task: [one for one in files if one.task == task] for task in ("hotpotqa", "qasper")}


def test_published_files_say_their_sizes_and_none_is_a_copy(data_files):
    files = [read_contributions(path) for path in data_files]
    assert remarks(files) == []
    assert all(one.size == one.stated_size for one in files)
    assert {one.size for one in files if one.task == "qasper"} == set(SIZES)
    means = {one.file: one.means for one in files}
    for path in data_files:
        data = np.load(path, allow_pickle=True).item()
        np.testing.assert_array_equal(means[path.name], (data["cc_left"][:-1] / data["count_left"][:-1]))


@pytest.mark.parametrize("task", ["hotpotqa", "qasper"])
@pytest.mark.parametrize("k_th", [1, 5, 10, 15, 20, 30, 40])
def test_official_budgets_are_those_of_the_released_formula(groups, published, task, k_th):
    scores = head_scores(groups[task], "official")
    for capacity, window in ((64, 8), (128, 8), (128, 32), (512, 8), (1024, 8)):
        theirs, budgets = released(published / "cokv_scores", task, capacity, window, k_th)
        np.testing.assert_allclose(scores.values, theirs, rtol=1e-14)
        blank = [torch.zeros(8, 1)] * 32
        ours = CoKV(alpha=k_th, exact=False).budgets(blank, capacity * 256, 10**6, window, scores)
        np.testing.assert_array_equal(ours.values, budgets)
        assert 0 < capacity * 256 - ours.total < 256, "flooring loses less than a slot per head"
        exact = CoKV(alpha=k_th).budgets(blank, capacity * 256, 10**6, window, scores)
        assert exact.total == capacity * 256
        assert set(np.unique(exact.values - budgets)) == {0, 1}, "the same shares, and what flooring lost"


def test_the_qwen_file_holds_one_size_of_512_heads(data_files):
    (parsed,) = (read_contributions(path) for path in data_files if "qwen3" in path.name)
    scores = head_scores([parsed], shape=(64, 8))
    both = (parsed.sums + parsed.outside_sums) / (parsed.counts + parsed.outside_counts)
    np.testing.assert_allclose(scores.values.ravel(), both, rtol=1e-14)  # 256 of 512: each side is of that size
