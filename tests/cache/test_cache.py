"""RaggedCache against the model's own generate, dense attention with the same tokens masked, and plain counting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache

from cokv.cache.attention import reference
from cokv.cache.attention.interface import ragged_attention
from cokv.cache.attention.masks import check_plain
from cokv.cache.cache import RaggedCache
from cokv.cache.layer import LayerSelect, RaggedLayer
from cokv.cache.policies.base import Policy
from cokv.cache.policies.growth import EvictOldest, Grow
from cokv.cache.prefill import Prefill, PrefillLayer, prefill
from cokv.decode.batches import Row
from cokv.decode.decode import Stop, decode
from cokv.decode.shared import SharedCache
from cokv.methods.registry import METHODS, get_method
from cokv.types import CokvError, HeadScores, Selection

MakeModel = Callable[..., PreTrainedModel]
Prompt = Callable[..., torch.Tensor]
FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "qwen3-hybrid"]
NEW = 64


def step(model: PreTrainedModel, cache: Cache, ids: torch.Tensor, position: int) -> torch.Tensor:
    """Logits [rows, t, vocab_size] of ids [rows, t], which start at `position`."""
    positions = torch.arange(position, position + ids.shape[1]).expand(ids.shape[0], -1)
    with ragged_attention(model), torch.no_grad():
        logits: torch.Tensor = model(input_ids=ids, past_key_values=cache, position_ids=positions).logits
    return logits


def generated(model: PreTrainedModel, ids: torch.Tensor, new: int = NEW, **settings: Any) -> torch.Tensor:
    return model.generate(ids[None], max_new_tokens=new, do_sample=False, **settings)[0, len(ids) :]


def greedy(model: PreTrainedModel, made: Prefill, cache: RaggedCache, new: int = NEW) -> torch.Tensor:
    tokens = [made.first_logits.argmax()]
    for i in range(new - 1):
        tokens.append(step(model, cache, tokens[-1].view(1, 1), made.seq_len + i)[0, -1].argmax())
    return torch.stack(tokens)


def by_mask(mask: torch.Tensor) -> LayerSelect:
    """Selects by a mask bool [model layers, num_kv_heads, longest prompt], aligned at a prompt's beginning."""
    return lambda layer: [head[: layer.keys.shape[1]].nonzero()[:, 0] for head in mask[layer.layer_idx]]


# ---- full budget


@pytest.mark.parametrize("heads", ["mha", "gqa", "mqa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_full_budget_is_the_models_own_generate(make_model: MakeModel, prompt: Prompt, family: str, heads: str) -> None:
    model, ids = make_model(family, heads), prompt(40)
    expected = generated(model, ids)
    assert expected.unique().numel() > 12, "a model that repeats itself tests nothing"
    made = prefill(model, ids)
    full = Selection.full(made.shape.num_layers, made.shape.num_kv_heads, 40)
    assert greedy(model, made, RaggedCache.of(made, [full])).tolist() == expected.tolist()
    with ragged_attention(model):
        assert generated(model, ids, past_key_values=RaggedCache(model.config)).tolist() == expected.tolist()


def test_generate_goes_on_from_a_filled_cache(make_model: MakeModel, prompt: Prompt) -> None:
    model, ids = make_model(), prompt(40)
    made = prefill(model, ids)
    cache = RaggedCache.of(made, [Selection.full(3, 2, 40)])
    told = torch.cat([ids, made.first_logits.argmax().view(1)])
    with ragged_attention(model):
        rest = generated(model, told, NEW - 1, past_key_values=cache)
    assert rest.tolist() == generated(model, ids).tolist()[1:]


@pytest.mark.parametrize("length", [1, 2, 9])
@pytest.mark.parametrize("family", ["llama", "qwen3-hybrid"])
def test_short_prompts_too(make_model: MakeModel, prompt: Prompt, family: str, length: int) -> None:
    model, ids = make_model(family), prompt(length)
    made = prefill(model, ids)
    cache = RaggedCache.of(made, [Selection.full(made.shape.num_layers, 2, length)])
    expected = generated(model, ids, 24).tolist()
    assert greedy(model, made, cache, 24).tolist() == expected
    with ragged_attention(model):
        assert generated(model, ids, 24, past_key_values=RaggedCache(model.config)).tolist() == expected


# ---- uneven budgets


@pytest.mark.parametrize("backend", ["buckets", "reference"])
@pytest.mark.parametrize("heads", ["mha", "gqa", "mqa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_uneven_budgets_are_dense_attention_with_the_same_tokens_masked(
    make_model: MakeModel,
    prompt: Prompt,
    dense_reference: Callable[..., torch.Tensor],
    uneven_mask: Callable[..., torch.Tensor],
    family: str,
    heads: str,
    backend: str,
) -> None:
    model, ids, after = make_model(family, heads), prompt(60), prompt(20, seed=1)
    made = prefill(model, ids)
    masks = [uneven_mask(made.shape.num_layers, made.shape.num_kv_heads, 60, seed) for seed in range(5)]
    assert all((mask.sum(-1) == 0).any() for mask in masks)
    attend = {"attend": reference.attend} if backend == "reference" else {}
    cache = RaggedCache.of(made, [Selection.from_mask(mask) for mask in masks], **attend)
    got = [step(model, cache, token.expand(5, 1), 60 + i)[:, 0] for i, token in enumerate(after)]
    for row, mask in enumerate(masks):
        expected = dense_reference(model, ids, after, mask)
        torch.testing.assert_close(torch.stack(got)[:, row], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("way", ["ragged", "shared"])
@pytest.mark.parametrize("family", ["llama", "qwen3-hybrid"])
def test_several_tokens_at_once_are_the_same_as_one_by_one(
    make_model: MakeModel,
    prompt: Prompt,
    dense_reference: Callable[..., torch.Tensor],
    uneven_mask: Callable[..., torch.Tensor],
    family: str,
    way: str,
) -> None:
    model, ids, after = make_model(family), prompt(60), prompt(50, seed=1)
    made = prefill(model, ids)
    mask = uneven_mask(made.shape.num_layers, made.shape.num_kv_heads, 60)
    selections = [Selection.from_mask(mask)]
    cache = RaggedCache.of(made, selections, slack=3) if way == "ragged" else SharedCache(made, selections, 50)
    got = [step(model, cache, after[None, a:b], 60 + a)[0] for a, b in [(0, 40), (40, 41), (41, 50)]]
    torch.testing.assert_close(torch.cat(got), dense_reference(model, ids, after, mask), rtol=0, atol=1e-5)


def test_bfloat16_is_close(
    make_model: MakeModel, fresh_model: MakeModel, prompt: Prompt, uneven_mask: Callable[..., torch.Tensor]
) -> None:
    ids, after, mask = prompt(60), prompt(20, seed=1), uneven_mask(3, 2, 60)
    logits = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = make_model() if dtype == torch.float32 else fresh_model().to(dtype)
        cache = RaggedCache.of(prefill(model, ids), [Selection.from_mask(mask)])
        logits[dtype] = torch.cat([step(model, cache, t.view(1, 1), 60 + i)[0] for i, t in enumerate(after)]).float()
        assert {part.store.k.dtype for layer in cache.ragged_layers for _, part in layer.parts} == {dtype}
        assert cache.stored_tokens * 2 * 16 * dtype.itemsize < cache.storage_bytes
    similar = torch.nn.functional.cosine_similarity(*logits.values(), dim=-1)
    assert similar.min() > 0.99, similar


# ---- inside model.generate


@pytest.mark.parametrize("family", ["llama", "qwen3", "qwen3-hybrid"])
def test_generate_compresses_by_itself_and_left_padding_changes_nothing(
    make_model: MakeModel, prompt: Prompt, uneven_mask: Callable[..., torch.Tensor], family: str
) -> None:
    model = make_model(family)
    lengths = [50, 31, 44]
    prompts = [prompt(n, seed) for seed, n in enumerate(lengths)]
    mask = uneven_mask(model.config.num_hidden_layers, 2, 50)
    ids = torch.stack([torch.cat([torch.zeros(50 - len(p), dtype=torch.long), p]) for p in prompts])
    seen = torch.stack([torch.arange(50) >= 50 - n for n in lengths]).long()
    cache = RaggedCache(model.config, by_mask(mask))
    settings = {"max_new_tokens": 20, "do_sample": False}
    with ragged_attention(model):
        batch = model.generate(ids, attention_mask=seen, past_key_values=cache, **settings)[:, 50:]
    kept = 0
    for row, one in enumerate(prompts):
        made = prefill(model, one)
        selection = Selection.from_mask(mask[list(made.shape.full_layers), :, : len(one)])
        alone = greedy(model, made, RaggedCache.of(made, [selection]), 20)
        assert batch[row].tolist() == alone.tolist()
        kept += selection.total + 19 * made.shape.num_layers * 2
    assert cache.stored_tokens == kept
    assert any(generated(model, p, 20).tolist() != b.tolist() for p, b in zip(prompts, batch, strict=True))


def fits_one_layer_at_a_time(name: str) -> bool:
    method = get_method(name)
    looks_at = method.allocator.looks_at if method.allocator else "shape"
    return not method.observers and looks_at in ("layer_scores", "shape") and name != "lukv"  # takes other profiles


@pytest.mark.parametrize("family", ["llama", "qwen3-hybrid"])
@pytest.mark.parametrize("name", sorted(filter(fits_one_layer_at_a_time, METHODS)))
def test_every_method_selects_inside_generate_what_it_selects_on_a_prefill(
    make_model: MakeModel, prompt: Prompt, name: str, family: str
) -> None:
    settings = {"num_sinks": 4, "local": 8, "retrieval_share": 0.25} if name.endswith("attention") else {}
    method = get_method(name, **{k: v for k, v in settings.items() if k in METHODS[name].parameters()})
    model, ids = make_model(family), prompt(120)
    made = prefill(model, ids, method.window_size)
    shape = made.shape
    profile = HeadScores(torch.arange(shape.num_layers * 2).view(-1, 2).double().numpy())
    selection = method.select(made, 66, profile if method.needs_profile else None)
    alone = greedy(model, made, RaggedCache.of(made, [selection]), 20)
    select = method.layer_select(shape, 66, profile if method.needs_profile else None)
    cache = RaggedCache(model.config, select, window=method.window_size)
    with ragged_attention(model):
        assert generated(model, ids, 20, past_key_values=cache).tolist() == alone.tolist()
    assert cache.stored_tokens == selection.total + 19 * shape.num_layers * 2


def test_select_sees_the_windows_queries_without_padding(make_model: MakeModel, prompt: Prompt) -> None:
    model, one = make_model(), prompt(20)
    expected = prefill(model, one, window=6)
    views: list[PrefillLayer] = []

    def look(layer: PrefillLayer) -> Sequence[torch.Tensor]:
        views.append(layer)
        return [torch.arange(2)] * 2

    ids = torch.cat([torch.zeros(7, dtype=torch.long), one])[None]
    with ragged_attention(model):
        cache = RaggedCache(model.config, look, window=6)
        model.generate(ids, attention_mask=(ids != 0).long(), past_key_values=cache, max_new_tokens=1, do_sample=False)
    for view, layer in zip(views, expected.layers, strict=True):
        assert view.layer_idx == layer.layer_idx and view.scaling == layer.scaling
        for name in ("keys", "values", "window_queries"):
            torch.testing.assert_close(getattr(view, name), getattr(layer, name), rtol=0, atol=1e-5)


# ---- masks after the prompt


def two_turns(model: PreTrainedModel, cache: Cache, seen: torch.Tensor, first: int, float_masks: bool) -> torch.Tensor:
    """Logits [rows, tokens of the second turn, vocab_size]; seen int64 [rows, tokens], `first` of them the prompt's."""
    ids = torch.randint(1, 97, seen.shape, generator=torch.Generator().manual_seed(7))
    positions = (seen.cumsum(1) - 1).clamp(min=0)
    for a, b in ((0, first), (first, seen.shape[1])):
        told: torch.Tensor = seen[:, :b]
        if float_masks and a:
            allowed = (told[:, None, None] == 1) & torch.ones(b, b, dtype=torch.bool).tril()[a:]
            told = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
        with ragged_attention(model), torch.no_grad():
            logits: torch.Tensor = model(
                ids[:, a:b], attention_mask=told, past_key_values=cache, position_ids=positions[:, a:b]
            ).logits
    return logits


@pytest.mark.parametrize(
    ("family", "float_masks"),  # one mask of a caller's own cannot be that of sliding layers too
    [("llama", False), ("llama", True), ("qwen3-hybrid", False)],
)
@pytest.mark.parametrize("new", [1, 8])
def test_a_second_turn_after_a_padded_prompt_is_the_models_own(
    make_model: MakeModel, family: str, new: int, float_masks: bool
) -> None:
    model, seen = make_model(family), torch.ones(3, 30 + new, dtype=torch.long)
    seen[0, :12], seen[2, :5] = 0, 0
    expected = two_turns(model, DynamicCache(config=model.config), seen, 30, float_masks)
    cache = RaggedCache(model.config)
    torch.testing.assert_close(two_turns(model, cache, seen, 30, float_masks), expected, rtol=0, atol=2e-5)
    cache.reorder_cache(torch.tensor([2, 2, 0]))
    cache.keep_rows(torch.tensor([0, 2]))
    after = torch.cat([seen[[2, 0]], torch.ones(2, 1, dtype=torch.long)], dim=1)
    with ragged_attention(model), torch.no_grad():
        model(torch.ones(2, 1, dtype=torch.long), attention_mask=after, past_key_values=cache)
        with pytest.raises(CokvError, match=r"rows \[0\] hides"):
            wrong = torch.cat([seen[[0, 0]], torch.ones(2, 2, dtype=torch.long)], dim=1)
            model(torch.ones(2, 1, dtype=torch.long), attention_mask=wrong, past_key_values=cache)


@pytest.mark.parametrize("float_masks", [False, True], ids=["bool", "float"])
@pytest.mark.parametrize("hidden", [(1, 30), (1, 37), (0, 3), (1, 21)], ids=str)
@pytest.mark.parametrize("new", [1, 8])
def test_a_mask_that_hides_what_the_cache_holds_is_refused(
    make_model: MakeModel, new: int, hidden: tuple[int, int], float_masks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Padding of a second turn, and tokens of the prompt itself: either would be attended all the same."""
    monkeypatch.setattr("cokv.cache.attention.masks.AT_ONCE", 200)  # a few queries at a time
    model, seen = make_model(), torch.ones(2, 30 + new, dtype=torch.long)
    first, last = (seen[:, :30].clone(), min(hidden[1], 29 + new))
    first[1, :20] = 0
    seen[1, :20] = 0
    cache = RaggedCache(model.config)
    with ragged_attention(model), torch.no_grad():
        model(torch.ones(2, 30, dtype=torch.long), attention_mask=first, past_key_values=cache)
    later = torch.ones_like(seen).index_put((torch.tensor(hidden[0]), torch.tensor(last)), torch.tensor(0)) * seen
    told = later
    if float_masks:
        allowed = (later[:, None, None] == 1) & torch.ones(30 + new, 30 + new, dtype=torch.bool).tril()[30:]
        told = torch.zeros(allowed.shape).masked_fill(~allowed, -torch.inf)
    with (
        ragged_attention(model),
        torch.no_grad(),
        pytest.raises(CokvError, match=rf"rows \[{hidden[0]}\] hides tokens"),
    ):
        model(torch.ones(2, new, dtype=torch.long), attention_mask=told, past_key_values=cache)


def test_a_mask_that_shows_later_tokens_or_has_another_shape_is_refused(make_model: MakeModel, prompt: Prompt) -> None:
    model, ids = make_model(), prompt(9)[None]
    for mask, message in (
        (torch.ones(1, 1, 9, 29, dtype=torch.bool), "shows later ones"),
        (torch.ones(1, 1, 9, 9, dtype=torch.bool).tril(), r"shape \[1, 1, 9, 9\], expected \[1, 1, 9, 29\]"),
    ):
        cache = RaggedCache.of(prefill(model, prompt(20)), [Selection.full(3, 2, 20)])
        with ragged_attention(model), torch.no_grad(), pytest.raises(CokvError, match=message):
            model(ids, attention_mask=mask, past_key_values=cache)


def test_steps_without_padding_bring_no_mask_to_look_at(
    make_model: MakeModel, prompt: Prompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else every token would wait for the device; and of a chunk's mask, one layer's look is enough."""
    model, made, masks = make_model(), prefill(make_model(), prompt(20)), []

    def spy(mask: torch.Tensor | None, *rest: Any) -> None:
        masks.append(mask)
        check_plain(mask, *rest)

    monkeypatch.setattr("cokv.cache.layer.check_plain", spy)
    decode(model, made, [Row(Selection.full(3, 2, 20))] * 3, Stop(6), suffix=prompt(4))
    assert len(masks) == 6 and masks[0] is not None and masks[1:] == [None] * 5
    masks.clear()
    with ragged_attention(model):
        generated(model, prompt(20), 6, past_key_values=RaggedCache(model.config))
    assert masks == [None] * 5


def test_right_padding_is_refused(make_model: MakeModel) -> None:
    model = make_model()
    seen = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    with ragged_attention(model), torch.no_grad(), pytest.raises(CokvError, match="pad on the left"):
        model(torch.ones_like(seen), attention_mask=seen, past_key_values=RaggedCache(model.config))


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([torch.tensor([3, 1]), torch.tensor([0])], "ascending"),
        ([torch.tensor([0, 99]), torch.tensor([0])], "inside the prompt"),
        ([torch.tensor([0])], "1 heads, expected 2"),
    ],
)
def test_wrong_positions_are_refused(make_model: MakeModel, positions: list[torch.Tensor], message: str) -> None:
    model = make_model()
    with ragged_attention(model), torch.no_grad(), pytest.raises(CokvError, match=message):
        model(torch.ones(1, 9, dtype=torch.long), past_key_values=RaggedCache(model.config, lambda layer: positions))


def test_a_selection_for_another_prompt_is_refused(make_model: MakeModel, prompt: Prompt) -> None:
    made = prefill(make_model(), prompt(9))
    for selection in (Selection.full(3, 2, 8), Selection.full(2, 2, 9)):
        with pytest.raises(CokvError, match="select on this prefill"):
            RaggedCache.of(made, [selection])


# ---- what it holds


@pytest.mark.parametrize("slack", [1, 5, 32])
def test_it_stores_exactly_what_was_selected(
    make_model: MakeModel, prompt: Prompt, uneven_mask: Callable[..., torch.Tensor], slack: int
) -> None:
    model, made = make_model(), prefill(make_model(), prompt(60))
    selections = [Selection.from_mask(uneven_mask(3, 2, 60, seed)) for seed in range(3)]
    cache = RaggedCache.of(made, selections, slack=slack)
    total = sum(s.budgets.total for s in selections)
    assert cache.stored_tokens == total
    assert [held.slots for held in cache.held()] == [s.total for s in selections]
    assert [held.bytes for held in cache.held()] == [s.total * made.token_bytes for s in selections]
    assert cache.storage_bytes == (total + 3 * 3 * 2 * slack) * made.token_bytes
    assert cache.get_seq_length() == 60, "transformers is told what was seen, not what is stored"
    for i in range(9):
        step(model, cache, torch.ones(3, 1, dtype=torch.long), 60 + i)
        assert cache.stored_tokens == total + (i + 1) * 3 * 3 * 2
        assert cache.storage_bytes >= cache.stored_tokens * made.token_bytes
        assert cache.get_seq_length() == 61 + i


def test_a_cache_that_was_never_used_holds_nothing(make_model: MakeModel) -> None:
    cache = RaggedCache(make_model().config)
    assert cache.stored_tokens == 0 and cache.storage_bytes == 0 and cache.get_seq_length() == 0


def test_running_out_of_slack_changes_no_token(
    make_model: MakeModel, prompt: Prompt, uneven_mask: Callable[..., torch.Tensor]
) -> None:
    model, made = make_model(), prefill(make_model(), prompt(60))
    selection = Selection.from_mask(uneven_mask(3, 2, 60, 4))
    answers = [greedy(model, made, RaggedCache.of(made, [selection], slack=s)).tolist() for s in (1, 64)]
    assert answers[0] == answers[1]
    with pytest.raises(CokvError, match="at least 1"):
        RaggedCache.of(made, [selection], slack=0)


def test_two_caches_of_one_prefill_do_not_meet(make_model: MakeModel, prompt: Prompt) -> None:
    model = make_model("qwen3-hybrid")
    made = prefill(model, prompt(40))
    full = Selection.full(2, 2, 40)
    first = greedy(model, made, RaggedCache.of(made, [full]), 24).tolist()
    assert greedy(model, made, RaggedCache.of(made, [full]), 24).tolist() == first


# ---- rows


@pytest.mark.parametrize("family", ["llama", "qwen3-hybrid"])
def test_beam_search_at_full_budget_is_the_models_own(make_model: MakeModel, prompt: Prompt, family: str) -> None:
    model, ids = make_model(family), prompt(30)
    expected = generated(model, ids, 24, num_beams=2)
    with ragged_attention(model):
        got = generated(model, ids, 24, num_beams=2, past_key_values=RaggedCache(model.config, slack=4))
    assert got.tolist() == expected.tolist()


def test_reordered_rows_are_copies_of_the_old_rows(
    make_model: MakeModel, prompt: Prompt, uneven_mask: Callable[..., torch.Tensor]
) -> None:
    model, made = make_model(), prefill(make_model(), prompt(60))
    selections = [Selection.from_mask(uneven_mask(3, 2, 60, seed)) for seed in range(3)]
    token = torch.tensor([[5], [6], [7]])
    for order in ([2, 0, 1], [1, 1, 0], [2]):
        cache, plain = RaggedCache.of(made, selections), RaggedCache.of(made, selections)
        for each in (cache, plain):
            step(model, each, token, 60)
        cache.reorder_cache(torch.tensor(order))
        moved = step(model, cache, torch.full((len(order), 1), 9), 61)
        torch.testing.assert_close(moved, step(model, plain, torch.full((3, 1), 9), 61)[order], rtol=0, atol=1e-6)
        kept = RaggedCache.of(made, selections)
        step(model, kept, token, 60)
        kept.keep_rows(torch.tensor(order))
        torch.testing.assert_close(step(model, kept, torch.full((len(order), 1), 9), 61), moved, rtol=0, atol=1e-6)


def test_repeated_rows_are_alike_before_and_after_compression(make_model: MakeModel, prompt: Prompt) -> None:
    model, made = make_model(), prefill(make_model(), prompt(20))
    cache = RaggedCache.of(made, [Selection.full(3, 2, 20), Selection.from_mask(torch.arange(20).expand(3, 2, 20) > 9)])
    cache.batch_repeat_interleave(2)
    logits = step(model, cache, torch.ones(4, 1, dtype=torch.long), 20)
    assert torch.equal(logits[0], logits[1]) and torch.equal(logits[2], logits[3])
    assert not torch.allclose(logits[0], logits[2], atol=1e-3)


# ---- eviction


def ragged_layer(lengths: list[int], policies: list[Policy], slack: int, heads: int = 1) -> RaggedLayer:
    """A layer whose stored keys are their own absolute positions; prompt positions are the last ones of 100."""
    layer = RaggedLayer(slack=slack)
    keys = torch.arange(100.0).view(1, 100, 1).expand(heads, 100, 1)
    rows = [lengths[i : i + heads] for i in range(0, len(lengths), heads)]
    view = PrefillLayer(0, keys, keys, keys, 1.0)
    layer.fill([view], [[torch.arange(100 - n, 100) for n in row] for row in rows], policies)
    return layer


def stored(layer: RaggedLayer) -> list[list[float]]:
    ((_, part),) = layer.parts
    spans = zip(part.store.starts.tolist(), part.store.lengths.tolist(), strict=True)
    return [part.store.k[start : start + length, 0].tolist() for start, length in spans]


@settings(deadline=None, max_examples=80)
@given(
    lengths=st.lists(st.integers(0, 12), min_size=2, max_size=6).filter(lambda n: len(n) % 2 == 0),
    limit=st.integers(2, 14),
    sinks=st.integers(0, 5),
    slack=st.integers(1, 9),
    steps=st.integers(1, 40),
    grows=st.booleans(),
    reorder=st.booleans(),
)
def test_the_oldest_token_that_is_no_sink_goes(
    lengths: list[int], limit: int, sinks: int, slack: int, steps: int, grows: bool, reorder: bool
) -> None:
    limit = max(limit, sinks + 1)
    lengths = [min(n, limit) for n in lengths]
    policies: list[Policy] = [EvictOldest(limit, sinks)] * (len(lengths) // 2)
    if grows:
        policies[0] = Grow()
    layer = ragged_layer(lengths, policies, slack, heads=2)
    naive = [[float(p) for p in range(100 - n, 100)] for n in lengths]
    for i in range(steps):
        new = torch.full((len(policies), 2, 1, 1), 100.0 + i)
        layer.attend(new, new, new, 1.0)
        for segment, head in enumerate(naive):
            if len(head) == limit and not (grows and segment < 2):
                head.remove(min(head[sinks:]))
            head.append(100.0 + i)
        if reorder and i == steps // 2:
            layer.reorder_cache(torch.arange(len(policies)).flip(0))
            layer.reorder_cache(torch.arange(len(policies)).flip(0))
        assert [sorted(head) for head in stored(layer)] == naive
        assert all(len(head) <= limit for head in naive[2 * grows :])


def test_a_prompt_shorter_than_the_limit_fills_it_first(make_model: MakeModel, prompt: Prompt) -> None:
    model, made = make_model(), prefill(make_model(), prompt(10))
    cache = RaggedCache.of(made, [Selection.full(3, 2, 10)], [EvictOldest(16, 4)])
    for i in range(30):
        step(model, cache, torch.tensor([[i + 1]]), 10 + i)
        assert cache.stored_tokens == 6 * min(11 + i, 16)
        assert cache.get_seq_length() == 11 + i


def test_an_evicting_row_attends_its_limit_and_no_more(
    make_model: MakeModel, prompt: Prompt, uneven_mask: Callable[..., torch.Tensor]
) -> None:
    """Read as one chunk or token by token, with other rows beside it or alone: the same logits."""
    model, made, after = make_model(), prefill(make_model(), prompt(30)), prompt(25, seed=1)
    mask = (torch.arange(30) < 4) | (torch.arange(30) >= 22)
    selection = Selection.from_mask(mask.expand(3, 2, 30))
    alone = RaggedCache.of(made, [selection], [EvictOldest(12, 4)])
    one_by_one = torch.cat([step(model, alone, t.view(1, 1), 30 + i)[0] for i, t in enumerate(after)])
    beside = RaggedCache.of(made, [Selection.full(3, 2, 30), selection], [Grow(), EvictOldest(12, 4)])
    chunk = step(model, beside, after.expand(2, -1), 30)
    torch.testing.assert_close(chunk[1], one_by_one, rtol=0, atol=1e-5)
    assert alone.stored_tokens == 6 * 12 and beside.stored_tokens == 6 * (12 + 30 + 25)
    torch.testing.assert_close(
        chunk[0], step(model, RaggedCache.of(made, [Selection.full(3, 2, 30)]), after[None], 30)[0], rtol=0, atol=1e-5
    )


def test_eviction_inside_generate_is_that_of_a_filled_cache(make_model: MakeModel, prompt: Prompt) -> None:
    model, ids = make_model(), prompt(30)
    made, ends = prefill(model, ids), (torch.arange(30) < 4) | (torch.arange(30) >= 22)
    filled = RaggedCache.of(made, [Selection.from_mask(ends.expand(3, 2, 30))], [EvictOldest(12)])
    cache = RaggedCache(model.config, lambda layer: [ends.nonzero()[:, 0]] * 2, policy=EvictOldest(12))
    with ragged_attention(model):
        got = generated(model, ids, 24, past_key_values=cache)
    assert got.tolist() == greedy(model, made, filled, 24).tolist()
    assert cache.stored_tokens == filled.stored_tokens == 6 * 12


def test_eviction_settings_that_cannot_hold_are_refused(make_model: MakeModel, prompt: Prompt) -> None:
    made = prefill(make_model(), prompt(10))
    with pytest.raises(CokvError, match="eviction limit"):
        RaggedCache.of(made, [Selection.full(3, 2, 10)], [EvictOldest(8)])
    with pytest.raises(CokvError, match="sinks < limit"):
        EvictOldest(4, 4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_full_budget_on_cuda_is_the_models_own_generate(fresh_model: MakeModel, prompt: Prompt) -> None:
    model, ids = fresh_model("qwen3").cuda(), prompt(40).cuda()
    with ragged_attention(model):
        got = generated(model, ids, past_key_values=RaggedCache(model.config))
    assert got.tolist() == generated(model, ids).tolist()
