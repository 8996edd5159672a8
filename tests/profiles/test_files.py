"""HeadKV's, DuoAttention's and LU-KV's published files: read as published, refused in one line where they are not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cokv.profiles.duo_file import read_duo
from cokv.profiles.headkv_file import read_headkv
from cokv.profiles.load import read_published
from cokv.profiles.lukv_file import RatioCurves, read_lukv
from cokv.types import CokvError, HeadScores

LLAMA = "Meta-Llama-3-8B-Instruct_retrieval_reasoning_heads.json"
DUO = "Llama-3-8B-Instruct-Gradient-1048k.tsv"


def one_line(error: pytest.ExceptionInfo[CokvError]) -> bool:
    return "\n" not in str(error.value) and len(str(error.value)) < 400


# HeadKV


def headkv(tmp_path: Path, value: object) -> Path:
    path = tmp_path / "heads.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_query_heads_that_share_a_kv_head_are_averaged(tmp_path):
    path = headkv(tmp_path, {f"{layer}-{head}": [layer, head] for layer in range(2) for head in range(4)})
    per_query = read_headkv(path)
    np.testing.assert_array_equal(per_query.values, [[0, 0.5, 1, 1.5], [0.5, 1, 1.5, 2]])
    assert per_query.provenance["reduction"] == "none: per query head"
    reduced = read_headkv(path, (2, 2))
    np.testing.assert_array_equal(reduced.values, [[0.25, 1.25], [0.75, 1.75]])
    assert reduced.provenance["reduction"] == "mean over groups of 2 query heads"
    assert reduced.provenance["query_heads"] == [2, 4]
    np.testing.assert_array_equal(read_headkv(path, (2, 1)).values, [[0.75], [1.25]])


def test_the_place_of_a_head_is_its_key_not_its_line(tmp_path):
    forward = read_headkv(headkv(tmp_path, {"0-0": [1], "0-1": [2], "1-0": [3], "1-1": [4]}))
    backward = read_headkv(headkv(tmp_path, {"1-1": [4], "1-0": [3], "0-1": [2], "0-0": [1]}))
    np.testing.assert_array_equal(forward.values, backward.values)


@pytest.mark.parametrize("shape", [(3, 2), (2, 3), (4, 2), (2, 8)])
def test_a_shape_that_does_not_fit_is_refused(tmp_path, shape):
    path = headkv(tmp_path, {f"{layer}-{head}": [1] for layer in range(2) for head in range(4)})
    with pytest.raises(CokvError, match=r"heads\.json: holds 2 layers x 4 query heads"):
        read_headkv(path, shape)


@pytest.mark.parametrize(
    "value",
    [
        "", "[", "[]", "{}", "3", '{"0-0": 1}', '{"0-0": []}', '{"0-0": ["1"]}', '{"0-0": [true]}', '{"0-0": [NaN]}',
        '{"0-0": [Infinity]}', '{"0-0": [1], "0-0": [2]}', '{"0-0": [1], "0-2": [1]}', '{"0-0": [1], "0-1": [1, 2]}',
        '{"00-0": [1]}', '{"-1-0": [1]}', '{"0-0-0": [1]}', '{"99999-0": [1]}', '{"0-0": [1e999]}', "[" * 100_000,
        '{"0-0": ' + "[" * 100_000, "\ufeff{}", '{"0-0": [1' + "0" * 400 + "]}", '{"0-0": [' + "9" * 5000 + "]}",
    ],
)  # fmt: skip
def test_other_json_is_refused_in_one_line(tmp_path, value):
    with pytest.raises(CokvError) as error:
        read_headkv(headkv(tmp_path, value))
    assert one_line(error)


def test_published_headkv_scores(published):
    path = published / "headkv_scores" / LLAMA
    raw = json.loads(path.read_text())
    profile = read_headkv(path, (32, 8))
    for layer, head in np.ndindex(32, 8):
        group = [np.mean(raw[f"{layer}-{4 * head + k}"]) for k in range(4)]
        assert profile.values[layer, head] == pytest.approx(np.mean(group), rel=1e-13)
    assert list(raw) == [f"{layer}-{head}" for layer in range(32) for head in range(32)]  # as released code assumes
    assert profile.provenance["needles"] == 74
    assert read_headkv(path).values.shape == (32, 32)


# DuoAttention


def duo(tmp_path: Path, table: str, config: object = None) -> Path:
    path = tmp_path / "pattern.tsv"
    path.write_text(table)
    content = {"sink_size": 4, "recent_size": 16} if config is None else config
    (tmp_path / "pattern.config.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_gates_are_clipped_and_sizes_come_from_the_config(tmp_path):
    profile = read_duo(duo(tmp_path, "0.5\t-0.1\n1.25\t1e-3\n"))
    np.testing.assert_array_equal(profile.gates, [[0.5, 0], [1, 0.001]])
    assert (profile.sink_size, profile.recent_size) == (4, 16)
    assert profile.scores().provenance["recent_size"] == 16


def test_the_config_may_lie_beside_the_table_under_either_name_or_be_given(tmp_path):
    path = duo(tmp_path, "1\t0\n")
    (tmp_path / "pattern.config.json").rename(tmp_path / "config.json")
    assert read_duo(path).sink_size == 4
    (tmp_path / "config.json").rename(tmp_path / "other.json")
    with pytest.raises(CokvError, match=r"no pattern\.config\.json or config\.json beside it"):
        read_duo(path)
    assert read_duo(path, tmp_path / "other.json").sink_size == 4


@pytest.mark.parametrize("sparsity", [0, 0.1, 0.25, 0.5, 0.75, 0.9, 1])
def test_without_ties_the_retrieval_heads_are_those_at_the_quantile(tmp_path, sparsity):
    gates = np.random.default_rng(0).permutation(64).reshape(8, 8) / 64
    path = duo(tmp_path, "\n".join("\t".join(map(repr, row)) for row in gates.tolist()))
    at_quantile = gates >= (2 if sparsity == 1 else np.quantile(gates, sparsity))
    np.testing.assert_array_equal(read_duo(path).retrieval_heads(sparsity), at_quantile)


def test_tied_gates_go_to_the_lower_head(tmp_path):
    profile = read_duo(duo(tmp_path, "1\t1\n1\t1\n"))
    np.testing.assert_array_equal(profile.retrieval_heads(0.5), [[True, True], [False, False]])
    assert profile.retrieval_heads(0).all() and not profile.retrieval_heads(1).any()
    with pytest.raises(CokvError, match="expected the share of streaming heads"):
        profile.retrieval_heads(1.5)


@pytest.mark.parametrize("table", ["", "\n", "a\tb", "1\t2\n3", "nan\t1", "inf\t1", "1 2", "1\t\t2", "\x00"])
def test_other_tables_are_refused(tmp_path, table):
    with pytest.raises(CokvError) as error:
        read_duo(duo(tmp_path, table))
    assert one_line(error) and "pattern.tsv" in str(error.value)


@pytest.mark.parametrize(
    "config", ["", "[]", {"sink_size": 4}, {"sink_size": -1, "recent_size": 1}, {"sink_size": 1.5}]
)
def test_other_configs_are_refused(tmp_path, config):
    with pytest.raises(CokvError) as error:
        read_duo(duo(tmp_path, "1\t0", config))
    assert one_line(error) and "pattern.config.json" in str(error.value)


def test_published_duo_masks_are_those_of_the_released_rule(published):
    path = published / "duo_patterns" / DUO
    profile = read_duo(path, shape=(32, 8))
    assert (profile.sink_size, profile.recent_size) == (128, 256)
    gates = np.clip(np.loadtxt(path, delimiter="\t"), 0, 1)
    np.testing.assert_array_equal(profile.gates, gates)
    for sparsity in (0.25, 0.5, 0.6, 0.75, 0.9):
        ours = profile.retrieval_heads(sparsity)
        for seed in range(5):
            noisy = gates + np.random.default_rng(seed).uniform(0, 1e-6, gates.shape)
            edge = np.quantile(noisy, sparsity)
            theirs = noisy >= edge
            assert theirs.sum() == ours.sum()
            np.testing.assert_array_less(np.abs(gates - edge)[theirs != ours], 2e-6)  # ties, broken another way
    with pytest.raises(CokvError, match="gates of 32 layers x 8 KV heads, expected 32 x 32"):
        read_duo(path, shape=(32, 32))


# LU-KV


def curves(seed: int = 0, layers: int = 3, heads: int = 2) -> np.ndarray:
    """Rising shares of 0..1, each head its own power of the global ratio."""
    powers = np.random.default_rng(seed).uniform(0.3, 3, (layers, heads))
    return (np.arange(1, 100)[:, None, None] / 100) ** powers


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2"])
def test_curves_are_read_and_looked_up(tmp_path, dtype):
    content = curves().astype(dtype)
    np.save(tmp_path / "curves.npy", content)
    profile = read_lukv(tmp_path / "curves.npy", (3, 2))
    dropped = content.astype("f8")
    np.testing.assert_array_equal(profile.at(0.20), 1 - dropped[79])
    np.testing.assert_allclose(profile.at(0.205), 1 - (dropped[78] + dropped[79]) / 2, rtol=1e-6)
    assert not profile.at(0).any() and (profile.at(1) == 1).all()
    with pytest.raises(CokvError, match="0 to 1"):
        profile.at(1.2)


@pytest.mark.parametrize("compression_ratio", [0.01, 0.2, 0.5, 0.75, 0.9, 0.99])
def test_a_published_file_means_what_the_released_code_takes_it_for(tmp_path, compression_ratio):
    """kvpress 0.5.5, presses/lukv_press.py, drops the share in line round(100 * ratio) - 1."""
    np.save(tmp_path / "curves.npy", curves())
    line = round(compression_ratio * 100) - 1
    kept = (1.0 - np.load(tmp_path / "curves.npy")[max(0, min(98, line))]).clip(0, 1)
    np.testing.assert_allclose(read_lukv(tmp_path / "curves.npy").at(1 - compression_ratio), kept, atol=1e-12)


def test_the_released_solver_s_table_is_read_as_the_slots_it_kept(tmp_path):
    """baidu-baige/LU-KV, evaluation/curve_data/step2_compute_curve.py: after t percent are gone, 1 - kept / length."""
    length, greedy_head, frugal_head = 100, 3.0, 1.0
    worth = np.array([[greedy_head], [frugal_head]]) / np.arange(1, length + 1)  # falling: hulls change nothing
    order = np.argsort(-worth.ravel(), kind="stable")
    table = np.empty((99, 1, 2))
    for percent in range(1, 100):
        kept = np.bincount(order[: 2 * length - 2 * percent] // length, minlength=2)
        table[percent - 1, 0] = 1 - kept / length
    np.save(tmp_path / "curves.npy", table)
    profile = read_lukv(tmp_path / "curves.npy").budgets(40, length).values
    np.testing.assert_array_equal(profile[0], np.bincount(order[:40] // length, minlength=2))
    assert profile[0, 0] > profile[0, 1], "the head whose tokens are worth more keeps more"


def test_our_own_curves_are_written_and_read(tmp_path):
    content = RatioCurves(curves(), {"kind": "LU-KV keep-ratio curves", "prompts": 3})
    content.save(tmp_path / "curves.safetensors")
    profile = RatioCurves.load(tmp_path / "curves.safetensors")
    np.testing.assert_array_equal(profile.values, content.values)
    assert profile.provenance == content.provenance
    assert isinstance(read_published(tmp_path / "curves.safetensors", (3, 2)), RatioCurves)
    HeadScores(np.ones((3, 2))).save(tmp_path / "scores.safetensors")
    assert isinstance(read_published(tmp_path / "scores.safetensors", (3, 2)), HeadScores)
    with pytest.raises(CokvError, match="4 x 2"):
        read_published(tmp_path / "curves.safetensors", (4, 2))


@pytest.mark.parametrize("kv_budget", [8, 20, 64, 200, 1000])
def test_budgets_from_curves_add_up_and_follow_them(kv_budget):
    profile = RatioCurves(curves())
    budgets = profile.budgets(kv_budget * 6, 1000, reserved=8)
    assert budgets.total == kv_budget * 6
    assert budgets.values.min() >= 8 and budgets.values.max() <= 1000
    shares = profile.at(kv_budget / 1000)
    order = np.argsort(shares, axis=None)
    assert (np.diff(budgets.values.ravel()[order]) >= 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c[:98], "expected \\[99, num_layers, num_kv_heads\\]"),
        (lambda c: c[:, 0], "expected \\[99, num_layers, num_kv_heads\\]"),
        (lambda c: c * 1.1, "leave 0..1"),
        (lambda c: c - 0.1, "leave 0..1"),
        (lambda c: np.where(c > 0.5, np.nan, c), "leave 0..1"),
        (lambda c: c[::-1], "falls between"),
        (lambda c: {"curves": c}, "holds a dict, expected an array"),
        (lambda c: c > 0.5, None),
    ],
)
def test_other_curves_are_refused(tmp_path, change, message):
    np.save(tmp_path / "curves.npy", change(curves()))
    if message is None:  # all or nothing is a curve too
        assert read_lukv(tmp_path / "curves.npy").values.max() == 1
        return
    with pytest.raises(CokvError, match=message) as error:
        read_lukv(tmp_path / "curves.npy")
    assert one_line(error)
    with pytest.raises(CokvError, match=r"expected 4 x 2; use those of this model"):
        np.save(tmp_path / "curves.npy", curves())
        read_lukv(tmp_path / "curves.npy", (4, 2))
