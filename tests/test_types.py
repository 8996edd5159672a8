"""Laws of the vocabulary: what is made is checked, what is saved comes back, what is wrong is one clear line."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cokv.types import Budgets, CokvError, HeadScores, Selection

masks = hnp.arrays(bool, hnp.array_shapes(min_dims=3, max_dims=3, max_side=6))


def one_line(call):
    with pytest.raises(CokvError) as caught:
        call()
    message = str(caught.value)
    assert message and "\n" not in message
    return message


@given(masks)
def test_a_mask_survives_the_way_through_a_selection(mask):
    selection = Selection.from_mask(torch.from_numpy(mask))
    assert np.array_equal(selection.mask().numpy(), mask)
    assert np.array_equal(selection.counts, mask.sum(axis=-1))
    assert selection.total == mask.sum() == selection.budgets.total
    heads = [[selection.head(layer, head) for head in range(mask.shape[1])] for layer in range(mask.shape[0])]
    for layer, head in np.ndindex(mask.shape[:2]):
        assert heads[layer][head].tolist() == np.flatnonzero(mask[layer, head]).tolist()
    assert Selection.from_heads(heads, mask.shape[2]) == selection


def test_the_full_selection_keeps_every_position():
    full = Selection.full(2, 3, 5)
    assert full.mask().all() and full.total == 30 and full.budgets.kv_budget == 5


@given(masks)
def test_a_saved_selection_comes_back(tmp_path_factory, mask):
    path = tmp_path_factory.mktemp("selection") / "kept.safetensors"
    selection = Selection.from_mask(torch.from_numpy(mask))
    selection.save(path)
    assert Selection.load(path) == selection
    assert [p.name for p in path.parent.iterdir()] == [path.name], "saving left something behind"


@given(hnp.arrays(float, (2, 3), elements=st.floats(-1e300, 1e300)))
def test_saved_head_scores_come_back_bit_for_bit_with_their_provenance(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("scores") / "deep" / "ssv.safetensors"
    scores = HeadScores(values, {"utility": "exact match", "sizes": [4, 8], "seed": 0, "note": "ü", "model": None})
    scores.save(path)
    loaded = HeadScores.load(path)
    assert loaded == scores
    assert loaded.provenance == scores.provenance


def test_saved_budgets_come_back(tmp_path):
    Budgets(np.array([[1, 0], [7, 2]])).save(tmp_path / "b")
    assert Budgets.load(tmp_path / "b").values.tolist() == [[1, 0], [7, 2]]


def test_what_was_checked_cannot_be_changed_behind_its_back():
    own_array = np.ones((1, 2))
    scores = HeadScores(own_array)
    own_array[0, 0] = np.nan
    assert scores.values.tolist() == [[1, 1]]
    with pytest.raises(ValueError):
        scores.values[0, 0] = 5


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_head_scores_must_be_finite(bad):
    assert "1 of 4" in one_line(lambda: HeadScores(np.array([[0.0, bad], [1, 2]])))


@pytest.mark.parametrize("values", [np.zeros(4), np.zeros((0, 3)), np.zeros((2, 2, 2))])
def test_head_scores_have_one_row_per_layer(values):
    assert "[num_layers, num_kv_heads]" in one_line(lambda: HeadScores(values))


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        (HeadScores, "a", "type <U1, expected float64"),
        (HeadScores, 1j, "type complex128, expected float64"),
        (Budgets, 1.5, "type float64, expected int64"),
    ],
)
def test_scores_are_real_numbers_and_budgets_whole_ones(kind, value, reason):
    assert reason in one_line(lambda: kind(np.array([[value]])))


def test_head_scores_of_another_model_name_both_shapes():
    message = one_line(lambda: HeadScores(np.zeros((2, 3))).require_shape(4, 5))
    assert "[2, 3]" in message and "[4, 5]" in message


@pytest.mark.parametrize(
    ("provenance", "reason"),
    [({"x": object()}, "is not JSON"), ({"x": float("nan")}, "is not JSON"), ([1], "is a list")],
)
def test_provenance_must_be_json(provenance, reason):
    assert reason in one_line(lambda: HeadScores(np.zeros((1, 1)), provenance))


def test_negative_budgets_are_refused():
    assert "-1" in one_line(lambda: Budgets(np.array([[3, -1]])))


@pytest.mark.parametrize(
    ("positions", "counts", "seq_len", "reason"),
    [
        ([0, 1], [[3]], 4, "[2] positions, expected [3]"),
        ([1, 0], [[2]], 4, "1, 0 in one head, expected ascending"),
        ([1, 1], [[2]], 4, "1, 1 in one head, expected ascending"),
        ([0, 4], [[2]], 4, "0..4, expected 0..3"),
        ([-1, 0], [[2]], 4, "-1..0, expected 0..3"),
        ([0, 1], [[2]], 0, "seq_len is 0"),
        ([0, 1], [[2]], True, "seq_len is True"),
        ([0, 1, 2], [[3, 0]], 2, "counts lie in 0..3, expected 0..2"),
    ],
)
def test_a_selection_that_cannot_be_is_refused(positions, counts, seq_len, reason):
    assert reason in one_line(lambda: Selection(torch.tensor(positions), np.array(counts), seq_len))


def test_order_starts_anew_at_each_head_even_after_empty_ones():
    selection = Selection(torch.tensor([2, 0, 1]), np.array([[0, 1, 0], [0, 2, 0]]), 3)
    assert selection.head(0, 1).tolist() == [2] and selection.head(1, 1).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Selection(torch.tensor([0.0]), np.array([[1]]), 2), "torch.float32 on cpu, expected an int64"),
        (lambda: Selection(torch.tensor([0], dtype=torch.int32), np.array([[1]]), 2), "torch.int32 on cpu"),
        (lambda: Selection([0], np.array([[1]]), 2), "positions are list"),
        (lambda: Selection.from_mask(torch.ones(2, 2, 2)), "mask is torch.float32"),
        (lambda: Selection.from_heads([[torch.tensor([0])], []], 2), "layers list [0, 1] heads"),
    ],
)
def test_positions_are_whole_numbers_on_the_cpu_alike_in_every_layer(make, reason):
    assert reason in one_line(make)


def test_a_head_that_is_not_there_is_named():
    assert "kv_head 2" in one_line(lambda: Selection.full(1, 2, 3).head(0, 2))
    assert "layer -1" in one_line(lambda: Selection.full(1, 2, 3).head(-1, 0))


@pytest.mark.parametrize("kind", [HeadScores, Budgets, Selection])
def test_a_missing_or_damaged_or_foreign_file_is_one_line_that_names_it(tmp_path, kind):
    path = tmp_path / "file.safetensors"
    assert "no such file" in one_line(lambda: kind.load(path))
    assert "no such file" in one_line(lambda: kind.load(tmp_path))
    path.write_bytes(b"not a safetensors file")
    assert str(path) in one_line(lambda: kind.load(path))
    path.write_bytes(b"")
    assert "it is damaged" in one_line(lambda: kind.load(path))
    objects = {
        HeadScores: HeadScores(np.zeros((2, 3))),
        Budgets: Budgets(np.zeros((2, 3), dtype=int)),
        Selection: Selection.full(2, 3, 50),
    }
    objects[kind].save(path)
    whole = path.read_bytes()
    for cut in (4, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert str(path) in one_line(lambda: kind.load(path))
    objects[Budgets if kind is not Budgets else HeadScores].save(path)
    assert "expected cokv." in one_line(lambda: kind.load(path))


def test_a_file_whose_numbers_break_the_rules_is_refused(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "x"
    save_file(
        {"values": torch.tensor([[float("nan")]]).double()}, path, {"kind": "cokv.head_scores", "provenance": "{}"}
    )
    assert str(path) in one_line(lambda: HeadScores.load(path))
    save_file({"values": torch.zeros(1, 1)}, path, {"kind": "cokv.head_scores", "provenance": "{}"})
    assert "float64" in one_line(lambda: HeadScores.load(path))
    save_file({"values": torch.zeros(1, 1).double()}, path, {"kind": "cokv.head_scores", "provenance": "{"})
    assert "it is damaged" in one_line(lambda: HeadScores.load(path))
    bad = {"positions": torch.tensor([5]), "counts": torch.tensor([[1]])}
    for seq_len in ("3", '"three"', "null"):
        save_file(bad, path, {"kind": "cokv.selection", "seq_len": seq_len})
        assert str(path) in one_line(lambda: Selection.load(path))


def test_a_file_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "plain").write_text("a file, not a folder")
    assert "cannot be written" in one_line(lambda: HeadScores(np.zeros((1, 1))).save(tmp_path / "plain" / "scores"))
