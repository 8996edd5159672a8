"""`engine(model)` leaves nothing behind: on the model, on its class, in transformers, nor after an error."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface
from transformers.models.llama import modeling_llama

from cokv.cache.attention.interface import NAME, attention, engine
from cokv.cache.cache import RaggedCache
from cokv.cache.prefill import prefill
from cokv.types import CokvError, Selection

IDS = torch.arange(1, 21)[None]


def traces(model: PreTrainedModel) -> dict[str, Any]:
    """All that could be left changed; not what transformers looks up about a class once and remembers there."""
    classes = dict(vars(type(model))) | dict(vars(modeling_llama.LlamaAttention))
    return {
        "implementation": model.config._attn_implementation,
        "config": copy.deepcopy(model.config.to_dict()),
        "config attributes": sorted(vars(model.config)),
        "module attributes": [(name, sorted(vars(m)), m.forward.__func__) for name, m in model.named_modules()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        "classes": {name: value for name, value in classes.items() if not name.endswith("_cached_value")},
        "attention names": dict(AttentionInterface._global_mapping),
        "mask names": dict(AttentionMaskInterface._global_mapping),
    }


@pytest.fixture
def model(fresh_model: Callable[..., PreTrainedModel]) -> PreTrainedModel:
    return fresh_model()


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_everything_is_as_before(model: PreTrainedModel, implementation: str) -> None:
    model.set_attn_implementation(implementation)
    before, logits = traces(model), model(IDS).logits
    with engine(model):
        assert model.config._attn_implementation == NAME
        assert NAME in AttentionInterface() and NAME in AttentionMaskInterface()
        made = prefill(model, IDS[0])
    assert traces(model) == before
    assert NAME not in AttentionInterface() and NAME not in AttentionMaskInterface()
    assert torch.equal(model(IDS).logits, logits)
    assert made.layers


def test_everything_is_as_before_after_an_exception(model: PreTrainedModel) -> None:
    before = traces(model)
    with pytest.raises(KeyError, match="inside"), engine(model), engine(model):
        raise KeyError("inside")
    assert traces(model) == before


def test_an_exception_inside_the_model_restores_too(model: PreTrainedModel) -> None:
    before = traces(model)

    def broken(layer: Any) -> list[torch.Tensor]:
        raise RuntimeError("no positions")

    with pytest.raises(RuntimeError, match="no positions"), engine(model), torch.no_grad():
        model(IDS, past_key_values=RaggedCache(model.config, broken))
    assert traces(model) == before


def test_nested_blocks_end_with_the_outermost(model: PreTrainedModel) -> None:
    before = traces(model)
    with engine(model):
        with engine(model):
            pass
        assert model.config._attn_implementation == NAME and NAME in AttentionInterface()
        prefill(model, IDS[0])
    assert traces(model) == before


def test_two_models_at_once_do_not_meet(model: PreTrainedModel, fresh_model: Callable[..., PreTrainedModel]) -> None:
    other = fresh_model(heads="mha", seed=1)
    other.set_attn_implementation("eager")
    before, logits = traces(other), other(IDS).logits
    with engine(model):
        assert other.config._attn_implementation == "eager"
        assert torch.equal(other(IDS).logits, logits)
        with engine(other):
            assert torch.allclose(other(IDS).logits, logits, atol=1e-5)
        assert other.config._attn_implementation == "eager"
        prefill(model, IDS[0])
    assert traces(other) == before
    assert torch.equal(other(IDS).logits, logits)


def test_ordinary_caches_work_inside_the_block(model: PreTrainedModel) -> None:
    settings = {"max_new_tokens": 8, "do_sample": False}
    expected = model.generate(IDS, **settings)
    with engine(model):
        assert torch.equal(model.generate(IDS, **settings), expected)
        static = model.generate(IDS, cache_implementation="static", disable_compile=True, **settings)
        assert torch.equal(static, expected)


def test_a_cache_outside_the_block_is_refused(model: PreTrainedModel) -> None:
    """Without the engine, transformers would attend the newest token only, and say nothing."""
    cache = RaggedCache.of(prefill(model, IDS[0]), [Selection.full(3, 2, 20)])
    with pytest.raises(CokvError, match="outside `engine"):
        model(IDS[:, :1], past_key_values=cache)


def test_a_model_that_cannot_switch_is_refused(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    before = traces(model)
    with monkeypatch.context() as patch:
        patch.setattr(type(model), "_can_set_attn_implementation", classmethod(lambda cls: False))
        with pytest.raises(CokvError, match="attention interface"), engine(model):
            pass
    assert traces(model) == before


@pytest.mark.parametrize("feature", ["softcap", "s_aux"])
def test_attention_that_is_not_a_plain_softmax_is_refused(feature: str, model: PreTrainedModel) -> None:
    with engine(model), pytest.raises(CokvError, match="plain softmax"):
        query = torch.randn(1, 4, 1, 16)
        layer = RaggedCache(model.config).layers[0]
        keys, values = layer.update(query[:, :2], query[:, :2])
        attention(model.model.layers[0].self_attn, query, keys, values, None, **{feature: 1.0})
