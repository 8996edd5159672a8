"""A prompt is formatted, cut, wrapped and ended exactly as its protocol's fields say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longbench.errors import LongBenchError
from longbench.presets import PRESETS, get_preset, side_by_side
from longbench.protocol import (
    Protocol,
    StopRule,
    answer_length,
    build_prompt,
    encode,
    finish_prediction,
    stop_rule,
    truncate,
)
from longbench.tasks import TASKS
from longbench.templates import Templates

TEMPLATE = "Shelf: {context}\nAsk: {input}\nAnswer:"
TEMPLATES = Templates({name: TEMPLATE for name in TASKS}, {name: 40 for name in TASKS}, {})
PLAIN = Protocol("plain", "", "")


def test_truncation_keeps_half_from_each_end_and_drops_specials(tokenizer: Any) -> None:
    text = " ".join(f"w{index}" for index in range(20))
    # words and spaces are tokens; the begin token is one of the first 3; an odd length loses one more
    assert truncate(tokenizer, text, 7) == ("w0 w18 w19", True)
    assert truncate(tokenizer, text, 40) == (text, False), "20 words, 19 spaces and the begin token fit"
    assert truncate(tokenizer, text, 39)[1] is True
    assert truncate(tokenizer, text, None) == (text, False)


def test_truncation_can_keep_the_head(tokenizer: Any) -> None:
    assert truncate(tokenizer, "a b c d e", 4, "head") == ("a b", True)


def test_halves_are_decoded_apart() -> None:
    class Joining:
        """Decodes to the ids it was given, so that a joint decode would show."""

        def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
            return [int(word) for word in text.split()]

        def decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> str:
            return f"<{' '.join(map(str, token_ids))}>"

    assert truncate(Joining(), "1 2 3 4 5 6 7", 4) == ("<1 2><6 7>", True)


@settings(deadline=None)
@given(st.text(alphabet="ab \n", max_size=60), st.integers(2, 12))
def test_a_truncated_prompt_is_made_of_its_ends(text: str, length: int) -> None:
    class Letters:
        def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
            return list(map(ord, text))

        def decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> str:
            return "".join(map(chr, token_ids))

    cut, was_cut = truncate(Letters(), text, length)
    assert was_cut == (len(text) > length)
    assert len(cut) <= max(length, len(text)) and text.startswith(cut[: length // 2])
    assert not was_cut or text.endswith(cut[length // 2 :])


def test_a_length_that_cannot_be_halved_is_refused(tokenizer: Any) -> None:
    with pytest.raises(LongBenchError, match="max_length 1"):
        truncate(tokenizer, "a b c", 1)
    with pytest.raises(LongBenchError, match="max_length 1"):
        replace(PLAIN, max_length=1)


def test_tokenizers_that_answer_with_an_encoding_work_too() -> None:
    class Encoding:
        ids = (3, 4)

    class Fast:
        def encode(self, text: str, *, add_special_tokens: bool) -> Encoding:
            return Encoding()

        def decode(self, token_ids: Any, *, skip_special_tokens: bool) -> str:
            return ""

    assert encode(Fast(), "x", special=True) == [3, 4]


@pytest.mark.parametrize("dataset", TASKS)
def test_only_the_tasks_that_allow_it_are_wrapped(world: Any, tokenizer: Any, dataset: str) -> None:
    record = world.record(0, dataset)
    prompt = build_prompt(PLAIN, dataset, TEMPLATE, record, tokenizer)
    plain = TEMPLATE.format(**record)
    assert prompt.chat == TASKS[dataset].chat_template
    assert prompt.text == (f"[user] {plain} [assistant]" if prompt.chat else plain)
    assert (prompt.input_ids[0] == 0) != prompt.chat, "a wrapped prompt brings its own special tokens"
    assert prompt.context_tokens is None


def test_never_and_always_overrule_the_table(world: Any, tokenizer: Any) -> None:
    for dataset in ("qasper", "trec"):
        record = world.record(0, dataset)
        assert not build_prompt(replace(PLAIN, chat="never"), dataset, TEMPLATE, record, tokenizer).chat
        assert build_prompt(replace(PLAIN, chat="always"), dataset, TEMPLATE, record, tokenizer).chat


def test_truncation_comes_before_the_chat_template(world: Any, tokenizer: Any) -> None:
    record = world.record(0, context="w " * 500)
    prompt = build_prompt(replace(PLAIN, max_length=10), "qasper", TEMPLATE, record, tokenizer)
    assert (
        prompt.truncated and prompt.text.startswith("[user] Shelf: ") and prompt.text.endswith("\nAnswer: [assistant]")
    )


def test_a_tokenizer_without_a_chat_template_is_refused(world: Any, tokenizer: Any) -> None:
    tokenizer.chat_template = None
    with pytest.raises(LongBenchError, match="chat = 'never'"):
        build_prompt(PLAIN, "qasper", TEMPLATE, world.record(0), tokenizer)
    assert build_prompt(PLAIN, "trec", TEMPLATE, world.record(0, "trec"), tokenizer).text


@pytest.mark.parametrize("chat", ["always", "never"])
def test_a_question_agnostic_prompt_ends_its_context_before_the_question(world: Any, tokenizer: Any, chat: Any) -> None:
    record = world.record(0, context="lantern ### on the shelf ")
    protocol = replace(PLAIN, chat=chat, query_aware=False)
    prompt = build_prompt(protocol, "qasper", TEMPLATE, record, tokenizer)
    assert prompt.context_tokens is not None
    context = tokenizer.decode(list(prompt.input_ids[: prompt.context_tokens]), skip_special_tokens=True)
    question = tokenizer.decode(list(prompt.input_ids[prompt.context_tokens :]), skip_special_tokens=True)
    assert context.endswith("Shelf: lantern ### on the shelf ") and record["input"] not in context
    assert record["input"] in question and context + question == prompt.text
    assert question.endswith("[assistant]" if chat == "always" else "Answer:")


def test_kvpress_puts_the_answer_cue_into_the_assistants_turn(world: Any, tokenizer: Any) -> None:
    template = "Shelf: {context}\nAnswer with a word.\nAsk: {input}\nAnswer:"
    prompt = build_prompt(get_preset("kvpress"), "qasper", template, world.record(0, context="a lamp"), tokenizer)
    assert prompt.context_tokens is not None
    context = tokenizer.decode(list(prompt.input_ids[: prompt.context_tokens]), skip_special_tokens=True)
    assert context == "[user] Shelf: a lamp\nAnswer with a word.\n"
    assert prompt.text == f"{context}Ask: Which lantern is number 0?\n [assistant]Answer:"


def test_samsum_stops_at_a_newline_after_one_token(tokenizer: Any) -> None:
    newline = tokenizer.encode("\n", add_special_tokens=False)[-1]
    model_ends = (1, 77)
    official = get_preset("official")
    assert stop_rule(official, "samsum", TEMPLATES, tokenizer, model_ends) == StopRule((1, newline), 1, 40)
    assert stop_rule(official, "qasper", TEMPLATES, tokenizer, model_ends) == StopRule((1, 77), 0, 40)
    assert stop_rule(get_preset("cokv"), "qasper", TEMPLATES, tokenizer, model_ends) == StopRule((1,), 0, 40)
    assert stop_rule(get_preset("pyramidkv"), "samsum", TEMPLATES, tokenizer, model_ends) == StopRule((1,), 1, 40)
    assert stop_rule(get_preset("kvpress"), "samsum", TEMPLATES, tokenizer, model_ends) == StopRule((1, 77), 0, 60)


def test_lengths_follow_the_models_name() -> None:
    llama = "meta-llama/Meta-Llama-3-8B-Instruct"
    names = ("cokv", "pyramidkv", "kvcache-factory", "headkv", "adakv")
    assert [PRESETS[name].length_for(llama) for name in names] == [8000, 7950, 7500, 7950, 31500]
    assert PRESETS["official"].length_for("chatglm2-6b-32k") == 31500
    assert PRESETS["kvpress"].length_for(llama) is None
    assert PRESETS["duoattention"].tail_tokens == 50 and not PRESETS["kvpress"].query_aware


def test_duo_attention_cuts_what_a_model_goes_on_with() -> None:
    duo = get_preset("duoattention")
    assert finish_prediction(duo, " Paris\n\nQuestion: where?") == "Paris"
    assert finish_prediction(duo, "Paris (Document 3)\n\nAnswer") == "Paris"
    assert finish_prediction(duo, "红灯笼 问题：哪里", "dureader") == "红灯笼"
    assert finish_prediction(duo, "红灯笼 问题：哪里", "vcsum") == "红灯笼 问题：哪里"
    assert finish_prediction(get_preset("official"), " Paris\n\nQuestion: where?") == " Paris\n\nQuestion: where?"


def test_duo_attention_runs_the_last_fifty_tokens_on_the_compressed_cache(world: Any, tokenizer: Any) -> None:
    duo = get_preset("duoattention")
    prompt = build_prompt(duo, "qasper", TEMPLATE, world.record(0, context="w " * 200), tokenizer)
    assert prompt.context_tokens == len(prompt.input_ids) - 50
    short = build_prompt(duo, "qasper", TEMPLATE, world.record(0), tokenizer)
    assert short.context_tokens == 1, "there is always something to compress"


def test_every_preset_names_its_source_and_unknown_ones_are_answered() -> None:
    assert all(preset.paper and preset.released for preset in PRESETS.values())
    assert set(side_by_side()["max_length"]) == set(PRESETS) and side_by_side()["query_aware"]["kvpress"] == "no"
    with pytest.raises(LongBenchError, match="kvcache-factory"):
        get_preset("snapkv")


def test_answer_lengths_and_stop_tokens_can_be_set(tokenizer: Any) -> None:
    qasper, samsum = (replace(PLAIN, max_new_tokens=n) for n in (7, (("samsum", 9),)))
    assert [answer_length(p, "qasper", TEMPLATES) for p in (PLAIN, qasper, samsum)] == [40, 7, 40]
    assert answer_length(samsum, "samsum", TEMPLATES) == 9
    assert answer_length(replace(qasper, extra_new_tokens=2), "qasper_e", TEMPLATES) == 9
    rule = stop_rule(replace(PLAIN, stop_ids=(5, 1)), "qasper", TEMPLATES, tokenizer)
    assert rule.token_ids == (1, 5)
    with pytest.raises(LongBenchError, match="max_new_tokens"):
        replace(PLAIN, max_new_tokens=(("qasper", 0),))
