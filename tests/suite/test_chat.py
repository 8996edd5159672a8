"""RULER prompts in a model's chat template, and what ends their answers."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from chat_tokenizers import CHATML, LLAMA3, tokenizer_with
from transformers import LlamaConfig, LlamaForCausalLM

from cokv.model.chat import turn_end, user_turn_around
from cokv.model.loading import LoadedModel, load_model
from cokv.types import CokvError
from longbench.presets import get_preset
from longbench.protocol import build_prompt
from reports.chat import WITH_TEMPLATE, WITHOUT_TEMPLATE, template_line
from ruler.data import read_file
from ruler.generate import generate
from ruler.sample import Draft
from suite.heads.games import gold_ids
from suite.profiles.prompts import needle_prompts, passkey_prompts
from suite.spec import Experiment, ProfilesSpec, RulerSpec
from suite.tasks import ruler_tasks
from suite.tasks.prompt import Prompt, continuation
from suite.tasks.ruler_text import RulerText

LENGTH = 400
TASKS = ("niah_single_1", "vt")
ENDS = {CHATML: "<|im_end|>", LLAMA3: "<|eot_id|>"}
templates = pytest.mark.parametrize("template", [CHATML, LLAMA3], ids=["chatml", "llama3"])


def loaded_with(tokenizer) -> LoadedModel:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    return LoadedModel("tiny", None, LlamaForCausalLM(config).eval(), tokenizer, "0")


def spec(**more) -> RulerSpec:
    return RulerSpec(**({"preset": "mini", "length": LENGTH, "tasks": TASKS, "samples": 3} | more))


def prompts(loaded: LoadedModel, aware: bool = True, validation: bool = False, **more) -> list[Prompt]:
    made = spec(**more)
    return [p for task in made.tasks for p in ruler_tasks.prompts(made, loaded, task, 3, 0, aware, validation)]


@templates
@pytest.mark.parametrize("validation", [False, True])
def test_a_prompt_is_the_reference_rendering_with_the_answer_prefix_behind_it(template, validation):
    loaded = loaded_with(tokenizer_with(template))
    tokenizer = loaded.tokenizer
    for prompt in prompts(loaded, validation=validation):
        text = tokenizer.decode(prompt.context_ids)
        user = text[: text.rindex(prompt.answer_prefix)]
        sample = next(s for s in _samples(tokenizer, prompt, validation) if s.sample_id == prompt.sample_id)
        turn = [{"role": "user", "content": sample.context + sample.question}]
        reference = tokenizer.apply_chat_template(turn, tokenize=True, add_generation_prompt=True, return_dict=False)
        prefix = tokenizer.encode(sample.answer_prefix, add_special_tokens=False)
        assert prompt.context_ids.tolist() == reference + prefix, "byte-level pieces do not join over the newline"
        assert user == tokenizer.decode(reference)
        if tokenizer.bos_token_id is not None:
            assert prompt.context_ids.tolist().count(tokenizer.bos_token_id) == 1, "one BOS: the template's"
        assert WITH_TEMPLATE in prompt.notes


def _samples(tokenizer, prompt: Prompt, validation: bool):
    """The samples behind the prompts of one task."""
    offset = 1_000_000 if validation else 0
    text = RulerText.of(spec(), tokenizer)
    return generate(prompt.task, tokenizer, LENGTH, 3, 0, "mini", offset=offset, as_read=text.whole)


@templates
def test_prompt_template_and_answer_fit_the_length_and_fill_it(template):
    loaded = loaded_with(tokenizer_with(template))
    for prompt in prompts(loaded):
        used = prompt.prompt_tokens + prompt.stop.max_new_tokens
        assert LENGTH - 60 < used <= LENGTH, f"{prompt.task} uses {used} of {LENGTH} tokens"


@templates
def test_a_question_agnostic_prompt_is_cut_between_context_and_question(template):
    loaded = loaded_with(tokenizer_with(template))
    tokenizer = loaded.tokenizer
    for aware, split in zip(prompts(loaded), prompts(loaded, aware=False), strict=True):
        assert split.question_ids is not None
        joined = torch.cat([split.context_ids, split.question_ids])
        assert joined.tolist() == aware.context_ids.tolist(), "the newline before the question begins a token anyway"
        context, rest = tokenizer.decode(split.context_ids), tokenizer.decode(split.question_ids)
        assert ENDS[template] not in context.split("helpful.<|im_end|>")[-1], "the user's turn is still open"
        assert ENDS[template] in rest and rest.endswith(aware.answer_prefix)
        assert "?" in rest and rest.startswith("\n"), "the question is the rest's beginning"


@templates
@pytest.mark.parametrize("aware", [True, False])
def test_chat_never_and_no_template_give_the_bare_prompt(template, aware):
    tokenizer = tokenizer_with(template)
    never = prompts(loaded_with(tokenizer), aware, chat="never")
    tokenizer.chat_template = None
    none = prompts(loaded_with(tokenizer), aware)
    for a, b in zip(never, none, strict=True):
        assert (
            a.context_ids.tolist() == b.context_ids.tolist() and WITHOUT_TEMPLATE in a.notes and b.notes == a.notes[:-1]
        )
        assert not {WITH_TEMPLATE, WITHOUT_TEMPLATE} & set(b.notes)
        assert (a.context_ids[0] == tokenizer.bos_token_id) == (template is LLAMA3)


def test_prepared_data_is_read_as_it_stands(tmp_path):
    loaded = loaded_with(tokenizer_with(CHATML))
    path = tmp_path / "niah_single_1.jsonl"
    path.write_text(
        '{"index": 0, "input": "<|im_start|>user\\nFind it.<|im_end|>\\n", "outputs": ["a"], "length": 40}\n'
    )
    made = RulerSpec(length=LENGTH, tasks=("niah_single_1",), samples=1, data=str(path))
    (prompt,) = ruler_tasks.prompts(made, loaded, "niah_single_1", 1, 0, True, False)
    (sample,) = read_file(path)
    assert loaded.tokenizer.decode(prompt.context_ids) == sample.prompt
    assert not {WITH_TEMPLATE, WITHOUT_TEMPLATE} & set(prompt.notes), "what its input holds is the file's matter"


@templates
def test_a_turn_ends_where_the_template_ends_it_whatever_the_configs_say(template):
    loaded = loaded_with(tokenizer_with(template))
    tokenizer = loaded.tokenizer
    turn = tokenizer.convert_tokens_to_ids(ENDS[template])
    loaded.model.generation_config.eos_token_id = [7, 8]
    assert loaded.eos_ids == (turn, 7, 8, tokenizer.eos_token_id)
    assert all(turn in p.stop.stop_ids for p in prompts(loaded))
    tokenizer.chat_template = None
    assert turn_end(tokenizer) is None


def test_a_template_without_an_end_token_ends_no_turn():
    tokenizer = tokenizer_with(CHATML)
    tokenizer.chat_template = "{% for m in messages %}### {{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    assert turn_end(tokenizer) is None
    tokenizer.chat_template = "{{ raise_exception('only tools') }}"
    assert turn_end(tokenizer) is None
    with pytest.raises(CokvError, match="only tools"):
        user_turn_around(tokenizer, "a", "b")
    tokenizer.chat_template = "no turns"
    with pytest.raises(CokvError, match="0 times; expected once"):
        user_turn_around(tokenizer, "a", "b")


def test_a_template_that_states_the_date_states_the_same_one_tomorrow(random_model, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(random_model, folder)
    dated = "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% endif %} " + CHATML
    (folder / "chat_template.jinja").write_text(dated, encoding="utf-8")
    tokenizer = load_model(str(folder)).tokenizer
    assert user_turn_around(tokenizer, "a", "b")[0].startswith("26 Jul 2024 <|im_start|>")
    built = build_prompt(
        get_preset("official"), "qasper", "{context} {input}", {"context": "a", "input": "b"}, tokenizer
    )
    assert built.chat and built.text.startswith("26 Jul 2024 <|im_start|>")


def test_bos_in_writing_is_the_only_one(tmp_path):
    loaded = loaded_with(tokenizer_with(LLAMA3))
    tokenizer = loaded.tokenizer
    turn = [{"role": "user", "content": "Find it."}]
    written = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    path = tmp_path / "niah_single_1.jsonl"
    path.write_text(json.dumps({"index": 0, "input": written, "outputs": ["a"], "length": 40}) + "\n")
    made = RulerSpec(length=LENGTH, tasks=("niah_single_1",), samples=1, data=str(path))
    (prompt,) = ruler_tasks.prompts(made, loaded, "niah_single_1", 1, 0, True, False)
    reference = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=False)
    assert prompt.context_ids.tolist() == reference


def test_a_text_that_holds_the_mark_is_cut_at_the_right_place():
    before, after = user_turn_around(tokenizer_with(CHATML), "a [cut] [[cut]] b", " [cut] c")
    assert before.endswith("a [cut] [[cut]] b") and after.startswith(" [cut] c<|im_end|>")


@templates
def test_gold_answers_go_on_behind_the_prefix_and_end_the_turn(template):
    loaded = loaded_with(tokenizer_with(template))
    tokenizer = loaded.tokenizer
    turn = tokenizer.convert_tokens_to_ids(ENDS[template])
    for prompt in prompts(loaded, validation=True, tasks=("niah_single_1",)):
        gold = gold_ids(loaded, prompt)
        room = replace(prompt, stop=replace(prompt.stop, max_new_tokens=99))
        ended = gold_ids(loaded, room)
        assert gold is not None and ended is not None and ended[-1] == turn and gold == ended[: len(gold)]
        whole = tokenizer.decode(prompt.context_ids) + prompt.gold
        assert [*prompt.context_ids.tolist(), *ended[:-1]] == tokenizer.encode(whole, add_special_tokens=False)


def test_a_continuation_has_no_space_of_a_texts_beginning():
    """SentencePiece-like: every text begins with a space of its own."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<unk>": 0, "▁is": 1, "▁7": 2, "▁": 3}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    assert continuation(fast, "is", " 7") == [2]
    assert continuation(fast, "", " 7") == fast.encode(" 7", add_special_tokens=False)


@templates
def test_profiles_are_measured_on_wrapped_prompts_and_know_where_the_needle_is(template):
    loaded = loaded_with(tokenizer_with(template))
    experiment = Experiment(
        name="chat",
        methods=({"name": "full"},),
        kv_budgets=(16,),
        seeds=(0,),
        model={"name": "tiny"},
        ruler=spec(length=800),
        profiles=ProfilesSpec(prompts=2, length=800),
    )
    tokenizer = loaded.tokenizer
    for needle in needle_prompts(experiment, loaded):
        ids = needle.prompt.input_ids
        sentence = tokenizer.decode(ids[needle.start : needle.end])
        assert sentence.strip().startswith("The secret") and sentence.endswith("."), sentence
        assert tokenizer.decode(ids).count(ENDS[template]) == (2 if template is CHATML else 1)
        assert needle.prompt.stop.stop_ids == loaded.eos_ids
        assert len(ids) <= 800
    for passkey in passkey_prompts(experiment, loaded, None):
        text = tokenizer.decode(passkey.input_ids[: passkey.start])
        assert ENDS[template] in text and not text.endswith(ENDS[template])
        assert ENDS[template] not in tokenizer.decode(passkey.input_ids[passkey.start :])


def test_a_report_names_the_tasks_read_without_the_template():
    def record(task: str, *notes: str) -> dict:
        return {"benchmark": "ruler", "task": task, "notes": list(notes)}

    assert template_line([record("vt", WITH_TEMPLATE), record("cwe")]) == ""
    assert "read ruler/cwe without it" in template_line([record("vt", WITH_TEMPLATE), record("cwe", WITHOUT_TEMPLATE)])
    assert "read all tasks without it" in template_line([record("cwe", WITHOUT_TEMPLATE)])


UNLESS = "{% if not enable_thinking | default(true) %}<think></think>{% endif %}"
THINKING = CHATML.replace("assistant\n", f"assistant\n{UNLESS}")


@pytest.mark.parametrize("thinking", [None, False])
def test_kvpress_rows_are_wrapped_as_its_pipeline_does_and_files_of_the_generator_are_not(thinking):
    """kvpress/pipeline.py: context and question in the user's turn, then its end, then the answer prefix."""
    tokenizer = tokenizer_with(CHATML)
    tokenizer.chat_template = THINKING
    arguments = {} if thinking is None else {"enable_thinking": thinking}
    common = {"length": 4096, "tasks": ("qa_1",), "samples": 1, "chat_arguments": arguments}
    rows = RulerText.of(RulerSpec(data="hub:simonjegou/ruler", **common), tokenizer)
    sample = Draft("The context.", "\nThe question?", " The answer is", ("x",), " x")
    turn = [{"role": "user", "content": "The context.\nThe question?"}]
    whole = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True, **arguments)
    assert ("<think>" in whole) == (thinking is False)
    assert rows.chat and rows.whole(sample) == whole + " The answer is"
    assert rows.parts(sample)[0].endswith("The context.")
    assert not RulerText.of(RulerSpec(data="prepared", **common), tokenizer).chat
    assert not RulerText.of(RulerSpec(data="hub:simonjegou/ruler", chat="never", **common), tokenizer).chat
