"""Reconstruction equals one uncached pass over prompt and passage, with the attention of every query written out."""

import numpy as np
import pytest
import torch

from cokv.cache.prefill import prefill
from cokv.methods.scorers import blocks
from cokv.methods.scorers.kvzip import FIRST, LATER, KVzipScorer, Repetition
from cokv.model.observe import ModelParts, Passage
from cokv.types import CokvError


class Tokenizer:
    """Letters by their code; enough of the real thing's face."""

    def __call__(self, text, add_special_tokens=True):
        assert not add_special_tokens
        return {"input_ids": [1 + ord(c) % 90 for c in text]}


def ids_of(text):
    return Tokenizer()(text, add_special_tokens=False)["input_ids"]


def queries_and_keys(model, ids):
    """Per layer, post-RoPE, from one pass over all ids without a cache of ours; the scaling, and the model's sinks."""
    prefilled = prefill(model, ids, window=len(ids))
    return [
        (
            layer.window_queries.double().numpy(),
            layer.keys.double().numpy(),
            layer.scaling,
            getattr(model.model.layers[layer.layer_idx].self_attn, "sinks", None),
        )
        for layer in prefilled.layers
    ]


def written_out(model, ids, chunk_size, num_sinks):
    prompt, result = ids.tolist(), None
    for start in range(0, len(prompt), chunk_size):
        chunk = prompt[start : start + chunk_size]
        head = ids_of(FIRST) if start == 0 else ids_of(LATER) + prompt[max(start - 8, 0) : start]
        passage = head + ids_of("\n") + chunk
        whole = queries_and_keys(model, torch.tensor(prompt + passage))
        if result is None:
            result = [np.zeros((keys.shape[0], len(prompt))) for _, keys, *_ in whole]
        first = range(min(num_sinks, start))
        columns = [*first, *range(start, start + len(chunk)), *range(len(prompt), len(prompt) + len(passage))]
        cap = getattr(model.config, "attn_logit_softcapping", None)
        for layer, (queries, keys, scaling, sinks) in zip(result, whole, strict=True):
            group = len(queries) // len(keys)
            for head in range(len(queries)):
                for row in range(len(prompt), len(prompt) + len(passage)):
                    visible = [j for j in columns if j <= row]
                    logits = np.array([queries[head, row] @ keys[head // group, j] for j in visible]) * scaling
                    logits = logits if cap is None else cap * np.tanh(logits / cap)
                    weights = np.exp(logits)
                    total = weights.sum() + (0 if sinks is None else np.exp(float(sinks[head])))
                    for j, weight in zip(visible, weights / total, strict=True):
                        if start <= j < start + len(chunk):
                            layer[head // group, j] = max(layer[head // group, j], weight)
    return result


TWO = {"num_hidden_layers": 2}
FULL = {**TWO, "layer_types": ["full_attention"] * 2}


@pytest.mark.parametrize("heads", ["mha", "gqa", "mqa"])
@pytest.mark.parametrize(
    ("family", "chunk_size", "num_sinks"),
    [("llama", 64, 4), ("qwen3", 9, 3), ("qwen2", 21, 0), ("gemma2", 9, 3), ("gpt-oss", 9, 3)],
)
def test_scores_equal_an_uncached_pass(make_model, prompt, family, heads, chunk_size, num_sinks):
    model, ids = make_model(family, heads, **(FULL if family in ("gemma2", "gpt-oss") else TWO)), prompt(21)
    scorer = KVzipScorer(chunk_size, num_sinks)
    prefilled = prefill(model, ids, 1, scorer.observers, Tokenizer())
    for layer, expected in zip(prefilled.layers, written_out(model, ids, chunk_size, num_sinks), strict=True):
        scores = scorer.scores(layer)
        np.testing.assert_allclose(scores[:, num_sinks:].numpy(), expected[:, num_sinks:], rtol=1e-3, atol=1e-5)
        assert torch.isinf(scores[:, :num_sinks]).all() and scorer.reserved(21) == num_sinks


@pytest.mark.parametrize("ids", [[5] * 21, [5, 9] * 10, [*range(1, 8)] * 3, [3] * 20 + [77]], ids=str)
@pytest.mark.parametrize(("chunk_size", "num_sinks"), [(64, 4), (7, 2)])
def test_scores_equal_an_uncached_pass_on_prompts_that_repeat(make_model, ids, chunk_size, num_sinks):
    model, ids = make_model("llama", "gqa", num_hidden_layers=2), torch.tensor(ids)
    scorer = KVzipScorer(chunk_size, num_sinks)
    prefilled = prefill(model, ids, 1, scorer.observers, Tokenizer())
    for layer, expected in zip(prefilled.layers, written_out(model, ids, chunk_size, num_sinks), strict=True):
        scores = scorer.scores(layer)[:, num_sinks:].numpy()
        np.testing.assert_allclose(scores, expected[:, num_sinks:], rtol=1e-3, atol=1e-5)


def largest_written_out(world, passage, num_sinks, seq_len):
    """[num_kv_heads, end - start] of a world whose first seq_len tokens are the prompt, the rest the passage."""
    queries, keys = world.queries.double().numpy(), world.keys.double().numpy()
    sinks, group = min(num_sinks, passage.start), len(queries) // len(keys)
    columns = [*range(sinks), *range(passage.start, passage.end), *range(seq_len, keys.shape[1])]
    best = np.zeros((len(keys), passage.end - passage.start))
    for head in range(len(queries)):
        for row in range(seq_len, keys.shape[1]):
            visible = [j for j in columns if j <= row]
            logits = np.array([queries[head, row] @ keys[head // group, j] for j in visible]) * world.scaling
            weights = np.exp(logits - logits.max())
            for j, weight in zip(visible, weights / weights.sum(), strict=True):
                if passage.start <= j < passage.end:
                    at = head // group, j - passage.start
                    best[at] = max(best[at], weight)
    return best


@pytest.mark.parametrize(("start", "end", "num_sinks"), [(0, 9, 4), (6, 15, 4), (6, 15, 0), (2, 3, 4)])
def test_the_largest_attention_on_structured_layers(make_world, heads, kind, start, end, num_sinks):
    rows = 3 + end - start  # an instruction of three tokens
    world, passage = make_world(*heads, 18 + rows, kind=kind), Passage(start, end, tuple(range(rows)))
    best = Repetition(9, num_sinks).look(world.queries[:, 18:], world.keys, world.scaling, passage)
    np.testing.assert_allclose(best.numpy(), largest_written_out(world, passage, num_sinks, 18), rtol=2e-5, atol=1e-7)


def test_who_finds_its_own_word_again_scores_one_and_equal_words_share(make_world):
    """Each query of the repetition points at one prompt token; two of these are the same word."""
    world, passage = make_world(2, 1, 22, head_dim=8), Passage(4, 10, tuple(range(6)))
    world.keys[:] = 0
    for place, word in enumerate([0, 1, 2, 3, 2, 4]):
        world.keys[0, 4 + place, word] = world.queries[1, 16 + place, word] = 20
        world.queries[:, 16 + place, [w for w in range(8) if w != word]] = 0
    world.queries[0] = 0
    best = Repetition(6, 4).look(world.queries[:, 16:], world.keys, world.scaling, passage)
    np.testing.assert_allclose(best[0].numpy(), [1, 1, 0.5, 1, 0.5, 1], atol=1e-6)


def test_a_hybrid_model_is_read_again_with_its_sliding_layers(make_model, prompt):
    model, ids = make_model("qwen3-hybrid"), prompt(30)
    scorer = KVzipScorer(chunk_size=30)
    prefilled = prefill(model, ids, 1, scorer.observers, Tokenizer())
    before = {i: layer.keys.clone() for i, layer in prefilled.sliding.items()}
    for layer, expected in zip(prefilled.layers, written_out(model, ids, 30, 4), strict=True):
        np.testing.assert_allclose(scorer.scores(layer)[:, 4:].numpy(), expected[:, 4:], rtol=1e-3, atol=1e-5)
    again = prefill(model, ids, 1, scorer.observers, Tokenizer())
    assert all(torch.equal(again.sliding[i].keys, keys) for i, keys in before.items()), "the cache was left changed"


def test_reading_again_leaves_the_prefill_as_it_was(make_model, prompt):
    model, ids = make_model(), prompt(40)
    plain = prefill(model, ids, 4)
    prefilled = prefill(model, ids, 4, KVzipScorer(chunk_size=16).observers, Tokenizer())
    assert torch.equal(prefilled.first_logits, plain.first_logits)
    for layer, other in zip(prefilled.layers, plain.layers, strict=True):
        assert torch.equal(layer.keys, other.keys) and torch.equal(layer.values, other.values)
        assert torch.equal(layer.window_queries, other.window_queries)


@pytest.mark.parametrize("chunk", [1, 100, 3000])
def test_the_size_of_the_blocks_changes_nothing(monkeypatch, chunk):
    generator = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(4, 12, 8, generator=generator), torch.randn(2, 42, 8, generator=generator)
    passage, replayer = Passage(10, 20, tuple(range(12))), Repetition(10, 4)
    whole = replayer.look(queries, keys, 0.3, passage)
    monkeypatch.setattr(blocks, "CHUNK", chunk)
    torch.testing.assert_close(replayer.look(queries, keys, 0.3, passage), whole, rtol=1e-6, atol=0)


def test_passages_cover_the_prompt_once():
    ids = torch.arange(1, 51)
    passages = Repetition(20, 4).passages(ids, ModelParts(None, Tokenizer()))
    assert [(p.start, p.end) for p in passages] == [(0, 20), (20, 40), (40, 50)]
    assert passages[1].ids == (*ids_of(LATER), *range(13, 21), *ids_of("\n"), *range(21, 41))


def test_what_hinders_reaches_whoever_asks(make_model, prompt):
    model, scorer = make_model(max_position_embeddings=120), KVzipScorer()
    without = prefill(model, prompt(30), 1, scorer.observers)
    with pytest.raises(CokvError, match="needs the model's tokenizer"):
        scorer.scores(without.layers[0])
    tight = prefill(model, prompt(60), 1, scorer.observers, Tokenizer())
    with pytest.raises(CokvError, match=r"reads 99 more tokens after the prompt of 60.*120 positions; use a smaller"):
        scorer.scores(tight.layers[0])
    assert torch.isfinite(tight.first_logits).all(), "the prompt is read all the same"


@pytest.mark.parametrize(("field", "value"), [("chunk_size", 0), ("num_sinks", -1), ("num_sinks", True)])
def test_a_bad_field_is_named(field, value):
    with pytest.raises(CokvError, match=field):
        KVzipScorer(**{field: value})
