"""Training data: labels are tokens, answers are in the context, copies are announced, positions only grow."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from longbench.mini.generate import BUILDERS
from suite.embedded.mixture import IGNORED, WEIGHTS, Batch, Example, Mixture, batch

LENGTH = 512
Draw = Callable[..., list[Example]]


@pytest.fixture(scope="module")
def draw(tokenizer: Tokenizer) -> Draw:
    def take(count: int, kinds: tuple[str, ...] | None, length: int = LENGTH, **more: int) -> list[Example]:
        return list(itertools.islice(Mixture(tokenizer, length, "test", kinds, **more), count))

    return take


@pytest.fixture(scope="module")
def mixed(draw: Draw) -> list[Example]:
    return draw(150, None)


def labelled(example: Example) -> list[int]:
    return [place for place, label in enumerate(example.labels) if label != IGNORED]


def stretches(example: Example) -> list[tuple[int, int]]:
    """Labelled stretches as (start, end)."""
    marks = np.diff(np.array([label != IGNORED for label in [IGNORED, *example.labels, IGNORED]], dtype=int))
    return list(zip(np.flatnonzero(marks == 1).tolist(), np.flatnonzero(marks == -1).tolist(), strict=True))


def test_labels_are_the_tokens_where_they_count(mixed: list[Example]) -> None:
    for example in mixed:
        assert len(example.labels) == len(example.ids)
        assert labelled(example), f"a {example.kind} example without loss"
        assert all(example.labels[place] == example.ids[place] for place in labelled(example)), example.kind
        assert example.labels[0] == IGNORED, "the first token cannot be predicted"


@pytest.mark.parametrize("length", [64, 128, 512])
def test_examples_are_at_most_the_length(draw: Draw, length: int) -> None:
    for example in draw(60, None, length):
        assert len(example.ids) <= length, example.kind


def test_examples_that_come_out_too_long_are_drawn_again(draw: Draw) -> None:
    """Of fwe at 64 tokens most are: its answer is not in the size that was fitted."""
    assert max(len(example.ids) for example in draw(20, ("fwe",), 64)) <= 64


def test_every_kind_comes_up_and_says_its_name(tokenizer: Tokenizer, mixed: list[Example]) -> None:
    mixture = Mixture(tokenizer, LENGTH, "test")
    assert set(mixture.names) <= set(WEIGHTS)
    assert {"copy", "recall", "niah_single_1", "niah_multikey_1", "vt"} <= set(mixture.names)
    assert {example.kind for example in mixed} <= set(mixture.names)
    assert len({example.kind for example in mixed}) >= 8


def test_tasks_too_long_for_a_short_context_wait(tokenizer: Tokenizer) -> None:
    short, long = (set(Mixture(tokenizer, length, "test").names) for length in (64, LENGTH))
    assert short < long


def test_kinds_limit_the_mixture(draw: Draw) -> None:
    assert {example.kind for example in draw(20, ("copy",), span=8)} == {"copy"}


def test_the_same_seed_gives_the_same_examples_and_another_does_not(tokenizer: Tokenizer) -> None:
    def take(seed: str, length: int) -> list[Example]:
        return list(itertools.islice(Mixture(tokenizer, length, seed), 10))

    assert take("a", 256) == take("a", 256)
    assert take("a", 256) != take("b", 256)


@pytest.mark.parametrize("span", [8, 32, None])
def test_copied_tokens_follow_an_earlier_occurrence_of_the_token_before(draw: Draw, span: int | None) -> None:
    """All but the first of a copy, which nothing announces: the pair (token before, token) was there already."""
    for example in draw(40, ("copy",), **({} if span is None else {"span": span})):
        (start, end), *rest = stretches(example)
        assert not rest, "a copy is one stretch"
        pairs = list(itertools.pairwise(example.ids))
        for place in range(start + 1, end):
            assert pairs[place - 1] in pairs[: place - 1], f"token {place} of {start}..{end} cannot be known"


def test_copies_are_near_in_stage_1_and_reach_far_later(draw: Draw) -> None:
    def period(example: Example) -> int:
        return stretches(example)[0][0]

    assert max(period(example) for example in draw(40, ("copy",), span=8)) <= 8
    assert max(period(example) for example in draw(40, ("copy",))) > LENGTH // 4


def test_copies_hold_no_special_tokens_but_bos(tokenizer: Tokenizer, draw: Draw) -> None:
    bos = tokenizer.token_to_id("<bos>")
    for example in draw(40, ("copy",)):
        assert all(token > 2 for token in example.ids[1:]) and (example.ids[0] == bos or example.ids[0] > 2)


def test_recalled_answers_are_in_the_context(tokenizer: Tokenizer, draw: Draw) -> None:
    for example in draw(25, ("recall",)):
        first = stretches(example)[0][0]
        context = tokenizer.decode(example.ids[:first])
        answers = [tokenizer.decode(example.ids[start:end]) for start, end in stretches(example)]
        assert example.ids[-1] == example.labels[-1] == tokenizer.token_to_id("<eos>")
        for answer in answers:
            (number,) = [word for word in answer.replace(".", " ").split() if word.isdigit()]
            assert context.count(number) == 1, f"{number} is {context.count(number)} times in the context"


def test_a_pattern_asks_what_its_facts_say(draw: Draw) -> None:
    """Key, link and value stand together among the facts: before the first question."""
    question = 0
    for example in draw(30, ("pattern",)):
        parts = stretches(example)
        text = ",".join(map(str, example.ids))
        for start, end in parts:
            stated = ",".join(map(str, ["", *example.ids[start - 2 : end], ""]))
            assert f"{text},".count(stated) >= 2, "an answer that no fact gives"
        question += len(parts)
        assert len(example.ids) > LENGTH // 2
    assert question > 90, "a context serves many questions"


@pytest.mark.parametrize("kind", ["niah_single_1", "niah_single_2", "niah_multikey_1", "niah_multiquery", "vt"])
def test_a_task_is_prompt_then_answer_then_eos(tokenizer: Tokenizer, draw: Draw, kind: str) -> None:
    for example in draw(5, (kind,)):
        ((start, end),) = stretches(example)
        assert example.ids[0] == tokenizer.token_to_id("<bos>")
        assert end == len(example.ids) and example.ids[-1] == tokenizer.token_to_id("<eos>")
        context, answer = tokenizer.decode(example.ids[1:start]), tokenizer.decode(example.ids[start : end - 1])
        prompt = [
            word for word in answer.replace(",", " ").replace(".", " ").split() if word.isdigit() or word.isupper()
        ]
        assert prompt and all(word in context for word in prompt), f"{answer!r} is not in the context"


@pytest.mark.parametrize("kind", sorted(BUILDERS))
def test_a_stand_in_is_prompt_answer_and_perhaps_more_of_both_then_eos(
    tokenizer: Tokenizer, draw: Draw, kind: str
) -> None:
    counts = set()
    for example in draw(12, (kind,)):
        parts = stretches(example)
        counts.add(len(parts))
        assert example.ids[0] == tokenizer.token_to_id("<bos>")
        assert parts[-1][1] == len(example.ids) and example.ids[-1] == tokenizer.token_to_id("<eos>")
        first_answer = tokenizer.decode(example.ids[parts[0][0] : parts[0][1]], skip_special_tokens=True)
        assert first_answer.strip(), "an answer without text"
    several = {"qasper", "hotpotqa", "trec", "lsht", "passage_retrieval_en", "repobench-p"}
    assert (max(counts) > 1) or kind not in several, "one context serves several questions"


@pytest.fixture(scope="module")
def ends(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The tokens of a full stop and of a line break."""
    return tuple(tokenizer.encode(".\n", add_special_tokens=False).ids)


def batched(examples: list[Example], length: int, reach: int, ends: tuple[int, ...]) -> Batch:
    return batch(iter(examples), len(examples), length, np.random.default_rng(0), reach, ends)


@pytest.mark.parametrize("rows", [1, 3])
def test_a_batch_is_padded_on_the_right_without_loss(mixed: list[Example], ends: tuple[int, ...], rows: int) -> None:
    examples = mixed[:rows]
    ids, labels, positions, kinds = batched(examples, LENGTH, LENGTH, ends)
    assert ids.shape == labels.shape == positions.shape == (rows, LENGTH)
    assert ids.dtype == labels.dtype == positions.dtype == torch.int64
    assert kinds == [example.kind for example in examples]
    for row, example in enumerate(examples):
        n = len(example.ids)
        assert ids[row, :n].tolist() == example.ids and labels[row, :n].tolist() == example.labels
        assert (ids[row, n:] == 0).all() and (labels[row, n:] == IGNORED).all()


def test_positions_only_grow_and_stay_below_the_reach(draw: Draw, ends: tuple[int, ...]) -> None:
    length, reach = 128, 1024
    positions = batched(draw(64, ("recall",), length), length, reach, ends)[2]
    assert (positions.diff() >= 1).all(), "positions must only grow"
    assert (positions[:, 0] == 0).all() and positions.max() < reach
    stretched = (positions[:, -1] > length - 1).float().mean()
    assert 0.3 < stretched < 0.7, "about half of the rows have gaps"
    assert positions.max() > reach // 2, "gaps reach far"


def test_gaps_fall_between_sentences_only(draw: Draw, ends: tuple[int, ...]) -> None:
    ids, _, positions, _ = batched(draw(64, ("recall",), 128), 128, 1024, ends)
    gap = positions.diff() > 1  # [rows, 127]
    assert gap.any()
    assert torch.isin(ids[:, :-1][gap], torch.tensor(ends)).all()


@pytest.mark.parametrize(("kind", "reach"), [("copy", 1024), ("recall", 128)])
def test_positions_are_plain_in_copies_and_at_the_full_reach(
    draw: Draw, ends: tuple[int, ...], kind: str, reach: int
) -> None:
    positions = batched(draw(16, (kind,), 128), 128, reach, ends)[2]
    assert (positions == torch.arange(128)).all()
