"""DuoAttention's gates: attention and training written out in NumPy, and a planted model whose roles are known."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface
from worlds.planted import ASK, planted_model, planted_prompts

from cokv.model.shape import model_shape
from cokv.profiles.duo_gates import (
    AnsweredPrompt,
    Training,
    _answer_states,
    _gated,
    rate_share,
    streaming_attention,
    train_gates,
)
from cokv.types import CokvError


@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(4, 4), (4, 2), (4, 1)])
@pytest.mark.parametrize(("sinks", "recent"), [(0, 1), (4, 7), (1, 200), (150, 3), (4, 300)])
def test_streaming_attention_is_attention_under_its_mask(num_heads, num_kv_heads, sinks, recent):
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(1, num_heads, 271, 8, generator=generator)
    keys, values = torch.randn(2, 1, num_kv_heads, 271, 8, generator=generator)
    expected = np.zeros((num_heads, 271, 8))
    for head in range(num_heads):
        k, v = (x[0, head * num_kv_heads // num_heads].double().numpy() for x in (keys, values))
        for row in range(271):
            visible = [j for j in range(row + 1) if j < sinks or row - j < recent]
            weights = np.exp(k[visible] @ queries[0, head, row].double().numpy() * 0.3)
            expected[head, row] = weights @ v[visible] / weights.sum()
    result = streaming_attention(queries, keys, values, 0.3, sinks, recent)
    np.testing.assert_allclose(result[0], expected, atol=1e-5)


@contextmanager
def gated_in_numpy(model: Any, gates: np.ndarray, sinks: int, recent: int) -> Iterator[None]:
    """Inside, out = a * full + (1 - a) * streaming in every head of a full-attention layer, row by row in float64.

    gates: [full-attention layers, num_kv_heads].
    """
    types = getattr(model.config, "layer_types", None) or ["full_attention"] * model.config.num_hidden_layers
    places = {layer: place for place, layer in enumerate(i for i, t in enumerate(types) if t == "full_attention")}

    def row_of(
        query: np.ndarray, keys: np.ndarray, values: np.ndarray, visible: list[int], scaling: float
    ) -> np.ndarray:
        logits = keys[visible] @ query * scaling
        weights = np.exp(logits - logits.max())
        return weights @ values[visible] / weights.sum()

    def attend(module: Any, query: Any, key: Any, value: Any, mask: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
        q, k, v = (x[0].double().numpy() for x in (query, key, value))
        out = np.zeros(q.shape)
        for head in range(q.shape[0]):
            group = head * k.shape[0] // q.shape[0]
            for i in range(q.shape[1]):
                full, scaling = list(range(i + 1)), kwargs["scaling"]
                if module.layer_idx in places:
                    gate = gates[places[module.layer_idx], group]
                    near = [j for j in full if j < sinks or i - j < recent]
                    out[head, i] = gate * row_of(q[head, i], k[group], v[group], full, scaling)
                    out[head, i] += (1 - gate) * row_of(q[head, i], k[group], v[group], near, scaling)
                else:
                    near = [j for j in full if i - j < module.config.sliding_window]
                    out[head, i] = row_of(q[head, i], k[group], v[group], near, scaling)
        return torch.from_numpy(out)[None].transpose(1, 2).to(query.dtype).contiguous(), None

    before = model.config._attn_implementation
    AttentionInterface.register("gated_in_numpy", attend)
    AttentionMaskInterface.register("gated_in_numpy", lambda *args, **kwargs: None)
    model.config._attn_implementation = "gated_in_numpy"
    try:
        yield
    finally:
        model.config._attn_implementation = before
        AttentionInterface._global_mapping.pop("gated_in_numpy")
        AttentionMaskInterface._global_mapping.pop("gated_in_numpy")


def last_states(model: Any, ids: torch.Tensor, start: int) -> np.ndarray:
    with torch.no_grad():
        return model.base_model(input_ids=ids[None], use_cache=False).last_hidden_state[0, start:].double().numpy()


@pytest.mark.parametrize(
    ("family", "heads"), [("llama", "mha"), ("llama", "gqa"), ("llama", "mqa"), ("qwen3-hybrid", "gqa")]
)
def test_each_heads_gate_mixes_its_full_and_streaming_attention(make_model, prompt, family, heads):
    model, ids = make_model(family, heads), prompt(60)
    shape = model_shape(model.config)
    gates = np.random.default_rng(0).uniform(0.1, 0.9, (shape.num_layers, shape.num_kv_heads))
    before = model.config._attn_implementation
    with torch.no_grad(), _gated(model, torch.tensor(gates), shape, Training(sinks=2, recent=5)):
        result = _answer_states(model, AnsweredPrompt(ids, 50)).numpy()
    assert model.config._attn_implementation == before
    with gated_in_numpy(model, gates, sinks=2, recent=5):
        expected = last_states(model, ids, 50)
    np.testing.assert_allclose(result, expected, atol=1e-4)
    for other in (gates**2, gates[::-1], np.full_like(gates, gates.mean())):
        if not np.allclose(other, gates):
            with gated_in_numpy(model, other, sinks=2, recent=5):
                assert np.abs(last_states(model, ids, 50) - expected).max() > 1e-2, "the prompt tells gates apart"


@pytest.mark.parametrize("gate", [0.0, 1.0])
def test_a_gate_at_its_end_is_one_of_the_two(make_model, prompt, gate):
    model, ids = make_model(), prompt(60)
    shape = model_shape(model.config)
    with torch.no_grad(), _gated(model, torch.full((3, 2), gate), shape, Training(sinks=2, recent=5)):
        result = _answer_states(model, AnsweredPrompt(ids, 50)).numpy()
    full = last_states(model, ids, 50)
    if gate == 1:
        np.testing.assert_allclose(result, full, atol=1e-4)
    else:
        assert np.abs(result - full).max() > 1e-2


def test_training_is_adamw_on_the_distilled_difference_and_the_mean_gate(fresh_model, prompt):
    """Ten steps in NumPy, gradients by finite differences: mean squared difference plus weight * mean gate."""
    model, ids = fresh_model(num_hidden_layers=2), prompt(24)
    settings = Training(sinks=1, recent=4, steps=10, rate=0.1, weight=0.5)
    result = train_gates(model, [AnsweredPrompt(ids, 18)], settings)
    model = model.double()
    target = last_states(model, ids, 18)

    def distilled(gates: np.ndarray) -> float:
        with gated_in_numpy(model, gates, sinks=1, recent=4):
            return float(np.mean((last_states(model, ids, 18) - target) ** 2))

    gates, first, second, losses, small = np.ones((2, 2)), np.zeros((2, 2)), np.zeros((2, 2)), [], 1e-5
    for step, share in enumerate([0.5, *[1.0] * 8, 0.5]):
        gates = np.clip(gates, 0, 1)
        losses.append(distilled(gates))
        slopes = np.full((2, 2), 0.5 / 4)  # of weight * mean gate; gates are never negative here
        for place in np.ndindex(2, 2):
            ahead, behind = gates.copy(), gates.copy()
            ahead[place] += small
            behind[place] -= small
            slopes[place] += (distilled(ahead) - distilled(behind)) / (2 * small)
        first, second = 0.9 * first + 0.1 * slopes, 0.999 * second + 0.001 * slopes**2
        mean, square = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
        gates = gates - 0.1 * share * mean / (np.sqrt(square) + 1e-8)
    np.testing.assert_allclose(result.values, np.clip(gates, 0, 1), atol=2e-3)
    assert np.ptp(result.values) > 0.05 and result.values.min() > 0, "gates end apart, and inside 0..1"
    kept = result.provenance["distillation_loss"]
    np.testing.assert_allclose([kept["first"], kept["last"]], [losses[0], losses[-1]], rtol=1e-2, atol=1e-9)


def test_planted_heads_that_find_answers_stay_open():
    model = planted_model()
    prompts = [p for p in planted_prompts(6, seed=2) if p.kind in (0, 2)]  # one carrier; two substitutes
    answered = [
        AnsweredPrompt(torch.cat([p.input_ids, torch.tensor([ASK + p.kind, p.answer])]), p.input_ids.numel())
        for p in prompts
    ]
    training = Training(sinks=1, recent=6, steps=150, weight=0.05)
    result = train_gates(model, answered, training)
    gates = result.values.reshape(-1)
    assert gates.min() >= 0 and gates.max() <= 1
    assert gates[0] > 0.5, "the carrier alone has its answers"
    assert gates[1:3].max() < 0.1, "complements are asked nothing here"
    assert gates[5:].max() < 0.1, "harmful on other questions, onlooker and null change no hidden state"
    assert gates[3] + gates[4] > 0.3, "of the substitutes at least something stays"
    assert train_gates(model, answered, training) == result, "a seed gives one profile"
    assert not any(p.requires_grad for p in model.parameters())


def test_a_caller_s_model_is_left_as_it_was(fresh_model, prompt):
    model = fresh_model().requires_grad_(True)
    weights = {name: p.clone() for name, p in model.named_parameters()}
    train_gates(model, [AnsweredPrompt(prompt(30), 25)], Training(sinks=1, recent=4, steps=3))
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad and parameter.grad is None and torch.equal(parameter, weights[name])


def test_the_rate_rises_and_falls():
    shares = [rate_share(step, 50) for step in range(50)]
    assert shares[0] == 0.1 and shares[9] == shares[39] == 1 and shares[-1] == 0.1
    assert shares[:10] == sorted(shares[:10]) and shares[40:] == sorted(shares[40:], reverse=True)


def test_what_cannot_be_trained_is_said(make_model, prompt):
    with pytest.raises(CokvError, match="no prompt is longer than 320 tokens"):
        train_gates(make_model(), [AnsweredPrompt(prompt(60), 50)])
    with pytest.raises(CokvError, match="no passkey prompts"):
        train_gates(make_model(), [])
    with pytest.raises(CokvError, match="steps is 0"):
        Training(steps=0)
    with pytest.raises(CokvError, match="an answer from position 60 of 60"):
        AnsweredPrompt(prompt(60), 60)
