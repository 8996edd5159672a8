"""RaggedCache against the model's own generate, dense attention with the same tokens masked, and plain counting."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from greedy_steps import FAMILIES, NEW, generated, greedy, step
from transformers import PreTrainedModel

from cokv.cache.attention import reference
from cokv.cache.attention.attachment import ragged_attention
from cokv.cache.cache import RaggedCache
from cokv.cache.compression import LayerSelect, SelectEachLayer
from cokv.cache.prefill import PrefillLayer, prefill
from cokv.decode.shared import SharedCache
from cokv.types import CokvError, Selection

MakeModel = Callable[..., PreTrainedModel]
Prompt = Callable[..., torch.Tensor]


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
    prefilled = prefill(model, ids)
    full = Selection.full(prefilled.shape.num_layers, prefilled.shape.num_kv_heads, 40)
    assert greedy(model, prefilled, RaggedCache.of(prefilled, [full])).tolist() == expected.tolist()
    with ragged_attention(model):
        assert generated(model, ids, past_key_values=RaggedCache(model.config)).tolist() == expected.tolist()


def test_generate_goes_on_from_a_filled_cache(make_model: MakeModel, prompt: Prompt) -> None:
    model, ids = make_model(), prompt(40)
    prefilled = prefill(model, ids)
    cache = RaggedCache.of(prefilled, [Selection.full(3, 2, 40)])
    prompt_and_first = torch.cat([ids, prefilled.first_logits.argmax().view(1)])
    with ragged_attention(model):
        rest = generated(model, prompt_and_first, NEW - 1, past_key_values=cache)
    assert rest.tolist() == generated(model, ids).tolist()[1:]


@pytest.mark.parametrize("length", [1, 2, 9])
@pytest.mark.parametrize("family", ["llama", "qwen3-hybrid"])
def test_short_prompts_too(make_model: MakeModel, prompt: Prompt, family: str, length: int) -> None:
    model, ids = make_model(family), prompt(length)
    prefilled = prefill(model, ids)
    cache = RaggedCache.of(prefilled, [Selection.full(prefilled.shape.num_layers, 2, length)])
    expected = generated(model, ids, 24).tolist()
    assert greedy(model, prefilled, cache, 24).tolist() == expected
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
    prefilled = prefill(model, ids)
    masks = [uneven_mask(prefilled.shape.num_layers, prefilled.shape.num_kv_heads, 60, seed) for seed in range(5)]
    assert all((mask.sum(-1) == 0).any() for mask in masks)
    attend = {"attend": reference.attend} if backend == "reference" else {}
    cache = RaggedCache.of(prefilled, [Selection.from_mask(mask) for mask in masks], **attend)
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
    prefilled = prefill(model, ids)
    mask = uneven_mask(prefilled.shape.num_layers, prefilled.shape.num_kv_heads, 60)
    selections = [Selection.from_mask(mask)]
    cache = (
        RaggedCache.of(prefilled, selections, slack=3) if way == "ragged" else SharedCache(prefilled, selections, 50)
    )
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
    padding_mask = torch.stack([torch.arange(50) >= 50 - n for n in lengths]).long()
    cache = RaggedCache(model.config, SelectEachLayer(by_mask(mask)))
    settings = {"max_new_tokens": 20, "do_sample": False}
    with ragged_attention(model):
        batch = model.generate(ids, attention_mask=padding_mask, past_key_values=cache, **settings)[:, 50:]
    kept = 0
    for row, one in enumerate(prompts):
        prefilled = prefill(model, one)
        selection = Selection.from_mask(mask[list(prefilled.shape.full_layers), :, : len(one)])
        alone = greedy(model, prefilled, RaggedCache.of(prefilled, [selection]), 20)
        assert batch[row].tolist() == alone.tolist()
        kept += selection.total + 19 * prefilled.shape.num_layers * 2
    assert cache.stored_tokens == kept
    assert any(generated(model, p, 20).tolist() != b.tolist() for p, b in zip(prompts, batch, strict=True))


def test_select_sees_the_windows_queries_without_padding(make_model: MakeModel, prompt: Prompt) -> None:
    model, one = make_model(), prompt(20)
    expected = prefill(model, one, window=6)
    views: list[PrefillLayer] = []

    def look(layer: PrefillLayer) -> Sequence[torch.Tensor]:
        views.append(layer)
        return [torch.arange(2)] * 2

    ids = torch.cat([torch.zeros(7, dtype=torch.long), one])[None]
    with ragged_attention(model):
        cache = RaggedCache(model.config, SelectEachLayer(look, 6))
        model.generate(ids, attention_mask=(ids != 0).long(), past_key_values=cache, max_new_tokens=1, do_sample=False)
    for view, layer in zip(views, expected.layers, strict=True):
        assert view.layer_idx == layer.layer_idx and view.scaling == layer.scaling
        for name in ("keys", "values", "window_queries"):
            torch.testing.assert_close(getattr(view, name), getattr(layer, name), rtol=0, atol=1e-5)


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
        cache = RaggedCache(model.config, SelectEachLayer(lambda layer: positions))
        model(torch.ones(1, 9, dtype=torch.long), past_key_values=cache)


def test_a_selection_for_another_prompt_is_refused(make_model: MakeModel, prompt: Prompt) -> None:
    prefilled = prefill(make_model(), prompt(9))
    for selection in (Selection.full(3, 2, 8), Selection.full(2, 2, 9)):
        with pytest.raises(CokvError, match="select on this prefill"):
            RaggedCache.of(prefilled, [selection])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_full_budget_on_cuda_is_the_models_own_generate(fresh_model: MakeModel, prompt: Prompt) -> None:
    model, ids = fresh_model("qwen3").cuda(), prompt(40).cuda()
    with ragged_attention(model):
        got = generated(model, ids, past_key_values=RaggedCache(model.config))
    assert got.tolist() == generated(model, ids).tolist()
