"""What an observer may see of a layer's inputs: those of that layer, while it runs, and nothing stays behind."""

from dataclasses import dataclass

import pytest
import torch

from cokv.cache.prefill import prefill
from cokv.types import CokvError


@dataclass(frozen=True)
class Recomputes:
    """The layer's values, made again from its inputs: [num_kv_heads, seq_len]."""

    needs_inputs: bool = True

    def observe(self, view):
        call_inputs = view.parts.attention_inputs(view.layer_idx)
        assert list(view.parts.inputs) == [view.layer_idx], "the inputs of another layer are still held"
        values = call_inputs.module.v_proj(call_inputs.hidden_states)[0]
        return (values.view(values.shape[0], *view.values.shape[::2]).transpose(0, 1).norm(dim=-1),)


def hooks(model):
    return [(m, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]


@pytest.mark.parametrize("family", ["llama", "qwen3", "qwen3-hybrid"])
def test_inputs_are_those_of_the_layer_that_runs(make_model, prompt, family):
    model = make_model(family)
    before = hooks(model)  # transformers may have left its own, for hidden states asked elsewhere
    for layer in prefill(model, prompt(20), observers=[Recomputes()]).layers:
        (norms,) = layer.observation(Recomputes())
        torch.testing.assert_close(norms, layer.values.norm(dim=-1))
    assert hooks(model) == before


def test_the_prefill_is_the_same_with_and_without(make_model, prompt):
    model = make_model("llama")
    plain, watched = prefill(model, prompt(20)), prefill(model, prompt(20), observers=[Recomputes()])
    assert torch.equal(plain.first_logits, watched.first_logits)


def test_hooks_are_gone_after_a_failure(fresh_model, prompt):
    model = fresh_model("llama")
    before = hooks(model)
    model.model.layers[1].mlp.forward = lambda *args: 1 / 0
    with pytest.raises(ZeroDivisionError):
        prefill(model, prompt(20), observers=[Recomputes()])
    assert hooks(model) == before


def test_an_observer_that_does_not_say_so_is_told(make_model, prompt):
    prefilled = prefill(make_model("llama"), prompt(20), observers=[Recomputes(needs_inputs=False)])
    with pytest.raises(CokvError, match="needs_inputs = True"):
        prefilled.layers[0].observation(Recomputes(needs_inputs=False))
