"""Attention by place is what was planted, shares sum to 1, and the embedded model's heads look behind the answer."""

import json
from dataclasses import replace

import pytest
import torch

from cokv.model.loading import load_model
from cokv.model.observe import LayerView, ModelParts
from reports.attention_plot import offset_figure
from suite.embedded.answer_attention import PARTS, REACH, RECENT, AttentionByPlace, attention_rows, copied_answer
from suite.embedded.needed_places import right_without
from suite.embedded.where_heads_look import drawn_heads, main, needles_of

SEQ_LEN, GROUP, SURE = 90, 2, 40.0  # SURE: a logit that leaves nothing to the others


def view(targets: dict[int, list[list[int]]]) -> LayerView:
    """A layer where, by query position, each KV head attends some positions alike. Other queries attend evenly."""
    heads = len(next(iter(targets.values())))
    queries = torch.zeros(heads * GROUP, SEQ_LEN, SEQ_LEN)
    for query, by_head in targets.items():
        for head, positions in enumerate(by_head):
            queries[head * GROUP : (head + 1) * GROUP, query, positions] = SURE
    keys = torch.eye(SEQ_LEN).repeat(heads, 1, 1)  # position p's key is answered by dimension p of a query
    return LayerView(0, None, queries, keys, keys, 1.0, ModelParts(None))


def test_what_is_planted_is_found():
    """One head looks 4 behind the emitted token, one at the first token and 2 back, one in the void between."""
    places, queries = (40, 41, 42), (80, 81, 82)
    planted = {
        query: [[place + 4], [0, query - 2], [20]] for query, place in zip(queries, places, strict=True)
    }  # 20 is neither near, nor first, nor last
    by_offset, by_distance, sentence, parts = AttentionByPlace(queries, places, (38, 45)).observe(view(planted))
    assert by_offset[0].argmax() == REACH + 4 and by_offset[0].max() == pytest.approx(1)
    assert by_distance[1].tolist() == pytest.approx([0.5 * (back == 2) for back in range(RECENT)], abs=1e-6)
    assert sentence[:, 0].tolist() == pytest.approx([1 / 3, 0, 0], abs=1e-6), "44 is inside, 45 and 46 are behind"
    expected = {"near": [1, 0, 0], "first": [0, 0.5, 0], "last": [0, 0.5, 0], "rest": [0, 0, 1]}
    for number, part in enumerate(PARTS):
        assert parts[:, number].tolist() == pytest.approx(expected[part], abs=1e-6), part


def test_query_heads_and_steps_are_averaged():
    layer = view({80: [[45]], 81: [[42]]})
    queries = layer.queries.clone()
    queries[1, 80] = 0
    queries[1, 80, 40] = SURE  # the other query head of the first step looks at the emitted token
    by_offset = AttentionByPlace((80, 81), (40, 41), (0, 1)).observe(replace(layer, queries=queries))[0]
    assert {place - REACH: round(float(share), 4) for place, share in enumerate(by_offset[0]) if share > 1e-6} == {
        0: 0.25,
        1: 0.5,
        5: 0.25,
    }


@pytest.mark.parametrize("places", [(0, 1), (40, 41), (78, 79)], ids=["first", "middle", "last"])
def test_shares_sum_to_one_wherever_the_needle_is(places):
    generator = torch.Generator().manual_seed(0)
    queries, keys = (torch.randn(heads, SEQ_LEN, 8, generator=generator) for heads in (4, 2))
    layer = LayerView(0, None, queries, keys, keys, 1.0, ModelParts(None))
    by_offset, by_distance, sentence, parts = AttentionByPlace((80, 81), places, (0, 82)).observe(layer)
    assert parts.sum(dim=1).tolist() == pytest.approx([1, 1])
    assert by_offset.sum(dim=1).tolist() == pytest.approx(parts[:, 0].tolist())
    assert sentence[:, 0].tolist() == pytest.approx([1, 1])
    assert (by_distance.sum(dim=1) < 1).all()


@pytest.fixture(scope="module")
def loaded():
    return load_model()


def test_the_embedded_heads_look_ten_tokens_behind_and_need_that_alone(loaded):
    [answer] = [copied_answer(loaded, needle) for task, needle in needles_of(loaded, 512, 1) if task == "niah_single_2"]
    needle = answer.needle
    assert needle.prompt.read[answer.places].tolist() == answer.tokens
    assert copied_answer(loaded, replace(needle, right=lambda tokens: False)) is None
    last = attention_rows(loaded, [answer])[-loaded.shape.num_kv_heads :]
    assert {row["peak"]["offset"] for row in last} == {10} and min(row["peak"]["share"] for row in last) > 0.5
    assert right_without(loaded, [answer], 0, range(4))["right"] == 1, "the value's own places are not needed"
    assert right_without(loaded, [answer], 10, [3])["right"] == 0


def test_the_figure_shows_the_reading_layer_and_other_peaks():
    by_offset = [0.0] * (2 * REACH + 1)
    rows = [
        {"layer": layer, "kv_head": 0, "by_offset": by_offset, "peak": {"offset": 0, "share": share}}
        for layer, share in enumerate((0.02, 0.2, 0.9))
    ]
    rows.append({**rows[2], "kv_head": 1, "peak": {"offset": 0, "share": 0.0}})
    drawn = drawn_heads(rows)
    assert [(row["layer"], row["kv_head"]) for row in drawn] == [(1, 0), (2, 0), (2, 1)]
    axes = offset_figure(drawn, range(-REACH, REACH + 1)).axes
    assert [axis.get_title() for axis in axes] == [f"Layer {a}, KV head {b}" for a, b in ((1, 0), (2, 0), (2, 1))]


@pytest.mark.slow
def test_the_command_prints_its_table_and_writes_the_figure(tmp_path, capsys):
    main(["--samples", "1", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "3 of 3 needles answered right" in printed and "read places: +10 from the emitted tokens" in printed
    assert printed.count("│     3 │") == 4, "a row per KV head"
    assert {path.name for path in tmp_path.iterdir()} == {f"where_heads_look.{end}" for end in ("json", "png", "svg")}
    record = json.loads((tmp_path / "where_heads_look.json").read_text())
    assert record["versions"]["torch"] and "--samples 1" in record["command"]
    assert len(record["heads"]) == 16 and len(record["heads"][0]["by_offset"]) == len(record["offsets"])
    for row in record["heads"]:
        assert sum(row["parts"].values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "words"), [(["--model", "no/such"], "no local folder"), (["--samples", "0"], "at least 1 needle")]
)
def test_a_users_mistake_is_one_line(arguments, words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2 and words in capsys.readouterr().err
