"""What each task's text says is what its answer claims, counted again from the text."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest

from ruler import RulerError, haystack
from ruler.generate import draft
from ruler.niah import distinct
from ruler.sample import Draft
from ruler.tasks import PRESETS, TASKS, at_length

NIAH = [name for name, task in TASKS["official"].items() if task.kind == "niah"]
NEEDLE = re.compile(r"The secret (?:number|code) of (\S+) is (\S+?)\.(?=\s|$)")


def drafted(preset: str, name: str, size: int = 60, seed: int = 0, length: int = 2000) -> Draft:
    return draft(at_length(TASKS[preset][name], length), size, random.Random(f"texts/{seed}"))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", NIAH)
def test_needles_hold_the_values_of_the_asked_keys_in_order(preset: str, name: str) -> None:
    params = TASKS[preset][name].params
    for seed in range(8):
        prompt = drafted(preset, name, seed=seed)
        needles = NEEDLE.findall(prompt.context)
        keys, values = [k for k, _ in needles], [v for _, v in needles]
        assert len(set(keys)) == len(keys) // params["num_needle_v"], "each key is one needle's, or one value each"
        assert len(set(values)) == len(values)
        queried = [k for k in dict.fromkeys(keys) if re.search(rf"[ ]{re.escape(k)}(?=[,?\s])", prompt.question)]
        assert len(queried) == params["num_needle_q"]
        order = sorted(queried, key=prompt.question.index)
        assert list(prompt.outputs) == [v for k in order for at, v in needles if at == k]
        planted = max(params["num_needle_k"], params["num_needle_q"]) * params["num_needle_v"]
        assert len(needles) == planted + (60 if params["type_haystack"] == "needle" else 0)


@pytest.mark.parametrize("preset", PRESETS)
def test_values_are_numbers_of_seven_digits_or_uuids(preset: str) -> None:
    for seed in range(10):
        assert re.fullmatch(r"[1-9]\d{6}", drafted(preset, "niah_single_1", seed=seed).outputs[0])
        uuid = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
        assert re.fullmatch(uuid, drafted(preset, "niah_single_3", seed=seed).outputs[0])


def test_official_keys_are_an_adjective_and_a_noun() -> None:
    keys = [k for k, _ in NEEDLE.findall(drafted("official", "niah_multikey_2").context)]
    assert len(keys) == 61
    assert all(re.fullmatch(r"[a-z]+-[a-z]+", k) for k in keys)


def test_needles_lie_everywhere_in_the_text() -> None:
    for name in ("niah_single_1", "niah_single_2", "niah_multikey_2"):
        depths = []
        for seed in range(60):
            prompt = drafted("official", name, seed=seed)
            depths.append(prompt.context.index(prompt.outputs[0]) / len(prompt.context))
        assert min(depths) < 0.15, name
        assert max(depths) > 0.85, name


def test_places_follow_their_rule_and_bend_where_it_cannot_hold() -> None:
    rng = random.Random(0)
    for _ in range(50):
        assert len(set(haystack.places(4, 10, rng, "distinct"))) == 4
        assert max(haystack.places(4, 4, rng, "distinct")) < 4
        assert {100 * p // 1000 for p in haystack.places(4, 1000, rng, "depths")} <= set(haystack.DEPTHS)
        for how in ("any", "distinct", "depths"):
            for sentences in (0, 1, 3):
                at = haystack.places(5, sentences, rng, how)
                assert at == sorted(at)
                assert 0 <= at[0] <= at[-1] <= sentences
    assert len(haystack.DEPTHS) == len(set(haystack.DEPTHS)) == 40
    assert haystack.DEPTHS[0] == 0
    assert haystack.DEPTHS[-1] == 100


@pytest.mark.parametrize("preset", PRESETS)
def test_the_chain_can_be_followed_from_its_value_to_all_boxes(preset: str) -> None:
    for seed in range(8):
        prompt = drafted(preset, "vt", seed=seed)
        text = prompt.context.rpartition("\n\n")[2]
        value = re.search(r"the value (\d{5}) reach", prompt.question)[1]
        reached = {value}
        for source, box in re.findall(r"(\S+) goes to (\w+)\.", text):  # in the text's order: no second pass is needed
            if source in reached:
                reached.add(box)
        assert reached - {value} == set(prompt.outputs)
        assert len(prompt.outputs) == 5


def test_official_boxes_have_five_letters_and_the_worked_example_three() -> None:
    prompt = drafted("official", "vt")
    assert all(re.fullmatch("[A-Z]{5}", box) for box in prompt.outputs)
    example, _, text = prompt.context.rpartition("\n\n")
    shown = re.search(r"reaches the boxes (.*)\.$", example)[1].split(", ")
    assert [len(box) for box in shown] == [3] * 5
    assert not set(shown) & set(prompt.outputs)
    assert "goes to" in text


@pytest.mark.parametrize(("preset", "length"), [("official", 2000), ("official", 8000), ("mini", 1000)])
def test_the_common_words_are_the_most_frequent_ones(preset: str, length: int) -> None:
    params = at_length(TASKS[preset]["cwe"], length).params
    for seed in range(5):
        prompt = drafted(preset, "cwe", seed=seed, length=length)
        _, _, listed = prompt.context.rpartition("Count the words of this list.\n")
        tally = Counter(w for w in listed.split() if not re.fullmatch(r"\d+\.", w))
        top = tally.most_common(params["num_cw"])
        assert {w for w, _ in top} == set(prompt.outputs)
        assert {n for _, n in top} == {params["freq_cw"]}
        assert set(tally.values()) == {params["freq_cw"], params["freq_ucw"]}
        assert len(tally) == params["num_cw"] + 60
        if preset == "official":
            assert re.findall(r"(\d+)\. ", listed) == [str(i) for i in range(1, tally.total() + 1)]


def test_the_worked_example_of_the_common_words_is_right_and_shares_no_word() -> None:
    example, _, text = drafted("official", "cwe", length=8000).context.rpartition("\n\n")
    listed, _, answer = example.rpartition("The most common words are: ")
    tally = Counter(re.findall(r"\d+\. ([a-z-]+)", listed))
    assert {w for w, n in tally.items() if n == 10} == set(answer.rstrip(".").split(", "))
    assert sorted(tally.values()) == [3] * 30 + [10] * 10
    assert not set(tally) & set(re.findall(r"\d+\. ([a-z-]+)", text))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("size", [40, 100, 1000])
def test_the_frequent_coded_words_come_after_the_dots_alone(preset: str, size: int) -> None:
    prompt = drafted(preset, "fwe", size=size)
    words = prompt.context.partition("\n")[2].split()
    (first, _), *ranked = Counter(words).most_common(5)
    assert first == "..."
    assert [w for w, _ in ranked[:3]] == list(prompt.outputs)
    assert len({n for _, n in ranked}) == len(ranked), "the asked words and the next one all differ in number"


def test_coded_words_follow_the_law() -> None:
    counts = Counter(drafted("official", "fwe", size=100_000, length=131_072).context.partition("\n")[2].split())
    ranked = [n for _, n in counts.most_common(20)]
    for rank, count in enumerate(ranked, 1):
        assert count == pytest.approx(ranked[0] / rank**2, rel=0.01)


def test_a_text_too_short_for_one_answer_has_none() -> None:
    assert drafted("official", "fwe", size=8).outputs == ()


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("hops", [1, 2])
def test_the_answer_needs_as_many_documents_as_hops(preset: str, hops: int) -> None:
    name = r"[A-Z]\w+(?: [A-Z]\w+)?"
    for seed in range(12):
        prompt = drafted(preset, f"qa_{hops}", size=30, seed=seed)
        documents = re.findall(r"Document \d+: (.*)", prompt.context)
        assert len(documents) == 30 + hops
        friend = dict(re.findall(rf"The friend of ({name}) is ({name})\.", prompt.context))
        person = re.search(rf"(?:does|friend of) ({name}?) (?:live|have)", prompt.question)[1]
        about = person if hops == 1 else friend[person]
        verb = "lives in" if prompt.question.endswith(" live?") else "has"
        holds = [d for d in documents if f"{about} {verb} {prompt.outputs[0]}." in d]
        assert len(holds) == 1
        if hops == 2:
            assert f"The friend of {person} is {about}." not in holds[0], "the friend is named in another document"
            assert about not in prompt.question


def test_documents_are_shuffled() -> None:
    places = set()
    for seed in range(30):
        prompt = drafted("official", "qa_1", size=9, seed=seed)
        documents = re.findall(r"Document \d+: (.*)", prompt.context)
        places.add(next(i for i, d in enumerate(documents) if prompt.outputs[0] in d))
    assert len(places) > 5


def test_drawing_more_words_than_there_are_raises() -> None:
    with pytest.raises(RulerError, match="only 3 distinct words could be drawn, expected 4"):
        distinct(lambda rng: rng.choice("abc"), 4, random.Random(0), set())
