"""The two stages equal the rule in loops, with v W_O made out for every token and query head."""

import numpy as np
import pytest
import torch

from cokv.cache.prefill import prefill
from cokv.methods.keep_best import keep_best
from cokv.methods.scorers import blocks
from cokv.methods.scorers.critical import Critical, OutputNorm
from cokv.methods.scorers.window_attention import WindowAttention
from cokv.model.observe import LayerView, ModelParts
from cokv.types import Budgets, CokvError


class Parts(ModelParts):
    def output_weight(self, layer_idx, num_heads, head_dim):
        return self.model


def norms_written_out(world):
    group = world.queries.shape[0] // len(world.keys)
    values, output = world.values.double().numpy(), world.output.double().numpy()
    norms = np.zeros(values.shape[:2])
    for kv_head, position in np.ndindex(*norms.shape):
        for head in range(kv_head * group, (kv_head + 1) * group):
            norms[kv_head, position] += np.abs(values[kv_head, position] @ output[head]).sum() / group
    return norms


def view(world):
    plain = world.view()
    return LayerView(0, plain.input_ids, plain.queries, plain.keys, plain.values, plain.scaling, Parts(world.output))


@pytest.mark.parametrize("chunk", [1, 2**23])
def test_norms_equal_every_tokens_own_product(make_world, heads, kind, monkeypatch, chunk):
    monkeypatch.setattr(blocks, "CHUNK", chunk)
    world = make_world(*heads, 19, kind=kind)
    np.testing.assert_allclose(OutputNorm().observe(view(world))[0].numpy(), norms_written_out(world), rtol=1e-5)


@pytest.mark.parametrize("seq_len", [13, 24])
@pytest.mark.parametrize("first_stage", [0.0, 0.5, 1.0])
def test_what_is_kept_equals_the_rule_in_loops(make_world, heads, kind, seq_len, first_stage):
    world = make_world(*heads, seq_len, kind=kind)
    scorer = Critical(window_size=3, kernel_size=3, first_stage=first_stage)
    layer = world.layer(scorer.observers, view=view(world))
    scores = scorer.scores(layer)
    assert torch.equal(scores, WindowAttention(window_size=3, kernel_size=3).scores(layer))
    counts = np.array([[3 + (5 * h) % (seq_len - 3) for h in range(1, heads[1] + 1)]])
    kept = keep_best([scorer.refine(layer, scores, torch.tensor(counts[0]))], Budgets(counts))
    norms = layer.observation(OutputNorm())[0]
    for head in range(heads[1]):
        free = list(range(seq_len - 3))
        free.sort(key=lambda j: (-scores[head, j].item(), j))
        one = free[: int((counts[0, head] - 3) * first_stage)]
        rest = sorted(free[len(one) :], key=lambda j: (-((scores[head, j] + 1e-4) * norms[head, j]).item(), j))
        chosen = set(one) | set(rest[: counts[0, head] - 3 - len(one)]) | set(range(seq_len - 3, seq_len))
        assert set(kept.head(0, head).tolist()) == chosen


def test_a_large_value_wins_the_second_stage_only(make_world):
    world = make_world(2, 1, 40)
    world.values[0, 7] *= 1000
    scorer = Critical(window_size=4, kernel_size=1)
    layer = world.layer(scorer.observers, view=view(world))
    scores = scorer.scores(layer)
    scores[0, 7] = scores[0, :36].min()
    counts = torch.tensor([8])
    assert scorer.refine(layer, scores, counts)[0].topk(8).indices.eq(7).any()
    alone = Critical(window_size=4, kernel_size=1, first_stage=1.0).refine(layer, scores, counts)
    assert not alone[0].topk(8).indices.eq(7).any()


@pytest.mark.parametrize("heads", ["mha", "gqa", "mqa"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "qwen3-hybrid"])
def test_the_output_projection_is_found_by_name(make_model, prompt, family, heads):
    model = make_model(family, heads)
    prefilled = prefill(model, prompt(30), 8, [OutputNorm()])
    for layer in prefilled.layers:
        weight = model.model.layers[layer.layer_idx].self_attn.o_proj.weight
        group = prefilled.shape.group_size
        expected = torch.zeros(prefilled.shape.num_kv_heads, 30)
        for head in range(4):
            block = weight[:, head * 16 : (head + 1) * 16]
            expected[head // group] += (layer.values[head // group] @ block.T).abs().sum(-1) / group
        torch.testing.assert_close(layer.observation(OutputNorm())[0], expected, rtol=1e-4, atol=1e-4)


def test_a_model_without_an_output_projection_is_refused_when_asked_for(fresh_model, prompt):
    model = fresh_model()
    prefilled = prefill(model, prompt(30), 8, [OutputNorm()])
    model.model.layers[1].mlp.layer_idx, model.model.layers[1].mlp.o_proj = 1, torch.nn.Identity()
    broken = prefill(model, prompt(30), 8, [OutputNorm()])
    assert torch.equal(broken.first_logits, prefilled.first_logits)
    with pytest.raises(CokvError, match="has 2 modules with layer_idx 1 and an o_proj, expected one"):
        broken.layers[1].observation(OutputNorm())


@pytest.mark.parametrize(
    ("field", "value"), [("first_stage", 1.2), ("first_stage", True), ("epsilon", -1), ("window_size", 0)]
)
def test_a_bad_field_is_named(field, value):
    with pytest.raises(CokvError, match=field):
        Critical(**{field: value})
