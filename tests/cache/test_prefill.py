"""A Prefill is what the model itself computes: its logits, its cache, its queries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from transformers import DynamicCache, PreTrainedModel

from cokv.cache.prefill import check_prompt, prefill
from cokv.model.observe import LayerView, Observation
from cokv.model.shape import model_shape
from cokv.types import CokvError

MakeModel = Callable[..., PreTrainedModel]
Prompt = Callable[..., torch.Tensor]
PLAIN = ["llama", "mistral", "qwen2", "qwen3"]


@pytest.mark.parametrize("heads", ["mha", "gqa", "mqa"])
@pytest.mark.parametrize("family", [*PLAIN, "qwen3-hybrid"])
def test_logits_keys_and_values_are_the_models_own(
    make_model: MakeModel, prompt: Prompt, family: str, heads: str
) -> None:
    model, ids = make_model(family, heads), prompt(50)
    prefilled, cache = prefill(model, ids, window=8), DynamicCache(config=model.config)
    expected = model(ids[None], past_key_values=cache).logits[0, -1]
    torch.testing.assert_close(prefilled.first_logits, expected, rtol=0, atol=1e-5)
    assert [layer.layer_idx for layer in prefilled.layers] == list(model_shape(model.config).full_layers)
    for layer in prefilled.layers:
        torch.testing.assert_close(layer.keys, cache.layers[layer.layer_idx].keys[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(layer.values, cache.layers[layer.layer_idx].values[0], rtol=0, atol=1e-5)
    assert prefilled.seq_len == 50 and torch.equal(prefilled.input_ids, ids)


@pytest.mark.parametrize("heads", ["mha", "gqa", "mqa"])
@pytest.mark.parametrize("family", PLAIN)
def test_window_queries_and_keys_give_the_attention_of_the_model(
    make_model: MakeModel, prompt: Prompt, family: str, heads: str
) -> None:
    model, ids, window = make_model(family, heads), prompt(40), 6
    prefilled = prefill(model, ids, window)
    model.set_attn_implementation("eager")
    try:
        attentions = model(ids[None], output_attentions=True).attentions
    finally:
        model.set_attn_implementation("sdpa")
    causal = torch.ones(40, 40, dtype=torch.bool).tril()[-window:]
    for layer in prefilled.layers:
        assert layer.window_queries.shape == (4, window, 16)
        keys = layer.keys.repeat_interleave(prefilled.shape.group_size, 0)
        logits = (layer.window_queries @ keys.transpose(1, 2) * layer.scaling).masked_fill(~causal, -torch.inf)
        torch.testing.assert_close(logits.softmax(-1), attentions[layer.layer_idx][0, :, -window:], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("window", "held"), [(0, 0), (1, 1), (5, 5), (12, 12), (99, 12)])
def test_the_window_is_never_longer_than_the_prompt(
    make_model: MakeModel, prompt: Prompt, window: int, held: int
) -> None:
    prefilled = prefill(make_model(), prompt(12), window)
    assert {layer.window_queries.shape[1] for layer in prefilled.layers} == {held}


def test_bytes_are_those_of_the_tensors(make_model: MakeModel, prompt: Prompt) -> None:
    prefilled = prefill(make_model(), prompt(30))
    assert prefilled.full_bytes == sum(layer.keys.nbytes + layer.values.nbytes for layer in prefilled.layers)
    assert prefilled.token_bytes == 2 * 16 * 4


def test_a_prompt_longer_than_the_context_is_refused(make_model: MakeModel, prompt: Prompt) -> None:
    prefill(make_model(max_position_embeddings=20), prompt(20))
    with pytest.raises(CokvError, match=r"prompt of 21 tokens .* 20 positions"):
        prefill(make_model(max_position_embeddings=20), prompt(21))
    with pytest.raises(CokvError, match="plus 5 to generate"):
        check_prompt(prompt(16), 20, 5)


@pytest.mark.parametrize("shape", [(0,), (1, 4)])
def test_a_prompt_is_one_row_of_ids(make_model: MakeModel, shape: tuple[int, ...]) -> None:
    with pytest.raises(CokvError, match="one non-empty row"):
        prefill(make_model(), torch.ones(shape, dtype=torch.long))


def test_sliding_layers_are_outside_the_budget_and_noted(make_model: MakeModel, prompt: Prompt) -> None:
    model = make_model("qwen3-hybrid")
    prefilled = prefill(model, prompt(50))
    assert prefilled.shape.full_layers == (0, 2) and prefilled.shape.num_layers == 2
    assert prefilled.shape.notes == ("2 sliding-window layers of 16 tokens keep their own cache, outside the budget",)
    assert prefilled.full_bytes == 2 * 2 * 50 * prefilled.token_bytes
    assert sorted(prefilled.sliding) == [1, 3] and prefilled.sliding[1].keys.shape[2] == 16
    assert model_shape(make_model().config).notes == ()


def test_a_model_of_sliding_layers_only_has_nothing_to_budget(make_model: MakeModel, prompt: Prompt) -> None:
    with pytest.raises(CokvError, match=r"all 3 layers .* sliding window of 16"):
        prefill(make_model("mistral-sliding"), prompt(10))


def test_prefill_in_bfloat16_is_close(make_model: MakeModel, fresh_model: MakeModel, prompt: Prompt) -> None:
    exact, model = prefill(make_model(), prompt(50)), fresh_model().to(torch.bfloat16)
    prefilled = prefill(model, prompt(50))
    assert {layer.keys.dtype for layer in prefilled.layers} == {torch.bfloat16} and prefilled.token_bytes == 2 * 16 * 2
    for layer, other in zip(prefilled.layers, exact.layers, strict=True):
        assert torch.nn.functional.cosine_similarity(layer.keys.float(), other.keys, dim=-1).min() > 0.99


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_prefill_on_cuda_is_close(make_model: MakeModel, fresh_model: MakeModel, prompt: Prompt) -> None:
    exact = prefill(make_model(), prompt(50))
    prefilled = prefill(fresh_model().cuda(), prompt(50))
    torch.testing.assert_close(prefilled.first_logits.cpu(), exact.first_logits, rtol=0, atol=1e-3)
    for layer, other in zip(prefilled.layers, exact.layers, strict=True):
        torch.testing.assert_close(layer.keys.cpu(), other.keys, rtol=0, atol=1e-3)


@dataclass(frozen=True)
class Outputs:
    """Observer: the layer's attention output, from what it may look at alone; counts its looks."""

    looks: tuple[list[int]] = field(default=([],), hash=False, compare=False)

    def observe(self, view: LayerView) -> Observation:
        self.looks[0].append(view.layer_idx)
        keys, values = (t.repeat_interleave(view.queries.shape[0] // t.shape[0], 0) for t in (view.keys, view.values))
        causal = torch.ones(keys.shape[1], keys.shape[1], dtype=torch.bool).tril()
        logits = (view.queries @ keys.transpose(1, 2) * view.scaling).masked_fill(~causal, -torch.inf)
        return (logits.softmax(-1) @ values,)


@dataclass(frozen=True)
class Refuses:
    def observe(self, view: LayerView) -> Observation:
        raise CokvError("cannot look at this")


@pytest.mark.parametrize("heads", ["mha", "gqa", "mqa"])
@pytest.mark.parametrize("family", [*PLAIN, "qwen3-hybrid"])
def test_observers_see_all_queries_of_every_layer_once(
    make_model: MakeModel, prompt: Prompt, family: str, heads: str
) -> None:
    model, ids = make_model(family, heads), prompt(40)
    outputs: list[torch.Tensor] = []
    hooks = [
        layer.self_attn.o_proj.register_forward_pre_hook(lambda module, args: outputs.append(args[0][0]))
        for layer in model.model.layers
    ]
    observer = Outputs(([],))
    prefilled = prefill(model, ids, 4, [observer, Outputs(([],))])
    for hook in hooks:
        hook.remove()
    assert observer.looks[0] == list(prefilled.shape.full_layers), "equal observers look once"
    for layer in prefilled.layers:
        (of_layer,) = layer.observation(observer)
        torch.testing.assert_close(of_layer.transpose(0, 1).flatten(1), outputs[layer.layer_idx], rtol=1e-4, atol=1e-5)
        assert layer.window_queries.shape[1] == 4


def test_looking_changes_nothing_else(make_model: MakeModel, prompt: Prompt) -> None:
    plain, prefilled = (prefill(make_model(), prompt(40), 4, o) for o in ([], [Outputs(), Refuses()]))
    assert torch.equal(plain.first_logits, prefilled.first_logits)
    for layer, other in zip(plain.layers, prefilled.layers, strict=True):
        assert torch.equal(layer.keys, other.keys) and torch.equal(layer.window_queries, other.window_queries)
        assert not layer.observed


def test_an_observer_that_cannot_look_says_why_only_when_asked(make_model: MakeModel, prompt: Prompt) -> None:
    prefilled = prefill(make_model(), prompt(20), 4, [Refuses(), Outputs()])
    assert prefilled.layers[0].observation(Outputs())[0].shape == (4, 20, 16)
    with pytest.raises(CokvError, match="cannot look at this"):
        prefilled.layers[0].observation(Refuses())
    with pytest.raises(CokvError, match="needs Outputs, which this prefill did not look for"):
        prefill(make_model(), prompt(20)).layers[0].observation(Outputs())
