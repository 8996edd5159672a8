"""`ragged_attention(model)` leaves nothing behind: on the model, on its class, in transformers, nor after an error."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AttentionInterface, DynamicCache, LlamaForCausalLM, LlamaModel, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface
from transformers.models.llama import modeling_llama

from cokv.cache.attention.attachment import PREFIX, attach, base_implementation, detach, ragged_attention
from cokv.cache.attention.interface import attention
from cokv.cache.cache import RaggedCache
from cokv.cache.compression import SelectEachLayer
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
    with ragged_attention(model):  # the name in transformers' tables stays: others may be using it
        pass
    before, logits = traces(model), model(IDS).logits
    with ragged_attention(model):
        assert model.config._attn_implementation == PREFIX + implementation
        assert PREFIX + implementation in AttentionInterface()
        masks = AttentionMaskInterface()
        assert masks[PREFIX + implementation] is masks[implementation]
        assert base_implementation(model) == implementation
        prefilled = prefill(model, IDS[0])
    assert traces(model) == before
    assert base_implementation(model) == implementation
    assert torch.equal(model(IDS).logits, logits)
    assert prefilled.layers


def test_attached_for_good_until_detached(model: PreTrainedModel) -> None:
    with ragged_attention(model):
        pass
    before, logits = traces(model), model(IDS).logits
    attach(model)
    attach(model, inputs=True)
    with ragged_attention(model):
        detach(model)
        assert model.config._attn_implementation == PREFIX + "sdpa", "an open block still needs it"
        attach(model)
    assert model.config._attn_implementation == PREFIX + "sdpa"
    assert torch.equal(model(IDS).logits, logits)
    detach(model)
    assert traces(model) == before
    detach(model)
    assert traces(model) == before


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_only_the_names_are_added_to_transformers(model: PreTrainedModel, implementation: str) -> None:
    model.set_attn_implementation(implementation)
    tables = (AttentionInterface._global_mapping, AttentionMaskInterface._global_mapping)
    before = [dict(table) for table in tables]
    for table in tables:
        table.pop(PREFIX + implementation, None)
    with ragged_attention(model):
        pass
    for table, old in zip(tables, before, strict=True):
        assert table.keys() <= old.keys() | {PREFIX + implementation}
        assert all(table[name] is old[name] for name in old if name != PREFIX + implementation)


def test_everything_is_as_before_after_an_exception(model: PreTrainedModel) -> None:
    with ragged_attention(model):
        pass
    before = traces(model)
    with pytest.raises(KeyError, match="inside"), ragged_attention(model), ragged_attention(model):
        raise KeyError("inside")
    assert traces(model) == before


def test_an_exception_inside_the_model_restores_too(model: PreTrainedModel) -> None:
    before = traces(model)

    def broken(layer: Any) -> list[torch.Tensor]:
        raise RuntimeError("no positions")

    other_cache = RaggedCache(model.config, SelectEachLayer(broken))
    with pytest.raises(RuntimeError, match="no positions"), ragged_attention(model), torch.no_grad():
        model(IDS, past_key_values=other_cache)
    assert traces(model) == before


def test_nested_blocks_end_with_the_outermost(model: PreTrainedModel) -> None:
    before = traces(model)
    with ragged_attention(model):
        with ragged_attention(model):
            pass
        assert model.config._attn_implementation == PREFIX + "sdpa"
        prefill(model, IDS[0])
    assert traces(model) == before


def test_two_models_at_once_do_not_meet(model: PreTrainedModel, fresh_model: Callable[..., PreTrainedModel]) -> None:
    other = fresh_model(heads="mha", seed=1)
    other.set_attn_implementation("eager")
    before, logits = traces(other), other(IDS).logits
    with ragged_attention(model):
        assert other.config._attn_implementation == "eager"
        assert torch.equal(other(IDS).logits, logits)
        with ragged_attention(other):
            assert torch.allclose(other(IDS).logits, logits, atol=1e-5)
        assert other.config._attn_implementation == "eager"
        prefill(model, IDS[0])
    assert traces(other) == before
    assert torch.equal(other(IDS).logits, logits)


def test_ordinary_caches_work_inside_the_block(model: PreTrainedModel) -> None:
    settings = {"max_new_tokens": 8, "do_sample": False}
    expected = model.generate(IDS, **settings)
    with ragged_attention(model):
        assert torch.equal(model.generate(IDS, **settings), expected)
        static = model.generate(IDS, cache_implementation="static", disable_compile=True, **settings)
        assert torch.equal(static, expected)


def test_a_cache_outside_the_block_is_refused(model: PreTrainedModel) -> None:
    """Else transformers would attend the newest token only, and say nothing."""
    cache = RaggedCache.of(prefill(model, IDS[0]), [Selection.full(3, 2, 20)])
    with pytest.raises(CokvError, match="never attends the keys that its cache returned"):
        model(IDS[:, :1], past_key_values=cache)


def test_a_model_that_cannot_switch_is_refused(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    before = traces(model)
    with monkeypatch.context() as patch:
        patch.setattr(type(model.model), "_can_set_attn_implementation", classmethod(lambda cls: False))
        with (
            pytest.raises(CokvError, match=r"^LlamaForCausalLM does not compute its attention through"),
            ragged_attention(model),
        ):
            pass
    assert traces(model) == before


@pytest.mark.parametrize(
    ("feature", "value", "message"),
    [
        ("softcap", 1.0, r"attends with a logit cap of 1\.0, its config says None \(attn_logit_softcapping\)"),
        ("s_aux", torch.zeros(2), r"attention sinks of shape \[2\], expected \[4\], one per query head"),
        ("is_causal", False, "plain softmax attention: its attention also takes is_causal=False"),
        ("sliding_window", 4, "plain softmax attention: its attention also takes a sliding window of 4"),
        ("bias", 1, "plain softmax attention: its attention also takes bias"),
    ],
)
def test_attention_that_is_not_what_the_config_says_is_refused(
    feature: str, value: Any, message: str, model: PreTrainedModel
) -> None:
    with pytest.raises(CokvError, match=message):
        query = torch.randn(1, 4, 1, 16)
        layer = RaggedCache(model.config).layers[0]
        keys, values = layer.update(query[:, :2], query[:, :2])
        attention("sdpa", model.model.layers[0].self_attn, query, keys, values, None, **{feature: value})


@pytest.mark.parametrize("way", ["values", "twice", "heads", "tokens", "unanswered"])
def test_an_update_is_answered_once_with_what_it_returned(way: str, model: PreTrainedModel) -> None:
    cache, query = RaggedCache(model.config), torch.randn(1, 4, 3, 16)
    module = model.model.layers[0].self_attn
    keys, values = cache.layers[0].update(query[:, :2], query[:, 2:])
    wrong = {
        "values": lambda: attention("sdpa", module, query, keys, values.clone(), None),
        "twice": lambda: [attention("sdpa", module, query, keys, values, None) for _ in range(2)],
        "heads": lambda: attention("sdpa", module, query[:, :2], keys, values, None),
        "tokens": lambda: attention("sdpa", module, query[:, :, :2], keys, values, None),
        "unanswered": lambda: cache.layers[1].update(query[:, :2], query[:, 2:]),
    }
    words = {
        "values": "changes values",
        "twice": "more than once",
        "heads": "2 query heads over 2 KV heads, its config says 4",
        "tokens": "expected 3 tokens of 16 channels",
        "unanswered": "layer 0: never attends the keys",
    }
    with pytest.raises(CokvError, match=words[way]) as caught:
        wrong[way]()
    assert "\n" not in str(caught.value)


class NewerLlamaModel(LlamaModel):
    """Calls its cache as models do since transformers 5.24."""

    def forward(self, input_ids: Any = None, cache: Any = None, **kwargs: Any) -> Any:
        return super().forward(input_ids=input_ids, past_key_values=cache, **kwargs)


class NewerLlama(LlamaForCausalLM):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.model = NewerLlamaModel(config)

    def forward(self, input_ids: Any = None, cache: Any = None, **kwargs: Any) -> Any:
        return self.lm_head(self.model(input_ids=input_ids, cache=cache, **kwargs).last_hidden_state)


def test_the_newer_name_of_the_cache_argument(model: PreTrainedModel) -> None:
    newer = NewerLlama(model.config).eval()
    newer.load_state_dict(model.state_dict())
    cache, dense = RaggedCache(newer.config, SelectEachLayer()), DynamicCache(config=model.config)
    with ragged_attention(newer), torch.no_grad():
        for ids in (IDS[:, :-2], IDS[:, -2:-1], IDS[:, -1:]):
            torch.testing.assert_close(newer(ids, cache=cache), model(ids, past_key_values=dense).logits)
    assert cache.handshake.owner == "NewerLlamaModel", "the hooks know the cache by this name too"
    assert cache.ragged_layers[0].rows is not None
