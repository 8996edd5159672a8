"""`cokv.compress` and `model.generate` give, token for token and byte for byte, what the benchmark's decoding gives.

The benchmark reads a prompt once and decodes every method from it; `compress` reads it inside `model.generate`. Both
must say the same, or the numbers of the one say nothing of the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

import cokv
from cokv.cache.attention.attachment import ragged_attention
from cokv.cache.cache import RaggedCache
from cokv.cache.policies.compensate import Compensate
from cokv.cache.policies.growth import EvictOldestWhereEvicted, Grow
from cokv.cache.policies.protocol import EvictsByAttention
from cokv.cache.policies.prune_channels import PruneChannels
from cokv.cache.policies.quantize import Quantize
from cokv.cache.policies.recall import Recall
from cokv.cache.prefill import Prefill, prefill
from cokv.decode.batches import Row
from cokv.decode.decode import Decoded, Stop, decode
from cokv.methods.method import NORMALIZED, Method, prefill_requirements
from cokv.methods.policies.fastgen import FastGenEviction
from cokv.types import CokvError, Infeasible, KVBudget, Selection

MakeModel = Callable[..., PreTrainedModel]
Prompt = Callable[..., torch.Tensor]
SEQ_LEN, NEW = 100, 65
PRESETS = [(name, preset) for name, method in cokv.METHODS.items() for preset in (NORMALIZED, *method.presets)]
EVERY = [(heads, *pair) for heads in ("gqa", "mha", "mqa") for pair in PRESETS]
EVERY = [case for case in EVERY if case[1:] != ("snapkv", "official") or case[0] == "mha"]  # per query head
FAMILIES = ("qwen3", "mistral", "qwen3-hybrid")
FEW = [(name, NORMALIZED) for name in ("adakv", "h2o", "kivi4", "cake")]
READ_FIRST = [case for case in EVERY if case[0] == "gqa" or case[2] == NORMALIZED]
GROW = (Grow, Quantize, PruneChannels)
GROW_WHERE_WHOLE = (EvictOldestWhereEvicted, Compensate, FastGenEviction)


def slots_per_head(method: Method) -> int | None:
    """Some keep a head whole, which 40 slots per head do not pay for where there are three heads."""
    return None if not method.takes_budget else 64 if method.name in ("razorattention", "duoattention") else 40


@dataclass(frozen=True, eq=False)
class Case:
    """One method on one prompt, by way of the benchmark."""

    method: Method
    profile: Any
    row: Row
    answers: dict[str, Decoded]  # by where the first token comes from

    @property
    def kv_budget(self) -> int | None:
        return slots_per_head(self.method)


@dataclass(frozen=True, eq=False)
class World:
    """A model, a prompt that it has read, and every method on it."""

    model: PreTrainedModel
    prefilled: Prefill
    cases: dict[tuple[str, str], Case]


@pytest.fixture(scope="module")
def worlds(make_model: MakeModel, prompt: Prompt, small_method: Any, profile_of: Any, words: Any) -> Any:
    """By family and heads: methods decoded as one batch, as a run does it, but for those whose rule compares attention:
    where two tokens are near a tie, what stands beside a row decides it by rounding.
    """
    built: dict[tuple[str, str], World] = {}

    def world(family: str, heads: str) -> World:
        if (family, heads) not in built:
            model = make_model(family, heads)
            pairs = [case[1:] for case in EVERY if case[0] == heads] if family == "llama" else FEW
            methods = [small_method(*pair) for pair in pairs]
            prefilled = prefill(model, prompt(SEQ_LEN, seed=4), *prefill_requirements(methods), words)
            shape = (prefilled.shape.num_layers, prefilled.shape.num_kv_heads)
            profiles = [profile_of(method, *shape) for method in methods]
            rows = [
                Row(
                    method.select(prefilled, slots_per_head(method), profile),
                    method.bound_policy(slots_per_head(method), SEQ_LEN, *shape, profile),
                )
                for method, profile in zip(methods, profiles, strict=True)
            ]
            firsts = ("prefill", "compressed")
            answers = {first: answered(model, prefilled, rows, first) for first in firsts}
            built[family, heads] = World(
                model,
                prefilled,
                {
                    pair: Case(methods[i], profiles[i], rows[i], {first: answers[first][i] for first in firsts})
                    for i, pair in enumerate(pairs)
                },
            )
        return built[family, heads]

    return world


def answered(model: PreTrainedModel, prefilled: Prefill, rows: list[Row], first: Any) -> list[Decoded]:
    alone = [i for i, row in enumerate(rows) if isinstance(row.policy, EvictsByAttention)]
    others = [i for i in range(len(rows)) if i not in alone]
    answers: dict[int, Decoded] = {}
    for batch in (others, *([i] for i in alone)):
        answers |= zip(
            batch, decode(model, prefilled, [rows[i] for i in batch], Stop(NEW), first_token=first), strict=True
        )
    return [answers[i] for i in range(len(rows))]


def generate(model: PreTrainedModel, ids: torch.Tensor, cache: Any, new: int = NEW, **settings: Any) -> list[int]:
    tokens = model.generate(ids[None], past_key_values=cache, max_new_tokens=new, do_sample=False, **settings)
    return tokens[0, len(ids) :].tolist()


def compressed(world: World, case: Case, tokenizer: Any) -> cokv.CompressedCache:
    return cokv.compress(world.model, case.method, case.kv_budget, case.profile, tokenizer=tokenizer)


def slots(case: Case, read: int) -> int:
    """What the contract grants after `read` further tokens."""
    selection = case.row.selection
    assert isinstance(selection, Selection)
    heads = selection.counts.size
    if isinstance(case.method.policy, Recall):
        return heads * slots_per_head(case.method)
    if isinstance(case.method.policy, GROW):
        return selection.total + read * heads
    whole = isinstance(case.method.policy, GROW_WHERE_WHOLE) * (selection.counts == selection.seq_len).sum()
    return int(selection.total + read * whole)


# ---- the same tokens, the same bytes


@pytest.mark.parametrize(("heads", "name", "preset"), EVERY)
def test_generate_answers_as_decode_does_and_holds_what_it_holds(
    worlds: Any, words: Any, heads: str, name: str, preset: str
) -> None:
    world = worlds("llama", heads)
    case, prefilled = world.cases[name, preset], world.prefilled
    expected = case.answers["prefill"]
    assert len(set(expected.tokens)) > 10, "a model that repeats itself tests nothing"
    cache = compressed(world, case, words)
    if cache.compression.further_passes:
        return  # see below
    assert generate(world.model, prefilled.input_ids, cache) == expected.tokens

    reference = RaggedCache.of(prefilled, [case.row.selection], [case.row.policy])
    with ragged_attention(world.model), torch.no_grad():
        world.model(torch.tensor([expected.tokens[:-1]]), past_key_values=reference)
    (held,), (counted,) = cache.held(), reference.held()
    assert held == counted
    memory = cache.memory()
    assert memory.tokens_held == cache.stored_tokens == held.slots == slots(case, NEW - 1)
    assert (memory.held_bytes, memory.host_bytes) == (held.bytes, held.host_bytes)
    assert memory.held_bytes + memory.slack_bytes == cache.storage_bytes
    assert memory.slack_bytes >= 0
    assert memory.tokens_read == (SEQ_LEN + NEW - 1) * prefilled.shape.num_layers * prefilled.shape.num_kv_heads
    assert memory.full_bytes == memory.tokens_read * prefilled.token_bytes


@pytest.mark.parametrize(("name", "preset"), FEW)
@pytest.mark.parametrize("family", FAMILIES)
def test_other_models_too(worlds: Any, words: Any, family: str, name: str, preset: str) -> None:
    world = worlds(family, "gqa")
    case = world.cases[name, preset]
    cache = compressed(world, case, words)
    assert generate(world.model, world.prefilled.input_ids, cache) == case.answers["prefill"].tokens
    assert cache.stored_tokens == slots(case, NEW - 1)


@pytest.mark.parametrize(("heads", "name", "preset"), READ_FIRST)
def test_a_prompt_read_first_is_decoded_from_the_compressed_cache(
    worlds: Any, words: Any, heads: str, name: str, preset: str
) -> None:
    """Its last token is read again, so that `model.generate` finds something to read."""
    world = worlds("llama", heads)
    case, ids = world.cases[name, preset], world.prefilled.input_ids
    cache = compressed(world, case, words)
    cache.prefill(ids)
    assert cache.get_seq_length() == SEQ_LEN - 1
    assert generate(world.model, ids, cache, 24) == case.answers["compressed"].tokens[:24]
    assert cache.stored_tokens == slots(case, 23)


def test_a_method_that_reads_the_prompt_again_refuses_before_it_is_read(
    worlds: Any, words: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = worlds("llama", "gqa")
    case, ids = world.cases["kvzip", NORMALIZED], world.prefilled.input_ids
    cache = compressed(world, case, words)
    layers_run: list[Any] = []
    hook = world.model.model.layers[0].register_forward_pre_hook(lambda *args: layers_run.append(args))
    try:
        with pytest.raises(CokvError, match=r"kvzip: reads the prompt a second time.*cache\.prefill") as caught:
            generate(world.model, ids, cache)
    finally:
        hook.remove()
    assert not layers_run and "\n" not in str(caught.value)
    cache.prefill(ids)
    assert generate(world.model, ids, cache, 24) == case.answers["compressed"].tokens[:24]


# ---- what methods that store tokens in another way hold


def held_after(worlds: Any, words: Any, name: str) -> tuple[World, Case, cokv.CacheMemory]:
    world = worlds("llama", "gqa")
    case = world.cases[name, NORMALIZED]
    cache = compressed(world, case, words)
    generate(world.model, world.prefilled.input_ids, cache)
    return world, case, cache.memory()


@pytest.mark.parametrize("name", ["kivi2", "kivi4", "kivi8", "kivi_by_score", "snapkv_kivi4"])
def test_packed_tokens_take_the_bytes_of_their_codes(worlds: Any, words: Any, name: str) -> None:
    world, case, memory = held_after(worlds, words, name)
    policy = case.row.policy
    assert isinstance(policy, Quantize)
    tokens = memory.tokens_held // 6
    bits = [bits for place in range(3) for bits in policy.at_layer(place, 3).of_heads(2)]
    assert memory.held_bytes == sum(policy.head_bytes(tokens, width, 16, 4) for width in bits)
    assert memory.held_bytes < 0.75 * memory.tokens_held * world.prefilled.token_bytes


@pytest.mark.parametrize("name", ["think", "snapkv_think"])
def test_pruned_channels_are_gone(worlds: Any, words: Any, name: str) -> None:
    world, case, memory = held_after(worlds, words, name)
    policy, token = case.row.policy, world.prefilled.token_bytes
    assert isinstance(policy, PruneChannels)
    assert isinstance(case.row.selection, Selection)
    of_prompt = case.row.selection.total // 6
    assert memory.held_bytes == 6 * (policy.head_bytes(of_prompt, 16, 4) + (NEW - 1) * token)
    assert memory.held_bytes < memory.tokens_held * token - 6 * (of_prompt - 8) * 5 * 4


def test_pages_lie_in_cpu_memory(worlds: Any, words: Any) -> None:
    world, _, memory = held_after(worlds, words, "arkvale")
    complete = (SEQ_LEN + NEW - 1) // 8
    assert memory.host_bytes >= 6 * complete * 8 * world.prefilled.token_bytes
    assert memory.tokens_held == 6 * 40
    assert memory.held_bytes >= 6 * 40 * world.prefilled.token_bytes + 6 * complete * world.prefilled.token_bytes, (
        "digests"
    )


# ---- shares of the prompt


@pytest.mark.parametrize("length", [80, 99, 100, 104, 119])
@pytest.mark.parametrize("name", ["snapkv", "adakv", "h2o", "pyramidkv"])
def test_a_share_is_floored(make_model: MakeModel, prompt: Prompt, small_method: Any, name: str, length: int) -> None:
    model = make_model()
    cache = cokv.compress(model, small_method(name), "20%")
    generate(model, prompt(length), cache, 1)
    assert cache.stored_tokens == cache.memory().tokens_held == math.floor(length / 5) * 6


def test_a_share_is_exact_where_floats_are_not(fresh_model: MakeModel, prompt: Prompt, small_method: Any) -> None:
    assert KVBudget.parse("20%").of(1005) == 201 and KVBudget.parse("0.1%").of(3000) == 3
    model = fresh_model(max_position_embeddings=2048, num_hidden_layers=1)
    cache = cokv.compress(model, small_method("snapkv"), "20%")
    generate(model, prompt(1005), cache, 1)
    assert cache.stored_tokens == 201 * 2


@pytest.mark.parametrize("name", ["snapkv", "cake", "tova", "cokv"])
def test_in_a_padded_batch_each_row_has_its_own_share(
    make_model: MakeModel, prompt: Prompt, small_method: Any, profile_of: Any, name: str
) -> None:
    model, method = make_model(), small_method(name)
    lengths = [120, 84, 101]
    prompts = [prompt(n, seed) for seed, n in enumerate(lengths)]
    ids = torch.stack([torch.cat([torch.zeros(120 - len(p), dtype=torch.long), p]) for p in prompts])
    cache = cokv.compress(model, method, "20%", profile_of(method))
    settings: dict[str, Any] = {"attention_mask": (ids != 0).long(), "do_sample": False}
    model.generate(ids, past_key_values=cache, max_new_tokens=1, **settings)
    assert [held.slots for held in cache.held()] == [n // 5 * 6 for n in lengths]
    memory = cache.memory()
    assert memory.tokens_read == sum(lengths) * 6 and memory.tokens_held == sum(n // 5 for n in lengths) * 6
    cache.reset()
    got = model.generate(ids, past_key_values=cache, max_new_tokens=12, **settings)[:, 120:]
    for row, one in enumerate(prompts):
        alone = cokv.compress(model, method, "20%", profile_of(method))
        assert got[row].tolist() == generate(model, one, alone, 12)


def test_a_share_below_what_the_method_needs_is_infeasible_once_the_prompt_is_known(
    make_model: MakeModel, prompt: Prompt, small_method: Any
) -> None:
    model = make_model()
    with pytest.raises(Infeasible, match="snapkv: kv_budget 4 is below 16"):
        generate(model, prompt(40), cokv.compress(model, small_method("snapkv"), "10%"), 1)
    with pytest.raises(Infeasible, match="less than one slot per head"):
        generate(model, prompt(40), cokv.compress(model, small_method("knorm"), "1%"), 1)


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_a_budget_for_everything_is_the_full_cache(
    make_model: MakeModel, prompt: Prompt, small_method: Any, profile_of: Any, words: Any, name: str, preset: str
) -> None:
    """Short prompts are kept whole, whatever the method; only tokens that are stored in another way differ."""
    model, ids, method = make_model("llama", "mha"), prompt(50), small_method(name, preset)
    cache = cokv.compress(
        model,
        method,
        200 if method.takes_budget else None,
        profile_of(method, 3, 4),
        preset="normalized",
        tokenizer=words,
    )
    if cache.compression.further_passes or isinstance(method.policy, Quantize | PruneChannels):
        cache.prefill(ids)  # numbers that differ, or another first token: it still holds everything
        generate(model, ids, cache, 16)
    else:
        dense = DynamicCache(config=model.config)
        assert generate(model, ids, cache, 16) == generate(model, ids, dense, 16)
    assert cache.stored_tokens == 65 * 12
