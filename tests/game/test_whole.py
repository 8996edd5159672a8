"""Whole games: every coalition once, resumed where they stopped, read back as a table; and what is reported of them."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from worlds.planted import planted_game, planted_model, planted_prompts
from worlds.role_games import everything, everything_by_question
from worlds.toy import interactions
from worlds.whole import WholeGame, evaluate_whole, in_blocks

from cokv.game.exact import all_coalitions, exact_shapley
from cokv.game.ledger import Ledger
from cokv.types import CokvError
from reports.errors import ReportError
from reports.estimator_plot import estimator_figure
from reports.style import save

ROOT = Path(__file__).parents[2]
N = 6
TOY = interactions(N, seed=2)


def two_prompts(coalitions):
    return np.stack([TOY(coalitions), TOY(coalitions) ** 2], axis=1)


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "whole.sqlite") as opened:
        yield opened


def load(name, monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    for module in ("curves", "claims", "exact_game", "estimators"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return importlib.import_module(name)


# ---- recording


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_blocks_hold_every_coalition_once(size):
    rows = np.concatenate(list(in_blocks(N, size)))
    assert len(rows) == len(np.unique(rows, axis=0)) == 2**N
    assert not rows[0].any() and list(rows[1]) == [False] * (N - 1) + [True], "the last player changes fastest"


def test_a_whole_game_is_the_game(ledger):
    recorded = ledger.game("toy", {}, N, 2)
    assert evaluate_whole(two_prompts, recorded, block_size=10) == 2**N
    whole = WholeGame.of(recorded)
    np.testing.assert_allclose(whole.per_prompt, two_prompts(all_coalitions(N)), atol=1e-12)
    rows = np.random.default_rng(0).random((50, N)) < 0.5
    np.testing.assert_allclose(whole(rows), two_prompts(rows).mean(axis=1), atol=1e-12)
    np.testing.assert_allclose(whole.prompts([0])(rows), TOY(rows), atol=1e-12)
    np.testing.assert_allclose(exact_shapley(whole.prompts([0]), N), TOY.shapley, atol=1e-12)


def test_a_stopped_game_goes_on_where_it_was(ledger):
    evaluated = []

    def counted(coalitions):
        evaluated.extend(row.tobytes() for row in coalitions)
        return two_prompts(coalitions)

    recorded = ledger.game("toy", {}, N, 2)
    assert evaluate_whole(counted, recorded, 10, lambda known, total: known < 20) == 20
    assert len(recorded) == 20
    with pytest.raises(CokvError, match="20 of 64 coalitions, expected all; evaluate the other 44"):
        WholeGame.of(recorded)
    again = ledger.game("toy", {}, N, 2)
    assert evaluate_whole(counted, again, 10) == 64
    assert len(evaluated) == len(set(evaluated)) == 64


def test_a_block_known_in_part_is_evaluated_whole_and_its_record_kept(ledger):
    recorded = ledger.game("toy", {}, N, 2)
    first = next(in_blocks(N, 8))
    recorded.record(first[:3], two_prompts(first[:3]))
    sizes = []

    def counted(coalitions):
        sizes.append(len(coalitions))
        return two_prompts(coalitions)

    evaluate_whole(counted, recorded, 8)
    assert sizes == [8] * 8


def test_parts_share_the_work(ledger):
    recorded = ledger.game("toy", {}, N, 2)
    assert evaluate_whole(two_prompts, recorded, 10, part=(1, 2)) == 30  # blocks 1, 3, 5 of 7
    other = ledger.game("toy", {}, N, 2)
    assert evaluate_whole(two_prompts, other, 10, part=(0, 2)) == 64
    WholeGame.of(ledger.games()[0])


def test_an_empty_block_is_refused(ledger):
    with pytest.raises(CokvError, match="block_size = 0"):
        evaluate_whole(two_prompts, ledger.game("toy", {}, N, 2), 0)


# ---- the benchmark: evaluate and report


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random model of 2 x 2 KV heads with the embedded tokenizer."""
    model_folder = tmp_path_factory.mktemp("model")
    config = LlamaConfig(
        vocab_size=1024,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
    )
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(model_folder)
    torch.random.set_rng_state(state)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ROOT / "cokv" / "embedded" / "weights" / file, model_folder)
    return model_folder


def test_a_real_game_is_evaluated_in_parts_and_reported(folder, tmp_path, monkeypatch, capsys):
    exact_game = load("exact_game", monkeypatch)
    model = ["--model", str(folder), "--length", "256", "--prompts", "1", "--block", "4"]
    assert exact_game.main(["cost", *model]) > 0
    evaluate = ["evaluate", *model, "--out", str(tmp_path)]
    exact_game.main([*evaluate, "--minutes", "0"])
    with Ledger(tmp_path / "whole.sqlite") as opened:
        assert len(opened.games()[0]) == 4
    with pytest.raises(SystemExit, match="4 of 16 coalitions"):
        exact_game.main(["report", "--out", str(tmp_path)])
    exact_game.main(evaluate)
    assert "complete" in capsys.readouterr().out
    out = ["--json", str(tmp_path / "real.json"), "--figures", str(tmp_path), "--seeds", "2"]
    record = exact_game.main(["report", "--out", str(tmp_path), *out])
    assert record["games"][0]["identity"]["task"] == "niah_multikey_1"
    with pytest.raises(SystemExit):
        exact_game.main([*evaluate, "--part", "2/2"])
    assert "expected I/K" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="seed is 7, in this run 8"):
        exact_game.main([*evaluate, "--seed", "8"])


def test_the_report_of_the_planted_game_says_what_is_planted(tmp_path, monkeypatch):
    game = planted_game(planted_model(), planted_prompts(1, seed=0))
    with Ledger(tmp_path / "whole.sqlite") as opened:
        evaluate_whole(game.per_prompt, opened.game("planted", {}, 8, 4))
    exact_game = load("exact_game", monkeypatch)
    record = exact_game.main(
        f"report --out {tmp_path} --json {tmp_path / 'planted.json'} --figures {tmp_path} --seeds 3".split()
    )
    assert json.loads((tmp_path / "planted.json").read_text()) == record
    (result,) = record["games"]
    np.testing.assert_allclose(result["scores"]["shapley"], exact_shapley(everything(), 8), atol=1e-12)
    assert result["utility_of_all"] == 0.75 and result["utility_of_none"] == 0
    assert result["heads"] == {
        "worth_more_than_half_a_share": 5,
        "of_these_not_seen_by_leave_one_out": 2,
        "of_these_not_seen_alone": 2,
        "harmful": 1,
        "harmful_seen_by_leave_one_out": 1,
    }
    agreement = result["agreement_with_shapley"]
    assert agreement["shapley"] == pytest.approx({"same_sign": 1.0, "same_order": 1.0, "spearman": 1.0})
    assert agreement["sliced"]["same_order"] == 1.0 > agreement["leave_one_out"]["same_order"]
    assert result["mean_level"]["sliced, size 2 only"] < 0
    single = np.array(result["prompts"]["shapley"])
    one = exact_shapley(lambda s: everything_by_question(s)[:, 1], 8)
    np.testing.assert_allclose(single[1], one, atol=1e-12)
    assert {row["estimator"] for row in record["rows"]} >= {"SSV", "SSV, adjusted", "leave one out"}
    for end in ("png", "svg"):
        assert (tmp_path / f"planted.{end}").stat().st_size > 1000


# ---- the curves


def test_curves_fall_to_the_exact_values(monkeypatch):
    curves = load("curves", monkeypatch)
    rows = curves.measure("toy", TOY, N, seeds=4)
    by_kind = {}
    for row in rows:
        by_kind.setdefault(row["estimator"], []).append(row)
    assert by_kind["leave one out"][0]["evaluations"] == N + 1
    for kind in ("SSV", "SSV, balanced", "SSV, adjusted", "permutations, antithetic"):
        errors = [row["error_own_target"] for row in by_kind[kind]]
        assert errors[-1] <= errors[0], kind
    assert all(row["evaluations"] <= 2**N for row in rows)


def test_nested_sizes_lie_inside_each_other_and_are_unbiased(monkeypatch):
    curves = load("curves", monkeypatch)
    estimator = curves.Nested((2, 4), 5)
    drawn = estimator.plan(N, seed=0).coalitions[0::2].reshape(5, 2, N)
    assert np.all(drawn.sum(axis=2) == [2, 4]) and np.all(drawn[:, 1] | ~drawn[:, 0])
    runs = np.array([curves.Nested((2, 4), 12).estimate(TOY, N, seed).values for seed in range(300)])
    error = runs.std(axis=0, ddof=1) / np.sqrt(len(runs))
    assert np.all(np.abs(runs.mean(axis=0) - curves.target(estimator, TOY, N)) < 4.5 * error)


def test_evaluations_needed_are_interpolated_and_absent_where_never_met(monkeypatch):
    curves = load("curves", monkeypatch)
    row = {"game": "g", "estimator": "e"}
    rows = [
        row | {"evaluations": 50, "reliability_of_two": 0.7},
        row | {"evaluations": 200, "reliability_of_two": 0.9},
        {"game": "g", "estimator": "quick", "evaluations": 10, "reliability_of_two": 0.97},
        {"game": "g", "estimator": "leave one out", "evaluations": 7},
    ]
    result = curves.evaluations_needed(rows)
    of_estimator = {one["reliability"]: one for one in result if one["estimator"] == "e"}
    assert (
        of_estimator[0.8]["evaluations"] == 200 and of_estimator[0.9]["evaluations"] == 400 and 0.95 not in of_estimator
    )
    assert all(one["at_most"] and one["evaluations"] == 20 for one in result if one["estimator"] == "quick")
    assert "more" in curves.needed_table(result)


def test_recorded_games_are_compared_without_a_model(tmp_path, monkeypatch, capsys):
    with Ledger(tmp_path / "toy.sqlite") as opened:
        evaluate_whole(two_prompts, opened.game("toy", {}, N, 2))
    estimators = load("estimators", monkeypatch)
    out = tmp_path / "out.json"
    estimators.main(["--game", str(tmp_path / "toy.sqlite"), "--seeds", "2", "--out", str(out)])
    record = json.loads(out.read_text())
    assert record["games"] == [{"name": "toy", "num_players": N, "slice_sizes": [1, 2, 3]}]
    assert "toy" in capsys.readouterr().out and record["rows"]
    with pytest.raises(SystemExit, match="no such file"):
        estimators.main(["--game", str(tmp_path / "none.sqlite")])


# ---- the figure


def test_the_same_rows_give_the_same_files(tmp_path):
    row = {"game": "toy", "error_own_target": 0.1, "spearman": 0.9, "agreement": 0.8}
    rows = [row | {"estimator": name, "evaluations": cost} for name in ("SSV", "a new one") for cost in (32, 64)]
    rows.append({"game": "large", "estimator": "leave one out", "evaluations": 17, "error_own_target": 0.0})
    first, second = (save(estimator_figure(rows), tmp_path / name, "figure", "svg") for name in ("a", "b"))
    assert [path.suffix for path in first] == [".png", ".svg"]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_a_measure_that_no_row_has_gets_no_panel():
    row = {"game": "large", "estimator": "SSV", "evaluations": 512, "spearman": 0.9}
    assert len(estimator_figure([row]).axes) == 1
    with pytest.raises(ReportError, match="no rows of estimators"):
        estimator_figure([])
