"""The game over KV heads: who is in a coalition keeps the prompt, and utility is the judged answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from cokv.cache.prefill import Prefill, prefill
from cokv.decode.batches import Row
from cokv.decode.decode import Stop, decode
from cokv.game.players import coalition_rows, coalition_selection
from cokv.game.utility import GamePrompt, HeadGame
from cokv.types import CokvError, Selection

MakeModel = Callable[..., PreTrainedModel]
Prompt = Callable[..., torch.Tensor]
NEW = 12


def made_of(prompt: GamePrompt) -> Prefill:
    assert isinstance(prompt.prefill, Prefill)
    return prompt.prefill


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
        prompts.append(GamePrompt(prefill(model, ids), Stop(NEW), agreement(full), tuple(full)))
    return HeadGame(model, prompts, window_size=4)


def random_coalitions(game: HeadGame, count: int, share: float = 0.5) -> np.ndarray:
    return np.random.default_rng(0).random((count, game.num_players)) < share


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


@pytest.mark.parametrize("first_token", ["prefill", "compressed"])
@pytest.mark.parametrize("utility", ["metric", "exact_match", "probability", "log_likelihood"])
def test_the_way_of_decoding_changes_no_utility(game: HeadGame, utility: Any, first_token: Any) -> None:
    coalitions = random_coalitions(game, 6)
    ways: tuple[Any, ...] = ("auto", "trie", "shared", "ragged")
    chosen = replace(game, utility=utility, first_token=first_token)
    by_way = [replace(chosen, way=way).per_prompt(coalitions) for way in ways]
    for other in by_way[1:]:
        assert other == pytest.approx(by_way[0], abs=1e-4)
    if utility in ("metric", "exact_match"):
        assert all(np.array_equal(other, by_way[0]) for other in by_way)


@pytest.mark.parametrize("utility", ["exact_match", "probability", "log_likelihood"])
def test_a_forced_utility_does_not_depend_on_the_batch(game: HeadGame, utility: Any) -> None:
    chosen, coalitions = replace(game, utility=utility), random_coalitions(game, 9)
    together = chosen.per_prompt(coalitions)
    alone = np.concatenate([chosen.per_prompt(coalition[None]) for coalition in coalitions])
    assert together == pytest.approx(alone, abs=1e-4)
    assert replace(chosen, max_bytes=1).per_prompt(coalitions) == pytest.approx(alone, abs=1e-4)
    backwards = chosen.per_prompt(coalitions[::-1])[::-1]
    assert backwards == pytest.approx(together, abs=1e-4), "results are in the caller's order"


def test_exact_match_is_generations(game: HeadGame) -> None:
    """The answer is what the full cache generates, so some coalitions repeat it and others do not."""
    coalitions = random_coalitions(game, 40, share=0.85)
    forced = replace(game, utility="exact_match").per_prompt(coalitions)
    for column, prompt in enumerate(game.prompts):
        rows = coalition_rows(coalitions, made_of(prompt), game.window_size)
        answers = decode(game.model, made_of(prompt), rows, prompt.stop, way="shared")
        assert forced[:, column].tolist() == [float(tuple(a.tokens) == prompt.answer) for a in answers]
    assert 0 < forced.mean() < 1, "an answer that all or none give tests nothing"


def test_teacher_forcing_reads_the_reference_probabilities(
    game: HeadGame, prompt: Prompt, dense_reference: Callable[..., torch.Tensor]
) -> None:
    coalitions = random_coalitions(game, 4)
    probability, likelihood = (
        replace(game, utility=u).per_prompt(coalitions) for u in ("probability", "log_likelihood")
    )
    for column, (seed, length) in enumerate([(0, 40), (1, 55)]):
        one = game.prompts[column]
        answer = torch.tensor(one.answer)
        for row, members in enumerate(coalitions):
            mask = coalition_selection(members, made_of(one), game.window_size).mask()
            after = dense_reference(game.model, prompt(length, seed), answer[:-1], mask)
            logits = torch.cat([made_of(one).first_logits[None], after])
            log_probability = logits.log_softmax(-1).gather(-1, answer[:, None])[:, 0]
            assert probability[row, column] == pytest.approx(float(log_probability.exp().mean()), abs=1e-5)
            assert likelihood[row, column] == pytest.approx(float(log_probability.sum()), abs=1e-3)


def test_an_answer_is_one_that_decoding_can_make(game: HeadGame) -> None:
    one = game.prompts[0]
    assert one.answer is not None
    stop = Stop(NEW, (one.answer[2],))
    for answer in ((), one.answer + one.answer, one.answer[:4], (500,)):
        wrong = HeadGame(game.model, [replace(one, stop=stop, answer=answer)], utility="exact_match")
        with pytest.raises(CokvError, match="an answer"):
            wrong.per_prompt(np.ones((1, wrong.num_players), dtype=bool))
    ending = HeadGame(game.model, [replace(one, stop=stop, answer=one.answer[:3])], utility="exact_match")
    assert ending(np.ones((1, ending.num_players), dtype=bool)) == 1.0
    least = replace(stop, min_new_tokens=3)
    ruled_out = HeadGame(game.model, [replace(one, stop=least, answer=one.answer[:3])], utility="exact_match")
    assert ruled_out(np.ones((1, ending.num_players), dtype=bool)) == 0.0, "generation may not stop there yet"


def test_what_a_game_needs_is_asked_for(game: HeadGame) -> None:
    silent = [replace(prompt, answer=None) for prompt in game.prompts]
    HeadGame(game.model, silent)
    with pytest.raises(CokvError, match="2 of 2 prompts do not have"):
        HeadGame(game.model, silent, utility="probability")
    for field in ("utility", "players", "first_token", "way"):
        with pytest.raises(CokvError, match="'psychic'; expected one of"):
            HeadGame(game.model, game.prompts, **{field: "psychic"})
    apart: Any = {"players": "query_head", "way": "ragged"}
    if game.num_players < 12:
        with pytest.raises(CokvError, match="use way 'auto'"):
            replace(game, **apart)
    else:  # every query head has a KV head of its own
        drawn = random_coalitions(game, 3)
        assert np.array_equal(replace(game, **apart).per_prompt(drawn), game.per_prompt(drawn))


def test_a_layer_is_all_its_heads(game: HeadGame) -> None:
    layers = replace(game, players="layer")
    heads = game.num_players // 3
    assert layers.num_players == 3
    drawn = random_coalitions(layers, 6)
    assert np.array_equal(layers.per_prompt(drawn), game.per_prompt(drawn.repeat(heads, axis=1)))


def test_a_kv_head_is_all_its_query_heads(game: HeadGame) -> None:
    fine = replace(game, players="query_head")
    assert fine.num_players == 12
    drawn = random_coalitions(game, 6)
    group = fine.num_players // game.num_players
    assert np.array_equal(fine.per_prompt(drawn.repeat(group, axis=1)), game.per_prompt(drawn))
    single = np.eye(12, dtype=bool)
    by_way = replace(fine, utility="probability").per_prompt(single)
    ways: tuple[Any, ...] = ("shared", "trie")
    for way in ways:
        again = replace(fine, utility="probability", way=way).per_prompt(single)
        assert again == pytest.approx(by_way, abs=1e-5)
    assert len(np.unique(by_way[:, 0].round(6))) > 6, "query heads of one group should differ"


@pytest.mark.parametrize("way", ["ragged", "shared", "trie"])
def test_the_last_token_run_again_sees_the_masked_cache(
    game: HeadGame, prompt: Prompt, dense_reference: Callable[..., torch.Tensor], way: Any
) -> None:
    """As if the prompt ended one token earlier and its last token came after the masks."""
    coalitions = random_coalitions(game, 5)
    changed = 0
    for column, (seed, length) in enumerate([(0, 40), (1, 55)]):
        ids, one = prompt(length, seed), game.prompts[column]
        rows = list(coalition_rows(coalitions, made_of(one), game.window_size))
        answers = decode(game.model, made_of(one), rows, Stop(8), way=way, first_token="compressed")
        for members, answer in zip(coalitions, answers, strict=True):
            mask = coalition_selection(members, made_of(one), game.window_size).mask()[..., :-1]
            after = torch.cat([ids[-1:], torch.tensor(answer.tokens[:-1])])
            logits = dense_reference(game.model, ids[:-1], after, mask)
            assert logits.argmax(-1).tolist() == answer.tokens
            changed += answer.tokens[0] != int(made_of(one).first_logits.argmax())
        held = decode(game.model, made_of(one), rows, Stop(8), way=way)
        assert [a.kept_tokens for a in answers] == [a.kept_tokens for a in held]
    assert changed > 0


@pytest.mark.parametrize("way", ["ragged", "shared", "trie"])
def test_the_last_token_run_again_is_held_by_every_head(make_model: MakeModel, prompt: Prompt, way: Any) -> None:
    model = make_model()
    prefilled = prefill(model, prompt(40))
    mask = torch.zeros(3, 2, 40, dtype=torch.bool)
    mask[..., :5] = True
    mask[0, 0, -3:] = True
    (answer,) = decode(model, prefilled, [Row(Selection.from_mask(mask))], Stop(3), way=way, first_token="compressed")
    assert answer.kept_tokens == int(mask.sum()), "once, and in place of another where it had been dropped"
    assert answer.kept_bytes == answer.kept_tokens * prefilled.token_bytes


def test_a_full_cache_gives_the_same_first_token_either_way(game: HeadGame) -> None:
    grand = np.ones((1, game.num_players), dtype=bool)
    assert replace(game, first_token="compressed").per_prompt(grand).tolist() == [[1.0, 1.0]]


def test_a_rerun_in_layers_with_a_sliding_window_and_of_prompts_that_are_too_short(
    make_model: MakeModel, prompt: Prompt
) -> None:
    hybrid = make_model("qwen3-hybrid")
    again: Any = {"first_token": "compressed"}
    for length in (10, 15, 16, 40):
        prefilled = prefill(hybrid, prompt(length))
        row = Row(Selection.full(2, 2, length))
        expected = decode(hybrid, prefilled, [row], Stop(5))[0].tokens
        for way in ("ragged", "shared", "trie"):
            assert decode(hybrid, prefilled, [row], Stop(5), way=way, **again)[0].tokens == expected
    with pytest.raises(CokvError, match="expected two or more"):
        decode(make_model(), prefill(make_model(), prompt(1)), [Row(Selection.full(3, 2, 1))], Stop(5), **again)


def test_bfloat16_plays(fresh_model: MakeModel, prompt: Prompt) -> None:
    model = fresh_model().to(torch.bfloat16)
    one = GamePrompt(prefill(model, prompt(30)), Stop(6), len, (5, 6, 7))
    utilities: tuple[Any, ...] = ("metric", "exact_match", "probability", "log_likelihood")
    for utility in utilities:
        game = HeadGame(model, [one], utility=utility, first_token="compressed")
        assert np.isfinite(game.per_prompt(random_coalitions(game, 5))).all()


def test_players_are_layer_major(make_model: MakeModel, prompt: Prompt) -> None:
    prefilled = prefill(make_model(), prompt(20))
    for player in range(6):
        members = np.zeros(6, dtype=bool)
        members[player] = True
        counts = coalition_selection(members, prefilled, 8).counts
        assert counts[player // 2, player % 2] == 20 and counts.sum() == 20 + 5 * 8


@pytest.mark.parametrize(("window_size", "kept"), [(0, 0), (1, 1), (20, 20), (99, 20)])
def test_any_window_fits_any_prompt(make_model: MakeModel, prompt: Prompt, window_size: int, kept: int) -> None:
    prefilled = prefill(make_model(), prompt(20))
    assert (coalition_selection(np.zeros(6, dtype=bool), prefilled, window_size).counts == kept).all()


def test_a_coalition_of_other_players_is_refused(make_model: MakeModel, prompt: Prompt) -> None:
    prefilled = prefill(make_model(), prompt(20))
    for shape in ((5,), (3, 2)):
        with pytest.raises(CokvError, match=r"3 layers x 2 KV heads"):
            coalition_selection(np.zeros(shape, dtype=bool), prefilled, 8)
    with pytest.raises(CokvError, match="at least one validation prompt"):
        HeadGame(make_model(), [])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_game_on_cuda_is_the_game_on_the_cpu(fresh_model: MakeModel, prompt: Prompt) -> None:
    utilities: tuple[Any, ...] = ("metric", "exact_match", "probability", "log_likelihood")
    by_way = []
    for device in ("cpu", "cuda"):
        model = fresh_model().to(device)
        one = GamePrompt(prefill(model, prompt(40)), Stop(6), agreement([1, 2, 3, 4]), (5, 6, 7))
        played = []
        for utility in utilities:
            game = HeadGame(model, [one], 4, utility=utility, first_token="compressed")
            played.append(game.per_prompt(random_coalitions(game, 9)))
        by_way.append(played)
    for here, there in zip(*by_way, strict=True):
        assert there == pytest.approx(here, abs=1e-3)
