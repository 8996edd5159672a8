"""Expected attention equals its formula on the model's own queries before RoPE, position by position."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cokv.cache.prefill import prefill
from cokv.methods.scorers.expected_attention import ExpectedAttention, FutureQueries
from cokv.model.observe import ModelParts
from cokv.types import CokvError


def plain_queries(model, ids):
    """Each layer's queries before RoPE, float64 [num_heads, seq_len, head_dim]: after q_norm where a model has one."""
    caught, hooks = [], []
    for layer in model.model.layers:
        module = getattr(layer.self_attn, "q_norm", layer.self_attn.q_proj)
        hooks.append(module.register_forward_hook(lambda *args: caught.append(args[2][0])))
    model(ids[None])
    for hook in hooks:
        hook.remove()
    return [q.reshape(len(ids), 4, 16).transpose(0, 1).double().numpy() for q in caught]


def rotation(position, dim, base=10000.0):
    """The matrix that turns dim i against dim i + dim / 2."""
    matrix = np.zeros((dim, dim))
    for i in range(dim // 2):
        angle = position * base ** (-2 * i / dim)
        j = i + dim // 2
        matrix[i, i] = matrix[j, j] = np.cos(angle)
        matrix[i, j], matrix[j, i] = -np.sin(angle), np.sin(angle)
    return matrix


def written_out(queries, layer, num_sinks, future, covariance, value_norm, epsilon):
    num_heads, seq_len, dim = queries.shape
    keys, values = layer.keys.double().numpy(), layer.values.double().numpy()
    group = num_heads // len(keys)
    turn = sum(rotation(p, dim) for p in range(seq_len, seq_len + future)) / future
    scores = np.full((len(keys), seq_len), np.inf)
    for kv_head in range(len(keys)):
        total = np.zeros(seq_len - num_sinks)
        for head in range(kv_head * group, (kv_head + 1) * group):
            rows = queries[head, num_sinks:]
            mean = sum(rows) / len(rows)
            spread = sum(np.outer(q - mean, q - mean) for q in rows) / len(rows)
            mean, spread = turn @ mean, turn @ spread @ turn.T
            logits = []
            for key in keys[kv_head, num_sinks:]:
                second = key @ spread @ key * layer.scaling**2 / 2 if covariance else 0
                logits.append(key @ mean * layer.scaling + second)
            weights = np.exp(np.array(logits) - max(logits))
            total += weights / weights.sum() / group
        if value_norm:
            total = (total + epsilon) * np.sqrt((values[kv_head, num_sinks:] ** 2).sum(-1))
        scores[kv_head, num_sinks:] = total
    return scores


@pytest.mark.parametrize("heads", ["mha", "gqa", "mqa"])
@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"num_sinks": 0, "future": 3},
        {"covariance": False, "epsilon": 0.02},
        {"num_sinks": 1, "future": 1, "value_norm": False},
    ],
    ids=str,
)
def test_scores_equal_the_formula(make_model, prompt, family, heads, fields):
    model, ids = make_model(family, heads), prompt(31)
    scorer = ExpectedAttention(**fields)
    prefilled = prefill(model, ids, 1, scorer.observers)
    rest = {name: getattr(scorer, name) for name in ("num_sinks", "future", "covariance", "value_norm", "epsilon")}
    for layer, queries in zip(prefilled.layers, plain_queries(model, ids), strict=True):
        scores, expected = scorer.scores(layer).numpy(), written_out(queries, layer, **rest)
        np.testing.assert_allclose(scores, expected, rtol=2e-3, atol=1e-6)


class Rotary(ModelParts):
    """Of positions alone, no model."""

    def rotary(self, layer_idx, positions):
        angles = positions[:, None].double() * torch.tensor([10000.0 ** (-2 * i / 8) for i in range(4)] * 2)
        return angles.cos().float(), angles.sin().float()


@pytest.mark.parametrize("queries", ["random", "one", "two", "none"])
@pytest.mark.parametrize("seq_len", [5, 26])
def test_scores_equal_the_formula_on_structured_layers(make_world, heads, kind, queries, seq_len):
    """Keys that repeat or that all look at; queries that are all one before they are turned, two in turn, or zero."""
    world = make_world(*heads, seq_len, kind=kind, head_dim=8)
    plain = world.queries.double().numpy() / 1.5
    if queries != "random":
        plain[:] = plain[:, [0, 1]][:, np.arange(seq_len) % (2 if queries == "two" else 1)] * (queries != "none")
    apply_rotary = np.stack([plain[:, p] @ rotation(p, 8).T for p in range(seq_len)], axis=1)
    world.queries = torch.tensor(apply_rotary).float()
    view = replace(world.view(), parts=Rotary(None))
    scorer = ExpectedAttention(num_sinks=2, future=6, epsilon=0.01)
    layer = world.layer(scorer.observers, view=view)
    expected = written_out(plain, layer, 2, 6, True, True, 0.01)
    np.testing.assert_allclose(scorer.scores(layer).numpy(), expected, rtol=2e-4, atol=1e-6)
    if queries == "none":
        share = 1 / (seq_len - 2) + 0.01
        lengths = layer.values[:, 2:].norm(dim=-1)
        np.testing.assert_allclose(scorer.scores(layer)[:, 2:].numpy(), share * lengths.numpy(), rtol=1e-5)


def test_the_key_that_the_next_queries_point_at_wins(make_world):
    world = make_world(4, 2, 40, head_dim=8)
    towards = rotation(40, 8) @ np.eye(8)[3]  # where the only query to come will point
    world.queries = torch.tensor(np.stack([rotation(p, 8)[:, 3] for p in range(40)])).float().expand(4, -1, -1) * 6
    world.keys[:] = 0
    world.keys[0, 17], world.keys[1, 29] = torch.tensor(towards).float() * 6, torch.tensor(towards).float() * 6
    scorer = ExpectedAttention(future=1, value_norm=False)
    scores = scorer.scores(world.layer(scorer.observers, view=replace(world.view(), parts=Rotary(None))))
    assert scores[:, 4:].argmax(-1).tolist() == [13, 25] and (scores[:, 4:].amax(-1) > 0.99).all()


def test_sinks_and_the_newest_are_kept(make_model, prompt):
    scorer = ExpectedAttention(num_sinks=3, recent=2)
    layer = prefill(make_model(), prompt(20), 1, scorer.observers).layers[0]
    scores = scorer.scores(layer)
    assert torch.isinf(scores).nonzero()[:, 1].unique().tolist() == [0, 1, 2, 18, 19]
    assert scorer.reserved(20) == 5 and scorer.reserved(4) == 4
    scorer.check_budget(6)
    with pytest.raises(CokvError, match="at least 6"):
        scorer.check_budget(5)


@pytest.mark.parametrize("seq_len", [1, 3, 4])
def test_a_prompt_of_sinks_alone_is_kept(make_model, prompt, seq_len):
    scorer = ExpectedAttention()
    layer = prefill(make_model(), prompt(seq_len), 1, scorer.observers).layers[0]
    assert torch.isinf(scorer.scores(layer)).all()


def test_a_scaled_rotation_is_undone_too(fresh_model, prompt):
    """YaRN multiplies cos and sin by a number; queries before RoPE have none of it."""
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "rope_theta": 10000.0}
    model, ids = fresh_model(rope_parameters=rope), prompt(31)
    assert model.model.rotary_emb.attention_scaling > 1.1
    (mean, _) = prefill(model, ids, 1, [FutureQueries(0, 1)]).layers[0].observation(FutureQueries(0, 1))
    cos, sin = model.model.rotary_emb(torch.zeros(1), torch.tensor([[31]]))
    plain = torch.tensor(plain_queries(model, ids)[0].mean(1)).float()
    halves = torch.cat([-plain[:, 8:], plain[:, :8]], dim=-1)
    torch.testing.assert_close(mean, plain * cos[0] + halves * sin[0], rtol=1e-4, atol=1e-5)


FOLLOWING_THE_LENGTH = {
    "longrope": {
        "rope_type": "longrope",
        "short_factor": [1.0 + i / 8 for i in range(8)],
        "long_factor": [2.0 + i for i in range(8)],
        "original_max_position_embeddings": 64,
        "rope_theta": 10000.0,
    },
    "dynamic": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0},
}


@pytest.mark.parametrize("kind", FOLLOWING_THE_LENGTH)
def test_queries_are_turned_back_as_they_were_turned_whatever_comes_next(fresh_model, prompt, kind):
    """Positions to come may switch the frequencies; the prompt was not read with those."""
    future, most = 40, 128 if kind == "longrope" else 64
    model, ids = fresh_model(rope_parameters=FOLLOWING_THE_LENGTH[kind], max_position_embeddings=most), prompt(50)
    read = model.model.rotary_emb(torch.zeros(1), torch.arange(50)[None])[0]
    (mean, _) = prefill(model, ids, 1, [FutureQueries(0, future)]).layers[0].observation(FutureQueries(0, future))
    cos, sin = model.model.rotary_emb(torch.zeros(1), torch.arange(50, 50 + future)[None])
    both = model.model.rotary_emb(torch.zeros(1), torch.arange(50 + future)[None])[0]
    assert (both[:, :50] - read).abs().max() > 0.1, "the frequencies do not switch here"
    plain = torch.tensor(plain_queries(fresh_model(), ids)[0].mean(1)).float()  # layer 0: before any rotation
    halves = torch.cat([-plain[:, 8:], plain[:, :8]], dim=-1)
    torch.testing.assert_close(mean, plain * cos[0].mean(0) + halves * sin[0].mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", FOLLOWING_THE_LENGTH)
def test_asking_for_positions_to_come_leaves_the_models_rotation_alone(fresh_model, prompt, kind):
    model = fresh_model(rope_parameters=FOLLOWING_THE_LENGTH[kind], max_position_embeddings=64)
    prefilled = prefill(model, prompt(60), 1)
    before = model.model.rotary_emb.inv_freq.clone()
    looked = prefill(model, prompt(60), 1, ExpectedAttention().observers)
    assert torch.equal(model.model.rotary_emb.inv_freq, before)
    assert torch.isfinite(ExpectedAttention().scores(looked.layers[0])[:, 4:]).all()
    assert torch.equal(looked.first_logits, prefilled.first_logits)


def test_a_model_without_one_rotary_embedding_is_refused_when_asked_for(fresh_model, prompt):
    model, scorer = fresh_model(), ExpectedAttention()
    prefilled = prefill(model, prompt(20), 1, scorer.observers)
    assert torch.isfinite(scorer.scores(prefilled.layers[0])[:, 4:]).all()
    model.model.layers[0].rotary_emb = torch.nn.Identity()
    prefilled = prefill(model, prompt(20), 1, scorer.observers)  # the prompt is read all the same
    with pytest.raises(CokvError, match="has 2 modules named rotary_emb, expected one"):
        scorer.scores(prefilled.layers[0])


def test_a_model_that_turns_its_queries_otherwise_is_refused(make_model, prompt, monkeypatch):
    from transformers.models.llama import modeling_llama

    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", lambda q, k, cos, sin, **kwargs: (q, k))
    prefilled = prefill(make_model(), prompt(20), 1, ExpectedAttention().observers)
    with pytest.raises(CokvError, match="does not rotate queries by halves"):
        ExpectedAttention().scores(prefilled.layers[0])


@pytest.mark.parametrize(("field", "value"), [("num_sinks", -1), ("future", 0), ("recent", 1.5), ("epsilon", -0.1)])
def test_a_bad_field_is_named(field, value):
    with pytest.raises(CokvError, match=field):
        ExpectedAttention(**{field: value})
