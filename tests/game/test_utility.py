"""The game over KV heads: who is in a coalition keeps the prompt, and utility is the judged answer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from cokv.decode import Row, Stop, decode
from cokv.game.utility import GamePrompt, HeadGame, coalition_selection
from cokv.prefill import prefill
from cokv.types import CokvError, Selection

MakeModel = Callable[..., PreTrainedModel]
Prompt = Callable[..., torch.Tensor]
NEW = 12


def agreement(reference: list[int]) -> Callable[[list[int]], float]:
    """Share of a fixed answer's tokens that are found in an answer."""
    return lambda tokens: len(set(tokens) & set(reference)) / len(set(reference))


@pytest.fixture(params=["mha", "gqa", "mqa"])
def game(request: pytest.FixtureRequest, make_model: MakeModel, prompt: Prompt) -> HeadGame:
    model = make_model("llama", request.param)
    prompts = []
    for seed, length in enumerate([40, 55]):
        ids = prompt(length, seed)
        full = model.generate(ids[None], max_new_tokens=NEW, do_sample=False)[0, length:].tolist()
        prompts.append(GamePrompt(prefill(model, ids), Stop(NEW), agreement(full)))
    return HeadGame(model, prompts, window_size=4)


def random_coalitions(game: HeadGame, count: int) -> np.ndarray:
    return np.random.default_rng(0).random((count, game.num_players)) < 0.5


def test_the_grand_coalition_is_full_generation(game: HeadGame) -> None:
    grand = np.ones((1, game.num_players), dtype=bool)
    assert game.per_prompt(grand).tolist() == [[1.0, 1.0]]
    assert game(grand).tolist() == [1.0]


def test_the_empty_coalition_keeps_only_the_window(game: HeadGame) -> None:
    prompt = game.prompts[0]
    empty = coalition_selection(np.zeros(game.num_players, dtype=bool), prompt.prefill, 4)
    shape = prompt.prefill.shape.num_layers, prompt.prefill.shape.num_kv_heads
    window = Selection.from_heads([[torch.arange(36, 40)] * shape[1]] * shape[0], 40)
    assert empty == window
    (answer,) = decode(game.model, prompt.prefill, [Row(window)], prompt.stop)
    got = game.per_prompt(np.zeros((1, game.num_players), dtype=bool))[0, 0]
    assert got == prompt.judge(answer.tokens) < 1


def test_batched_is_one_at_a_time(game: HeadGame) -> None:
    coalitions = random_coalitions(game, 9)
    together = game.per_prompt(coalitions)
    assert together.shape == (9, 2) and together.dtype == np.float64
    alone = np.concatenate([game.per_prompt(coalition[None]) for coalition in coalitions])
    assert np.array_equal(together, alone)
    small = HeadGame(game.model, game.prompts, game.window_size, max_bytes=1)
    assert np.array_equal(small.per_prompt(coalitions), together)
    assert np.array_equal(game(coalitions), together.mean(axis=1))
    assert len(np.unique(together)) > 2, "coalitions should differ"


def test_utility_is_the_ragged_ways_answer_judged(game: HeadGame) -> None:
    coalitions = random_coalitions(game, 5)
    for column, prompt in enumerate(game.prompts):
        rows = [Row(coalition_selection(c, prompt.prefill, game.window_size)) for c in coalitions]
        answers = decode(game.model, prompt.prefill, rows, prompt.stop, way="ragged")
        assert game.per_prompt(coalitions)[:, column].tolist() == [prompt.judge(a.tokens) for a in answers]


def test_players_are_layer_major(make_model: MakeModel, prompt: Prompt) -> None:
    made = prefill(make_model(), prompt(20))
    for player in range(6):
        members = np.zeros(6, dtype=bool)
        members[player] = True
        counts = coalition_selection(members, made, 8).counts
        assert counts[player // 2, player % 2] == 20 and counts.sum() == 20 + 5 * 8


@pytest.mark.parametrize(("window_size", "kept"), [(0, 0), (1, 1), (20, 20), (99, 20)])
def test_any_window_fits_any_prompt(make_model: MakeModel, prompt: Prompt, window_size: int, kept: int) -> None:
    made = prefill(make_model(), prompt(20))
    assert (coalition_selection(np.zeros(6, dtype=bool), made, window_size).counts == kept).all()


def test_a_coalition_of_other_players_is_refused(make_model: MakeModel, prompt: Prompt) -> None:
    made = prefill(make_model(), prompt(20))
    for shape in ((5,), (3, 2)):
        with pytest.raises(CokvError, match=r"3 layers x 2 KV heads"):
            coalition_selection(np.zeros(shape, dtype=bool), made, 8)
    with pytest.raises(CokvError, match="at least one validation prompt"):
        HeadGame(make_model(), [])
