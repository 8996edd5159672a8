"""What people do with a cache of `cokv.compress`: threads, batches, beams, chats, copies, other caches beside it."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

import cokv
from cokv.cache.attention.attachment import PREFIX, base_implementation, ragged_attention
from cokv.cache.cache import RaggedCache
from cokv.cache.prefill import prefill
from cokv.types import CokvError

MakeModel = Callable[..., PreTrainedModel]
Prompt = Callable[..., torch.Tensor]
SEQ_LEN, NEW = 90, 20
KINDS = ["snapkv", "h2o", "streamingllm", "fastgen", "razorattention", "kivi4", "snapkv_think", "arkvale", "cokv"]


@pytest.fixture
def compressed(small_method: Any, profile_of: Any, words: Any) -> Callable[..., cokv.CompressedCache]:
    def make(model: PreTrainedModel, name: str, kv_budget: Any = 40) -> cokv.CompressedCache:
        method = small_method(name)
        shape = (model.config.num_hidden_layers, model.config.num_key_value_heads)
        budget = kv_budget if method.takes_budget else None
        return cokv.compress(model, method, budget, profile_of(method, *shape), tokenizer=words)

    return make


def generate(
    model: PreTrainedModel, ids: torch.Tensor, cache: Any = None, new: int = NEW, **arguments: Any
) -> list[int]:
    """With a mask: else transformers takes token 0, which models here do write, for padding."""
    mask = torch.ones_like(ids)[None]
    settings: dict[str, Any] = {"attention_mask": mask, "max_new_tokens": new, "do_sample": False, **arguments}
    return model.generate(ids[None], past_key_values=cache, **settings)[0, len(ids) :].tolist()


def refusal(call: Callable[[], Any]) -> str:
    """The one line that a call is refused with."""
    with pytest.raises(CokvError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- side by side


@pytest.mark.parametrize("models", [1, 2])
def test_threads_do_not_meet(fresh_model: MakeModel, prompt: Prompt, compressed: Any, models: int) -> None:
    """With a model and a cache each, or with a cache each on one model."""
    first = fresh_model()
    second = first if models == 1 else fresh_model(heads="mha", seed=1)
    work = [(first, "snapkv", prompt(SEQ_LEN)), (second, "h2o", prompt(SEQ_LEN + 7, seed=1))]
    expected = [generate(model, ids, compressed(model, name), 40) for model, name, ids in work]
    caches = [compressed(model, name) for model, name, _ in work]
    answers: list[Any] = [None, None]
    begin = threading.Barrier(2)

    def run(which: int) -> None:
        begin.wait()
        answers[which] = generate(work[which][0], work[which][2], caches[which], 40)

    threads = [threading.Thread(target=run, args=(which,)) for which in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == expected


def test_other_caches_answer_as_before(fresh_model: MakeModel, prompt: Prompt, compressed: Any) -> None:
    model, ids = fresh_model(), prompt(SEQ_LEN)
    settings = {"cache_implementation": "static", "disable_compile": True}
    expected, logits = generate(model, ids), model(ids[None]).logits
    static = generate(model, ids, **settings)
    cache = compressed(model, "snapkv")
    half = generate(model, ids, cache, 10)
    assert torch.equal(model(ids[None]).logits, logits)
    assert generate(model, ids) == generate(model, ids, DynamicCache(config=model.config)) == expected
    assert generate(model, ids, **settings) == static == expected
    whole = generate(model, ids, compressed(model, "snapkv"))
    assert half + generate(model, torch.cat([ids, torch.tensor(half)]), cache, 10) == whole != expected
    cokv.detach(model)
    assert torch.equal(model(ids[None]).logits, logits)
    assert generate(model, ids) == expected


def test_caches_of_one_model_take_turns(make_model: MakeModel, prompt: Prompt, compressed: Any) -> None:
    model = make_model()
    prompts = {"snapkv": prompt(SEQ_LEN), "cake": prompt(SEQ_LEN, seed=1), "kivi4": prompt(SEQ_LEN + 9, seed=2)}
    expected = {name: generate(model, ids, compressed(model, name), 12) for name, ids in prompts.items()}
    caches = {name: compressed(model, name) for name in prompts}
    for new in (1, 5, 6):
        for name, ids in prompts.items():
            prompts[name] = torch.cat([ids, torch.tensor(generate(model, ids, caches[name], new))])
    assert {name: ids[-12:].tolist() for name, ids in prompts.items()} == expected


def test_detach_restores_and_a_cache_says_so(fresh_model: MakeModel, prompt: Prompt, compressed: Any) -> None:
    model, ids = fresh_model(), prompt(SEQ_LEN)
    cache = compressed(model, "snapkv")
    compressed(model, "h2o")
    assert model.config._attn_implementation == PREFIX + "sdpa" and base_implementation(model) == "sdpa"
    cokv.detach(model)
    assert model.config._attn_implementation == "sdpa"
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert "never attends the keys that its cache returned" in refusal(lambda: generate(model, ids, cache))
    cache.reset()
    cokv.attach(model)
    assert generate(model, ids, cache) == generate(model, ids, compressed(model, "snapkv"))


@pytest.mark.parametrize("name", KINDS)
def test_an_eager_model_answers_as_with_sdpa(
    fresh_model: MakeModel, prompt: Prompt, compressed: Any, name: str
) -> None:
    ids, answers = prompt(SEQ_LEN), {}
    model = fresh_model()
    for base in ("sdpa", "eager"):
        cokv.detach(model)
        model.set_attn_implementation(base)
        cache = compressed(model, name)
        assert base_implementation(model) == base
        answers[base] = (generate(model, ids, cache), cache.held())
    assert answers["eager"] == answers["sdpa"]


@pytest.mark.parametrize("name", ["snapkv", "h2o"])
def test_an_implementation_set_later_is_followed_or_refused(
    fresh_model: MakeModel, prompt: Prompt, compressed: Any, name: str
) -> None:
    """`set_attn_implementation` after `compress` takes our function away: nothing is then answered wrongly."""
    model, ids = fresh_model(), prompt(SEQ_LEN)
    cache = compressed(model, name)
    expected = generate(model, ids, compressed(model, name))
    model.set_attn_implementation("eager")
    assert "never attends the keys that its cache returned" in refusal(lambda: generate(model, ids, cache))
    assert generate(model, ids, compressed(model, name)) == expected, "compress attaches anew"


# ---- copies


def pickled(cache: cokv.CompressedCache) -> Any:
    return pickle.loads(pickle.dumps(cache))


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("name", KINDS)
def test_a_copy_of_a_filled_cache_goes_on_with_the_same_tokens(
    make_model: MakeModel, prompt: Prompt, compressed: Any, name: str, copied: Any
) -> None:
    model, ids = make_model(), prompt(SEQ_LEN)
    cache = compressed(model, name)
    token_ids = torch.cat([ids, torch.tensor(generate(model, ids, cache, 8))])
    twin = copied(cache)
    assert twin.held() == cache.held() and twin.memory() == cache.memory()
    rest = generate(model, token_ids, cache, 12)
    assert generate(model, token_ids, twin, 12) == rest
    assert twin.held() == cache.held()


@pytest.mark.parametrize("name", KINDS)
def test_after_reset_it_takes_another_prompt(make_model: MakeModel, prompt: Prompt, compressed: Any, name: str) -> None:
    model = make_model()
    cache = compressed(model, name)
    first = generate(model, prompt(SEQ_LEN), cache)
    for ids in (prompt(SEQ_LEN + 13, seed=2), prompt(SEQ_LEN)):
        cache.reset()
        assert cache.get_seq_length() == cache.stored_tokens == cache.storage_bytes == 0
        assert cache.memory() == cokv.CacheMemory(0, 0, 0, 0, 0, 0)
        answer = generate(model, ids, cache)
        assert answer == generate(model, ids, compressed(model, name))
    assert answer == first


# ---- how it is run


def test_autocast_answers_as_a_dynamic_cache_does(make_model: MakeModel, prompt: Prompt, compressed: Any) -> None:
    """As near to float32 as transformers' own cache comes: which of two close tokens wins is rounding."""
    model, ids, answer = make_model(), prompt(SEQ_LEN), prompt(12, seed=3)

    def logits(cache: Any) -> torch.Tensor:
        read = [ids, *answer.split(1)]
        with torch.no_grad():
            return torch.stack([model(part[None], past_key_values=cache).logits[0, -1].float() for part in read])

    exact = logits(DynamicCache(config=model.config))
    with torch.autocast("cpu", torch.bfloat16):
        error = (logits(DynamicCache(config=model.config)) - exact).norm()
        assert error > 1e-3 * exact.norm(), "bfloat16 that changes nothing tests nothing"
        for cache in (compressed(model, "full"), compressed(model, "snapkv", 1000)):
            assert (logits(cache) - exact).norm() < 1.3 * error


@pytest.mark.parametrize("name", ["snapkv", "criticalkv", "cake"])
def test_a_copy_of_an_unread_cache_is_for_the_same_model(
    make_model: MakeModel, prompt: Prompt, compressed: Any, name: str
) -> None:
    model, ids = make_model(), prompt(SEQ_LEN)
    cache = compressed(model, name)
    copied = copy.deepcopy(cache)
    expected = generate(model, ids, cache)
    assert generate(model, ids, copied) == expected
    assert generate(model, ids, compressed(model, name)) == expected, "copies share nothing"


def test_an_unread_cache_that_was_pickled_says_that_it_has_lost_its_model(
    make_model: MakeModel, prompt: Prompt, compressed: Any
) -> None:
    model, ids = make_model(), prompt(SEQ_LEN)
    with pytest.raises(CokvError, match="criticalkv: needs the model, which this cache has lost"):
        generate(model, ids, pickled(compressed(model, "criticalkv")))
    assert generate(model, ids, pickled(compressed(model, "snapkv"))) == generate(
        model, ids, compressed(model, "snapkv")
    )


@pytest.mark.parametrize("name", KINDS)
def test_a_prompt_in_inference_mode_and_steps_without(
    make_model: MakeModel, prompt: Prompt, compressed: Any, name: str
) -> None:
    model, ids = make_model(), prompt(SEQ_LEN)
    expected = generate(model, ids, compressed(model, name))
    cache = compressed(model, name)
    with torch.inference_mode():
        tokens = [int(model(ids[None], past_key_values=cache).logits[0, -1].argmax())]
    with torch.no_grad():
        while len(tokens) < NEW:
            logits = model(torch.tensor([tokens[-1:]]), past_key_values=cache).logits
            tokens.append(int(logits[0, -1].argmax()))
    assert tokens == expected


@pytest.mark.parametrize("name", ["full", "snapkv", "h2o"])
@pytest.mark.parametrize("family", ["llama", "qwen3-hybrid"])
def test_beams_at_full_budget_are_the_models_own(
    make_model: MakeModel, prompt: Prompt, compressed: Any, family: str, name: str
) -> None:
    model, ids = make_model(family), prompt(40)
    expected = generate(model, ids, None, NEW, num_beams=3)
    assert generate(model, ids, compressed(model, name, 200), NEW, num_beams=3) == expected


@pytest.mark.parametrize("name", [*KINDS, "scissorhands", "tova", "cake", "duoattention", "knorm"])
def test_rows_of_a_padded_batch_answer_as_alone(
    make_model: MakeModel, prompt: Prompt, compressed: Any, name: str
) -> None:
    model, lengths = make_model(), [SEQ_LEN, 61, 77]
    prompts = [prompt(n, seed) for seed, n in enumerate(lengths)]
    ids = torch.stack([torch.cat([torch.zeros(SEQ_LEN - len(p), dtype=torch.long), p]) for p in prompts])
    cache = compressed(model, name)
    settings: dict[str, Any] = {"attention_mask": (ids != 0).long(), "max_new_tokens": NEW, "do_sample": False}
    got = model.generate(ids, past_key_values=cache, **settings)[:, SEQ_LEN:]
    for row, one in enumerate(prompts):
        alone = compressed(model, name)
        assert got[row].tolist() == generate(model, one, alone)
        assert cache.held()[row].slots == alone.held()[0].slots


@pytest.mark.parametrize("name", ["snapkv", "h2o", "fastgen", "kivi4", "arkvale"])
def test_a_second_turn_is_read_on_the_compressed_cache(
    make_model: MakeModel, prompt: Prompt, compressed: Any, small_method: Any, words: Any, name: str
) -> None:
    model, ids, question = make_model(), prompt(SEQ_LEN), prompt(11, seed=5)
    cache, method = compressed(model, name), small_method(name)
    first = generate(model, ids, cache, 9)
    chat = torch.cat([ids, torch.tensor(first), question])
    second = generate(model, chat, cache, 12)

    prefilled = prefill(model, ids, method.window_size or 1, method.observers, words)
    budget = 40 if method.takes_budget else None
    filled = RaggedCache.of(prefilled, [method.select(prefilled, budget)], [method.bound_policy(budget, SEQ_LEN, 3, 2)])
    with ragged_attention(model), torch.no_grad():
        logits = model(chat[None, SEQ_LEN:], past_key_values=filled).logits
        tokens = [int(logits[0, -1].argmax())]
        while len(tokens) < 12:
            tokens.append(int(model(torch.tensor([tokens[-1:]]), past_key_values=filled).logits[0, -1].argmax()))
    assert second == tokens
    assert cache.held() == filled.held()


# ---- tokens that are taken back


# Older versions of transformers never take tokens back in layers with a sliding window.
TAKES_BACK = hasattr(DynamicCache, "activate_past_recording")

# Before 5.10 prompt lookup fails on models without an end of sequence: here it is an id that no token has.
LOOKUP: dict[str, Any] = {"prompt_lookup_num_tokens": 3, "eos_token_id": 10**6}


@pytest.mark.parametrize(
    ("family", "name"),
    [
        *(("llama", name) for name in ("full", "snapkv", "cokv", "snapkv_think", "arkvale")),
        *(("qwen3-hybrid", name) for name in ("snapkv", "arkvale") if TAKES_BACK),
    ],
)
def test_assisted_decoding_gives_the_tokens_of_plain_generation(
    make_model: MakeModel, prompt: Prompt, compressed: Any, family: str, name: str
) -> None:
    """By looking up in the prompt, and with a smaller model: guesses are often right, and often wrong."""
    model, ids = make_model(family), prompt(15).repeat(6)
    draft = make_model(family, rms_norm_eps=0.3)  # nearly the same model
    caches = [compressed(model, name) for _ in range(3)]
    for cache in caches:
        cache.prefill(ids)
    plain, looked, drafted = caches
    expected = generate(model, ids, plain, 30)
    assert generate(model, ids, looked, 30, **LOOKUP) == expected
    assert generate(model, ids, drafted, 30, assistant_model=draft, eos_token_id=10**6) == expected
    for cache in (looked, drafted):
        assert plain.held()[0].slots <= cache.held()[0].slots <= plain.held()[0].slots + 60


@pytest.mark.parametrize("name", ["h2o", "streamingllm", "kivi4"])
def test_prompt_lookup_is_refused_where_tokens_cannot_be_given_back(
    make_model: MakeModel, prompt: Prompt, compressed: Any, name: str
) -> None:
    model, ids = make_model(), prompt(15).repeat(6)
    cache = compressed(model, name)
    cache.prefill(ids)
    assert "cannot give back what it dropped" in refusal(lambda: generate(model, ids, cache, 30, **LOOKUP))


def test_prompt_lookup_without_reading_the_prompt_first_is_refused(
    make_model: MakeModel, prompt: Prompt, compressed: Any
) -> None:
    model, ids = make_model(), prompt(15).repeat(6)
    message = refusal(lambda: generate(model, ids, compressed(model, "snapkv"), 30, **LOOKUP))
    assert "cache.prefill(input_ids)" in message


def test_crop_takes_back_exactly_what_was_read(make_model: MakeModel, prompt: Prompt, compressed: Any) -> None:
    model, ids, more = make_model(), prompt(SEQ_LEN), prompt(12, seed=3)[None]
    cache = compressed(model, "snapkv")
    with torch.no_grad():
        model(ids[None], past_key_values=cache)
        before = cache.held()
        expected = model(more, past_key_values=cache).logits
        after = cache.held()
        cache.crop(0)
        assert cache.held() == after
        cache.crop(-12)
        assert [held.slots for held in cache.held()] == [held.slots for held in before]
        assert cache.get_seq_length() == SEQ_LEN
        model(prompt(12, seed=9)[None], past_key_values=cache)
        cache.crop(-12)
        assert torch.equal(model(more, past_key_values=cache).logits, expected)
    assert "reach into the prompt of 90 tokens" in refusal(lambda: cache.crop(-13))
    assert "97 tokens reach into the prompt" in refusal(lambda: cache.crop(5)), "a length to keep"
    assert cache.get_seq_length() == SEQ_LEN + 12, "all layers or none"
