"""Architectures that people run, small and random: the model's own answers at full budget, a masked dense pass after
eviction, and scores from the model's own softmax, capped logits and sinks included.

tests/cache/test_every_model.py sweeps all classes more coarsely.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from greedy_steps import generated, step
from transformers import DynamicCache, PreTrainedModel

import cokv
from cokv.cache.prefill import prefill
from cokv.decode.batches import Row
from cokv.decode.decode import Stop, decode
from cokv.methods.method import Method
from cokv.methods.registry import get_method
from cokv.methods.scorers.accumulated_attention import AttentionSum
from cokv.methods.scorers.causal import window_attention
from cokv.types import CokvError, Selection

MakeModel = Callable[..., PreTrainedModel]
Prompt = Callable[..., torch.Tensor]
SEQ_LEN, NEW, BUDGET, WINDOW, PADDING = 48, 12, 16, 6, 5
OTHERS = ("mistral", "qwen2", "qwen3", "qwen3-hybrid", "gemma", "gemma3", "phi", "phi3", "olmo2", "smollm3", "granite")
OTHERS += ("cohere2", "mixtral")
SOFTMAX = ("gemma2", "gpt-oss")  # capped logits; sinks
HEADS = {"gemma": "mqa", "granite": "mqa", "phi": "mha", "olmo2": "mha"}  # grouped queries in the others
CASES = [("llama", "gqa"), *((name, HEADS.get(name, "gqa")) for name in OTHERS)]
CASES += [(name, heads) for name in SOFTMAX for heads in ("mha", "gqa", "mqa")]


def snapkv(model: PreTrainedModel) -> Any:
    return cokv.compress(model, "snapkv", kv_budget=BUDGET, window_size=WINDOW)


def read(model: PreTrainedModel, cache: Any, ids: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Logits [1 + len(after), vocab_size]: of the prompt's last token, and of those after it, one by one."""
    logits = [model(ids[None], past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0]]
    return torch.cat(logits + [step(model, cache, t.view(1, 1), len(ids) + i)[0] for i, t in enumerate(after)])


@pytest.mark.parametrize(("family", "heads"), CASES)
@torch.no_grad()
def test_an_architecture_is_right(
    make_model: MakeModel, prompt: Prompt, dense_reference: Callable[..., torch.Tensor], family: str, heads: str
) -> None:
    model, ids, after = make_model(family, heads), prompt(SEQ_LEN), prompt(NEW, seed=1)
    own, logits = generated(model, ids, NEW), read(model, DynamicCache(config=model.config), ids, after)
    full = read(model, cokv.compress(model, "full"), ids, after)
    torch.testing.assert_close(full, logits, rtol=0, atol=1e-4)
    assert generated(model, ids, NEW, past_key_values=cokv.compress(model, "full")).tolist() == own.tolist()

    read_once = prefill(model, ids, WINDOW)
    selection = get_method("snapkv", window_size=WINDOW).select(read_once, BUDGET)
    expected = dense_reference(model, ids, after, selection.mask())
    assert (expected - logits[1:]).abs().max() > 1e-2, "nothing of weight has been evicted"
    torch.testing.assert_close(read(model, snapkv(model), ids, after)[1:], expected, rtol=0, atol=1e-4)

    padded = torch.stack([torch.cat([torch.zeros(PADDING, dtype=torch.long), ids]), prompt(SEQ_LEN + PADDING, seed=2)])
    mask = torch.ones_like(padded)
    mask[0, :PADDING] = 0
    settings: dict[str, Any] = {"attention_mask": mask, "max_new_tokens": NEW, "do_sample": False}
    batch = model.generate(padded, past_key_values=snapkv(model), **settings)
    assert batch[0, -NEW:].tolist() == generated(model, ids, NEW, past_key_values=snapkv(model)).tolist()
    assert batch[1, -NEW:].tolist() == generated(model, padded[1], NEW, past_key_values=snapkv(model)).tolist()


@pytest.mark.parametrize("family", ["gemma", "gemma3", "phi", "mixtral", *SOFTMAX])
@torch.no_grad()
def test_bfloat16_is_no_further_off_than_transformers_own(
    make_model: MakeModel, fresh_model: MakeModel, prompt: Prompt, family: str
) -> None:
    ids, after, half = prompt(SEQ_LEN), prompt(NEW, seed=1), fresh_model(family).to(torch.bfloat16)
    exact = read(make_model(family), DynamicCache(), ids, after)
    own = read(half, DynamicCache(config=half.config), ids, after).float() - exact
    ours = read(half, cokv.compress(half, "full"), ids, after).float() - exact
    assert ours.square().mean() < 1.2 * own.square().mean()


@pytest.mark.parametrize("way", ["ragged", "shared", "trie"])
@pytest.mark.parametrize(("family", "heads"), [("gemma2", "gqa"), ("gpt-oss", "gqa"), ("gpt-oss", "mqa")])
def test_every_way_to_decode_knows_caps_and_sinks(
    make_model: MakeModel,
    prompt: Prompt,
    uneven_mask: Callable[..., torch.Tensor],
    dense_reference: Callable[..., torch.Tensor],
    family: str,
    heads: str,
    way: Any,
) -> None:
    model, ids = make_model(family, heads), prompt(SEQ_LEN)
    read_once = prefill(model, ids)
    shape = read_once.shape
    masks = [uneven_mask(shape.num_layers, shape.num_kv_heads, SEQ_LEN, seed) for seed in range(4)]
    answers = decode(model, read_once, [Row(Selection.from_mask(mask)) for mask in masks], Stop(NEW), way=way)
    assert len({tuple(answer.tokens) for answer in answers}) > 1, "rows that all answer alike test nothing"
    for mask, answer in zip(masks, answers, strict=True):
        logits = dense_reference(model, ids, torch.tensor(answer.tokens[:-1]), mask)
        assert logits.argmax(-1).tolist() == answer.tokens[1:]


@pytest.mark.parametrize("family", ["llama", *SOFTMAX])
@torch.no_grad()
def test_scores_are_of_the_models_own_attention(fresh_model: MakeModel, prompt: Prompt, family: str) -> None:
    """What an eager model says its attention was: without the sinks' column, so that it sums to less than 1."""
    model, ids = fresh_model(family), prompt(SEQ_LEN)
    model.set_attn_implementation("eager")
    attentions = model(ids[None], output_attentions=True).attentions
    for layer in prefill(model, ids, WINDOW, [AttentionSum()]).layers:
        own = attentions[layer.layer_idx][0].unflatten(0, (2, 2))
        assert (own.sum(-1) < 0.999).any() == (family == "gpt-oss")
        window = torch.cat(list(window_attention(layer, WINDOW)))
        torch.testing.assert_close(window, own[:, :, -WINDOW:], rtol=0, atol=1e-6)
        (sums,) = layer.observation(AttentionSum())
        torch.testing.assert_close(sums, own.sum(2).mean(1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", ["kvzip", "fastgen", "razorattention", "arkvale", "kivi4", "think", "cake"])
@pytest.mark.parametrize("family", SOFTMAX)
def test_methods_that_attend_in_their_own_ways_keep_what_they_promise(
    make_model: MakeModel,
    prompt: Prompt,
    words: Any,
    small_method: Callable[..., Method],
    profile_of: Callable[..., Any],
    family: str,
    method: str,
) -> None:
    """`compress` and `decode` from a prefill answer alike."""
    model, ids, chosen = make_model(family, layer_types=["full_attention"] * 3), prompt(96), small_method(method)
    budget, profile = (64 if chosen.takes_budget else None), profile_of(chosen, 3)
    read_once = prefill(model, ids, chosen.window_size or 1, chosen.observers, words)
    row = Row(chosen.select(read_once, budget, profile), chosen.bound_policy(budget, 96, 3, 2, profile))
    (expected,) = decode(model, read_once, [row], Stop(NEW), first_token="compressed")
    cache = cokv.compress(model, chosen, kv_budget=budget, profile=profile, tokenizer=words)
    cache.prefill(ids)
    assert generated(model, ids, NEW, past_key_values=cache).tolist() == expected.tokens


def test_a_softmax_that_an_implementation_leaves_out_is_refused(fresh_model: MakeModel) -> None:
    """Before 5.20 sdpa computes Gemma 2 without its caps, and no version has sinks in it."""
    for family, what in zip(SOFTMAX, ("caps its attention logits", "has attention sinks"), strict=True):
        model = fresh_model(family)
        cokv.compress(model, "full")
        model.config._attn_implementation = "sdpa"
        for _ in range(2):  # attached before, or not
            with pytest.raises(CokvError, match=rf"^G\w+ForCausalLM {what}, .* 'sdpa' .*attn_implementation='eager'"):
                cokv.compress(model, "full")
            cokv.detach(model)
        assert model.config._attn_implementation == "sdpa"


def test_expected_attention_has_no_formula_for_a_cap(make_model: MakeModel, prompt: Prompt) -> None:
    cache = cokv.compress(make_model("gemma2"), "expectedattention", kv_budget=BUDGET)
    with pytest.raises(CokvError, match=r"expectedattention: .*caps its attention logits"):
        generated(make_model("gemma2"), prompt(SEQ_LEN), NEW, past_key_values=cache)
