"""Laws of every task in both presets: it fits, it is the same every time, and its answer is right."""

from __future__ import annotations

import random
from itertools import islice

import pytest

from ruler import RulerError
from ruler.generate import draft, fit, generate, largest_size
from ruler.sample import Sample
from ruler.scoring import score
from ruler.tasks import PRESETS, TASKS, at_length, get_task

NAMES = list(TASKS["official"])
LENGTHS = {"whitespace": 900, "thirds": 2500, "embedded": 1000}
CASES = [
    (preset, name, kind)
    for preset in PRESETS
    for name in NAMES
    for kind in (("whitespace", "thirds") if preset == "official" else ("whitespace", "embedded"))
]


def samples(tokenizer, preset: str, name: str, kind: str, count: int = 3, **more) -> list[Sample]:
    return list(generate(name, tokenizer(kind), LENGTHS[kind], count, seed=5, preset=preset, **more))


def test_both_presets_have_the_thirteen_tasks() -> None:
    assert [list(TASKS[preset]) for preset in PRESETS] == [NAMES, NAMES]
    assert len(NAMES) == 13


@pytest.mark.parametrize(("preset", "name", "kind"), CASES)
def test_samples_fit_and_their_answers_are_right(tokenizer, preset: str, name: str, kind: str) -> None:
    encode, task = tokenizer(kind).encode, TASKS[preset][name]
    for sample in samples(tokenizer, preset, name, kind):
        assert sample.length == len(encode(sample.prompt)) + task.tokens_to_generate
        assert sample.length <= LENGTHS[kind]
        assert sample.prompt == sample.context + sample.question + sample.answer_prefix
        assert sample.gold is not None
        assert len(encode(sample.gold)) <= task.tokens_to_generate, "the right answer must fit the tokens to generate"
        assert score(sample, sample.gold) == 100.0
        assert score(sample, "") == 0.0
        assert sample.outputs
        for reference in sample.outputs:
            assert reference in sample.context
            assert reference not in sample.question + sample.answer_prefix


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", NAMES)
def test_a_sample_depends_on_its_seed_and_index_alone(tokenizer, preset: str, name: str) -> None:
    three = samples(tokenizer, preset, name, "whitespace")
    assert samples(tokenizer, preset, name, "whitespace") == three
    assert samples(tokenizer, preset, name, "whitespace", count=1, offset=2) == three[2:]
    assert len({s.prompt for s in three}) == 3
    other = next(generate(name, tokenizer("whitespace"), 900, 1, seed=6, preset=preset))
    assert other.prompt != three[0].prompt


@pytest.mark.parametrize(("preset", "name", "kind"), CASES)
def test_the_fitted_haystack_is_the_largest(tokenizer, preset: str, name: str, kind: str) -> None:
    length, encode = LENGTHS[kind], tokenizer(kind).encode
    task = at_length(get_task(name, preset), length)
    size = fit(task, tokenizer(kind), length)

    def tokens(size: int) -> int:
        probe = draft(task, size, random.Random(f"fit/{name}"), index=0)
        return len(encode(probe.prompt)) + task.tokens_to_generate

    assert tokens(size) <= length
    first = next(generate(name, tokenizer(kind), length, 1, seed=5, preset=preset))
    if size == largest_size(task):
        assert "the haystack ends below the length: there is nothing new to add" in first.notes
    else:
        assert tokens(size + 1) > length
        assert first.length > 0.85 * length, "a draw comes near the length"


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("length", [-1, 0, 20, 45])
def test_too_short_a_length_is_an_error_and_not_a_hang(tokenizer, preset: str, name: str, length: int) -> None:
    with pytest.raises(RulerError, match=rf"fit {length} tokens") as caught:
        list(generate(name, tokenizer("thirds"), length, 2, seed=0, preset=preset))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_every_length_either_works_or_raises(tokenizer, name: str) -> None:
    worked = []
    for length in range(40, 1400, 97):
        try:
            sample = list(generate(name, tokenizer("thirds"), length, 2, seed=1))
        except RulerError:
            assert not worked, "what fits a shorter length fits a longer one"
        else:
            worked.append(length)
            assert all(s.length <= length for s in sample)
    assert worked


def test_unknown_names_are_answered_with_near_ones_at_once(tokenizer) -> None:
    with pytest.raises(RulerError, match=r"did you mean .*niah_multikey_1"):
        generate("niah_multi_key_1", tokenizer("whitespace"), 500, 1, seed=0)
    with pytest.raises(RulerError, match="official, mini"):
        generate("vt", tokenizer("whitespace"), 500, 1, seed=0, preset="small")


def test_a_haystack_that_runs_out_says_so(tokenizer) -> None:
    sample = next(generate("niah_multikey_2", tokenizer("whitespace"), 50_000, 1, seed=0, preset="mini"))
    assert sample.length < 40_000
    assert "the haystack ends below the length: there is nothing new to add" in sample.notes


@pytest.mark.parametrize("name", NAMES)
def test_official_prompts_of_64k_tokens_can_be_made(tokenizer, name: str) -> None:
    sample = next(generate(name, tokenizer("whitespace"), 2**15, 1, seed=0))
    assert 0.97 * 2**15 < sample.length <= 2**15
    assert not any("nothing new" in note for note in sample.notes)


def test_generated_stand_ins_are_named(tokenizer) -> None:
    noted = {name: islice(generate(name, tokenizer("whitespace"), 900, 1, seed=0), 1) for name in NAMES}
    notes = {name: next(sample).notes for name, sample in noted.items()}
    assert notes["niah_single_2"] == ("essay haystack is generated text",)
    assert notes["qa_1"] == notes["qa_2"] == ("questions and documents are generated",)
    assert notes["niah_single_1"] == notes["niah_multikey_3"] == notes["vt"] == notes["cwe"] == ()


def test_official_parameters_are_the_published_ones() -> None:
    table = TASKS["official"]
    assert [t.tokens_to_generate for t in table.values()] == [128] * 8 + [30, 120, 50, 32, 32]
    assert [t.metric for t in table.values()] == ["all"] * 11 + ["part"] * 2
    shapes = {n: (p["type_haystack"], p["type_needle_k"], p["type_needle_v"]) for n, p in niah_params().items()}
    assert shapes == {
        "niah_single_1": ("noise", "words", "numbers"),
        "niah_single_2": ("essay", "words", "numbers"),
        "niah_single_3": ("essay", "words", "uuids"),
        "niah_multikey_1": ("essay", "words", "numbers"),
        "niah_multikey_2": ("needle", "words", "numbers"),
        "niah_multikey_3": ("needle", "uuids", "uuids"),
        "niah_multivalue": ("essay", "words", "numbers"),
        "niah_multiquery": ("essay", "words", "numbers"),
    }
    counts = {n: tuple(p[f"num_needle_{x}"] for x in "kvq") for n, p in niah_params().items()}
    several = {"niah_multikey_1": (4, 1, 1), "niah_multivalue": (1, 4, 1), "niah_multiquery": (1, 1, 4)}
    assert counts == {n: several.get(n, (1, 1, 1)) for n in counts}
    assert (table["vt"].params["num_chains"], table["vt"].params["num_hops"]) == (1, 4)
    assert [table["cwe"].params[k] for k in ("freq_cw", "freq_ucw", "num_cw")] == [30, 3, 10]
    assert table["fwe"].params["alpha"] == 2.0


def niah_params() -> dict[str, dict]:
    return {name: task.params for name, task in TASKS["official"].items() if task.kind == "niah"}


def test_parameters_that_follow_the_length_are_settled_by_it() -> None:
    cwe, fwe = get_task("cwe"), get_task("fwe")
    assert [at_length(cwe, n).params["freq_cw"] for n in (4095, 4096)] == [6, 30]
    assert [at_length(cwe, n).params["freq_ucw"] for n in (4095, 4096)] == [1, 3]
    assert [at_length(fwe, n).params["vocab_size"] for n in (4096, 131072)] == [81, 2621]
    assert all(at_length(task, 1000) == task for task in TASKS["mini"].values())
