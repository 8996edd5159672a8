"""Against the installed kvpress, if there is one: presses keep the same tokens when configured alike.

Each press scores the layers of the same model on the same prompt, in float32; its scores alone are used, none of its
patches. Where our default differs on purpose, the preset `kvpress` does not.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from cokv.cache.prefill import prefill
from cokv.methods.registry import get_method

pytest.importorskip("kvpress")
pytestmark = pytest.mark.peer

SEQ_LEN = 90
WINDOW = {"window_size": 8, "kernel_size": 5, "pooling": "avg"}


def presses(ratio: float) -> dict[str, tuple[Any, Any]]:
    """name -> (press, our method)"""
    from kvpress.presses.criticalkv_press import CriticalKVPress
    from kvpress.presses.expected_attention_press import ExpectedAttentionPress
    from kvpress.presses.keydiff_press import KeyDiffPress
    from kvpress.presses.knorm_press import KnormPress
    from kvpress.presses.snapkv_press import SnapKVPress
    from kvpress.presses.streaming_llm_press import StreamingLLMPress
    from kvpress.presses.tova_press import TOVAPress

    snapkv = {"compression_ratio": ratio, "window_size": 8}
    return {
        "snapkv": (SnapKVPress(**snapkv), get_method("snapkv", **WINDOW)),
        "knorm": (KnormPress(ratio), get_method("knorm")),
        "keydiff": (KeyDiffPress(ratio), get_method("keydiff")),
        "tova": (TOVAPress(ratio), get_method("tova", "kvpress")),
        "expectedattention": (ExpectedAttentionPress(ratio), get_method("expectedattention")),
        "expectedattention, mean only": (
            ExpectedAttentionPress(ratio, use_covariance=False, use_vnorm=False),
            get_method("expectedattention", covariance=False, value_norm=False),
        ),
        "streamingllm": (StreamingLLMPress(ratio), get_method("streamingllm")),
        "criticalkv": (CriticalKVPress(SnapKVPress(**snapkv)), get_method("criticalkv", "kvpress", **WINDOW)),
    }


def kept_by_press(model: Any, ids: torch.Tensor, press: Any, budget: int) -> list[torch.Tensor]:
    """bool [num_kv_heads, seq_len] per layer."""
    inputs: list[dict[str, Any]] = []
    hooks = [
        layer.self_attn.register_forward_pre_hook(lambda m, a, kw: inputs.append({**kw, "module": m}), with_kwargs=True)
        for layer in model.model.layers
    ]
    prefilled = prefill(model, ids)
    for hook in hooks:
        hook.remove()
    kept = []
    for layer, module_inputs in zip(prefilled.layers, inputs, strict=True):
        module = module_inputs["module"]
        module.rotary_emb = model.model.rotary_emb  # as kvpress does
        try:
            scores = press.score(
                module, module_inputs["hidden_states"], layer.keys[None], layer.values[None], None,
                {"position_embeddings": module_inputs["position_embeddings"]},
            )  # fmt: skip
        finally:
            del module.rotary_emb
        mask = torch.zeros(scores.shape[1:], dtype=torch.bool)
        kept.append(mask.scatter_(-1, scores[0].topk(budget, dim=-1).indices, True))
    return kept


@pytest.mark.parametrize("heads", ["mha", "gqa", "mqa"])
@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("name", list(presses(0.5)))
@pytest.mark.parametrize("budget", [17, 40, 70])
def test_the_same_tokens_are_kept(make_model, name, family, heads, budget):
    normed = name == "knorm" and family == "qwen3"  # an untrained q_norm model has keys of one length
    model = make_model("qwen2" if normed else family, heads)
    ids = 1 + torch.randperm(96, generator=torch.Generator().manual_seed(0))[:SEQ_LEN]  # none twice: keys of equal norm
    press, method = presses(1 - (budget + 0.5) / SEQ_LEN)[name]
    assert int(SEQ_LEN * (1 - press.compression_ratio)) == budget
    prefilled = prefill(model, ids, max(method.window_size, 1), method.observers)
    ours = method.select(prefilled, budget).mask()
    for layer, theirs in enumerate(kept_by_press(model, ids, press, budget)):
        assert torch.equal(ours[layer], theirs), f"{name}, layer {layer}: {(ours[layer] != theirs).sum()} differ"


def test_h2o_is_observed_attention_without_its_average_over_time(make_model, prompt):
    """kvpress divides a token's sum by how many queries saw it; H2O does not."""
    from kvpress.presses.observed_attention_press import ObservedAttentionPress

    model, ids = make_model("llama", "gqa"), prompt(40)
    method = get_method("h2o")
    prefilled = prefill(model, ids, 40, method.observers)
    for layer in prefilled.layers:
        keys = layer.keys.repeat_interleave(2, 0)
        logits = layer.window_queries @ keys.transpose(1, 2) * layer.scaling
        weights = logits.masked_fill(torch.ones(40, 40, dtype=torch.bool).triu(1), -math.inf).softmax(-1)[None]
        theirs = ObservedAttentionPress().score(None, None, layer.keys[None], None, weights, {})[0]
        torch.testing.assert_close(method.scorer.scores(layer) / torch.arange(40, 0, -1), theirs, rtol=1e-5, atol=1e-6)
