"""H2O, Scissorhands and TOVA while decoding hold exactly the positions of a simulation with explicit sets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from attention_sums import AttentionSums
from transformers import PreTrainedModel

from cokv.cache.attention.attachment import ragged_attention
from cokv.cache.cache import RaggedCache
from cokv.cache.compression import SelectEachLayer
from cokv.cache.policies.growth import Grow
from cokv.cache.policies.protocol import EvictsByAttention
from cokv.cache.prefill import PrefillLayer, prefill
from cokv.cache.storage.attention_evictor import AttentionEvictor
from cokv.decode.batches import Row
from cokv.decode.decode import Stop, decode
from cokv.methods.policies.h2o import H2OEviction
from cokv.methods.policies.scissorhands import ScissorhandsEviction
from cokv.methods.policies.tova import TOVAEviction
from cokv.methods.registry import get_method
from cokv.types import CokvError, Selection

MakeModel = Callable[..., PreTrainedModel]
Prompt = Callable[..., torch.Tensor]
SEQ_LEN, LIMIT, STEPS = 30, 12, 14
HISTORY, RECENT = 16, 3
# Each with two layers of full attention; the second has two more, with a sliding window, in between.
MODELS: dict[str, dict[str, int]] = {"llama": {"num_hidden_layers": 2}, "qwen3-hybrid": {}}
TWO_LAYERS: dict[str, Any] = {"num_hidden_layers": 2, "layer_types": ["full_attention"] * 2}
RULES: dict[str, EvictsByAttention] = {
    "h2o": H2OEviction(LIMIT),
    "scissorhands": ScissorhandsEviction(LIMIT, HISTORY, RECENT),
    "scissorhands seen-only": ScissorhandsEviction(LIMIT, HISTORY, RECENT, count_unseen=False),
    "tova": TOVAEviction(LIMIT),
    "h2o pooled": H2OEviction(LIMIT, kernel_size=5),
    "tova pooled": TOVAEviction(LIMIT, kernel_size=5),
}


def worst(badness: dict[int, float], spared: set[int]) -> int:
    """The highest, of equals the latest position."""
    return max((j for j in badness if j not in spared), key=lambda j: (badness[j], j))


def best_of_neighbours(scores: dict[int, float], head: set[int], reach: int) -> dict[int, float]:
    """The best score among the stored tokens at most `reach` positions away."""
    return {j: max(scores[i] for i in head if abs(i - j) <= reach) for j in head}


class H2OSets(AttentionSums):
    reach = 0

    def __init__(self, history: list[np.ndarray], kept: list[set[int]]) -> None:
        self.scores = [dict.fromkeys(range(SEQ_LEN + STEPS), 0.0) for _ in kept]
        for weights in history:
            self.add(weights)

    def step(self, weights: np.ndarray, held: list[set[int]], position: int) -> list[set[int]]:
        self.add(weights)
        after = []
        for scores, head in zip(self.scores, held, strict=True):
            newest = set(sorted(head)[-(LIMIT // 2) :])
            pooled = best_of_neighbours(scores, head, self.reach)
            out = {worst({j: -pooled[j] for j in head}, newest)} if len(head) > LIMIT else set()
            after.append(head - out)
        return after


class H2OPooledSets(H2OSets):
    reach = 2


class ScissorhandsSets:
    unseen_count = True

    def __init__(self, history: list[np.ndarray], kept: list[set[int]]) -> None:
        self.heads = len(kept)
        self.below = [self.passed_over(weights, [set(range(t + 1))] * self.heads) for t, weights in enumerate(history)]

    def passed_over(self, weights: np.ndarray, held: list[set[int]]) -> list[list[int]]:
        self.group = group = len(weights) // self.heads
        return [
            [j for row in weights[h * group : (h + 1) * group] for j in head if row[j] < 1 / len(head)]
            for h, head in enumerate(held)
        ]

    def step(self, weights: np.ndarray, held: list[set[int]], position: int) -> list[set[int]]:
        self.below.append(self.passed_over(weights, held))
        after = []
        for h, head in enumerate(held):
            last = [j for query in self.below[-HISTORY:] for j in query[h]]
            counts = {j: last.count(j) for j in head}
            if self.unseen_count:
                first = max(len(self.below) - HISTORY, 0)  # query number t precedes every token after t
                counts = {j: count + max(j - first, 0) * self.group for j, count in counts.items()}
            out = {worst(counts, set(sorted(head)[-RECENT:]))} if len(head) > LIMIT else set()
            after.append(head - out)
        return after


class ScissorhandsSeenSets(ScissorhandsSets):
    unseen_count = False


class TOVASets:
    reach = 0

    def __init__(self, history: list[np.ndarray], kept: list[set[int]]) -> None:
        pass

    def step(self, weights: np.ndarray, held: list[set[int]], position: int) -> list[set[int]]:
        if len(held[0]) <= LIMIT:
            return held
        mean = weights.mean(axis=0)
        pooled = best_of_neighbours(dict(enumerate(mean.tolist())), held[0], self.reach)
        out = worst({j: -pooled[j] for j in held[0]}, set())
        return [head - {out} for head in held]


class TOVAPooledSets(TOVASets):
    reach = 2


SETS: dict[str, Any] = {
    "h2o": H2OSets,
    "scissorhands": ScissorhandsSets,
    "scissorhands seen-only": ScissorhandsSeenSets,
    "tova": TOVASets,
    "h2o pooled": H2OPooledSets,
    "tova pooled": TOVAPooledSets,
}


def positions(cache: RaggedCache, row: int = 0) -> list[list[set[int]]]:
    """What the notes say each head of a row holds, [layer][kv_head]."""
    per_head = []
    for layer in cache.ragged_layers:
        ((_, part),) = layer.parts
        (columns,) = [w for w in part.evictors if isinstance(w, AttentionEvictor)]
        heads = [{p for p in notes.tolist() if p >= 0} for notes in columns.positions]
        lengths = part.store.lengths[columns.segments].tolist()
        assert [len(head) for head in heads] == lengths, "notes and storage disagree"
        per_head.append(heads[row * part.heads : (row + 1) * part.heads])
    return per_head


def read(model: PreTrainedModel, cache: RaggedCache, ids: torch.Tensor, position: int) -> torch.Tensor:
    """Logits [rows, t, vocab_size]."""
    where = torch.arange(position, position + ids.shape[1])[None]
    with ragged_attention(model), torch.no_grad():
        return model(input_ids=ids, past_key_values=cache, position_ids=where).logits


@pytest.mark.parametrize(
    ("family", "heads", "name"),
    [("llama", heads, name) for heads in ("mha", "gqa", "mqa") for name in RULES]
    + [
        ("gemma2", "gqa", "h2o"),
        ("gemma2", "mqa", "scissorhands"),
        ("gpt-oss", "gqa", "h2o"),
        ("gpt-oss", "mha", "tova"),
    ],
)
def test_positions_and_logits_are_those_of_explicit_sets(
    make_model: MakeModel, prompt: Prompt, simulated: Callable[..., Any], family: str, heads: str, name: str
) -> None:
    """Gemma 2 caps logits, and GPT-OSS has sinks."""
    layers = {"num_hidden_layers": 2} if family == "llama" else TWO_LAYERS
    model, ids, after = make_model(family, heads, **layers), prompt(SEQ_LEN), prompt(STEPS, seed=1)
    prefilled = prefill(model, ids, HISTORY + 1, RULES[name].observers)
    made_kv = prefilled.shape.num_kv_heads
    mask = torch.zeros(2, made_kv, SEQ_LEN, dtype=torch.bool)
    generator = torch.Generator().manual_seed(3)
    for layer in range(2):  # any tokens, and fewer than the limit, so that the heads fill up first
        for head in range(made_kv):
            chosen = torch.randperm(SEQ_LEN, generator=generator)[: LIMIT - 2]
            mask[
                layer, head, chosen if not name.startswith("tova") or head == 0 else mask[layer, 0].nonzero()[:, 0]
            ] = True
    selection = Selection.from_mask(mask)
    kept = [[set(selection.head(i, h).tolist()) for h in range(made_kv)] for i in range(2)]
    logits, sets = simulated(model, ids, after, kept, SETS[name])
    cache = RaggedCache.of(prefilled, [selection], [RULES[name]], slack=3)
    assert positions(cache) == kept
    for i, token in enumerate(after):
        got = read(model, cache, token.view(1, 1), SEQ_LEN + i)[0, 0]
        np.testing.assert_allclose(got.numpy(), logits[i], rtol=0, atol=2e-4)
        assert positions(cache) == [[head[i] for head in layer] for layer in sets], f"after token {i}"
        assert cache.stored_tokens == 2 * made_kv * min(LIMIT - 2 + i + 1, LIMIT)
    assert len({frozenset(head[-1]) for layer in sets for head in layer}) > 1, "heads that all drop alike test little"


@pytest.mark.parametrize("name", list(RULES))
@pytest.mark.parametrize("family", list(MODELS))
def test_rows_beside_each_other_and_chunks_change_nothing(
    make_model: MakeModel, prompt: Prompt, name: str, family: str
) -> None:
    model, ids, after = make_model(family, **MODELS[family]), prompt(SEQ_LEN), prompt(STEPS, seed=1)
    method_name, _, preset = name.partition(" ")
    params = {"history": HISTORY, "recent": RECENT} if method_name == "scissorhands" else {}
    method = get_method(method_name, preset or "normalized", **params)
    prefilled = prefill(model, ids, HISTORY + 1, [*RULES[name].observers, *method.observers])
    own_selection, full = method.select(prefilled, LIMIT), Selection.full(2, 2, SEQ_LEN)
    alone = RaggedCache.of(prefilled, [own_selection], [RULES[name]])
    expected = torch.cat([read(model, alone, t.view(1, 1), SEQ_LEN + i)[0] for i, t in enumerate(after)])
    rows = RaggedCache.of(prefilled, [full, own_selection, full], [Grow(), RULES[name], TOVAEviction(SEQ_LEN + 3)])
    first = read(model, rows, after[:5].expand(3, -1), SEQ_LEN)[1]
    rows.reorder_cache(torch.tensor([1, 1, 0]))
    rows.keep_rows(torch.tensor([1, 2]))
    rest = read(model, rows, after[5:].expand(2, -1), SEQ_LEN + 5)[0]
    torch.testing.assert_close(torch.cat([first, rest]), expected, rtol=0, atol=1e-4)
    assert rows.held()[0].slots == 2 * 2 * LIMIT
    assert rows.held()[1].slots == 2 * 2 * (SEQ_LEN + STEPS), "the row that grows is left alone"


@pytest.mark.parametrize("name", list(RULES))
def test_decode_counts_slots_and_notes(make_model: MakeModel, prompt: Prompt, name: str) -> None:
    model, ids = make_model(num_hidden_layers=2), prompt(SEQ_LEN)
    prefilled = prefill(model, ids, HISTORY + 1, [*RULES[name].observers])
    selection = Selection.from_mask((torch.arange(SEQ_LEN) >= SEQ_LEN - LIMIT).expand(2, 2, -1))
    (answer,) = decode(model, prefilled, [Row(selection, RULES[name])], Stop(8))
    notes = (LIMIT + 1) * (
        4 + (HISTORY * 2 // 8 + 4 if name.startswith("scissorhands") else 4)
    )  # two bits for two query heads, and their sum
    assert answer.kept_tokens == selection.total == 4 * LIMIT
    assert answer.kept_bytes == 4 * (LIMIT * prefilled.token_bytes + notes)


@pytest.mark.parametrize("family", list(MODELS))
def test_inside_generate_it_is_that_of_a_filled_cache(make_model: MakeModel, prompt: Prompt, family: str) -> None:
    model, ids = make_model(family, **MODELS[family]), prompt(SEQ_LEN)
    last = torch.arange(SEQ_LEN - LIMIT, SEQ_LEN)
    padded = torch.stack([torch.cat([torch.zeros(6, dtype=torch.long), ids]), prompt(SEQ_LEN + 6, seed=4)])
    for rule in RULES.values():
        prefilled = prefill(model, ids, HISTORY + 1, rule.observers)
        selection = Selection.from_heads([[last] * 2] * 2, SEQ_LEN)
        (answer,) = decode(model, prefilled, [Row(selection, rule)], Stop(12))
        newest = SelectEachLayer(
            lambda layer: [torch.arange(layer.keys.shape[1] - LIMIT, layer.keys.shape[1])] * 2, HISTORY, rule
        )
        cache = RaggedCache(model.config, newest)
        with ragged_attention(model):
            got = model.generate(
                padded, attention_mask=(padded != 0).long(), past_key_values=cache, max_new_tokens=12, do_sample=False
            )
        assert got[0, SEQ_LEN + 6 :].tolist() == answer.tokens
        assert cache.stored_tokens == 2 * 2 * 2 * LIMIT


def test_what_cannot_hold_is_refused(make_model: MakeModel, prompt: Prompt) -> None:
    prefilled = prefill(make_model(num_hidden_layers=2), prompt(SEQ_LEN), 3)
    full = Selection.full(2, 2, SEQ_LEN)
    with pytest.raises(CokvError, match="more than its eviction limit"):
        RaggedCache.of(prefilled, [full], [TOVAEviction(LIMIT)])
    with pytest.raises(CokvError, match="AttentionSum, which this prefill did not look for"):
        RaggedCache.of(prefilled, [full], [H2OEviction(SEQ_LEN)])
    with pytest.raises(CokvError, match="prefill with window_size=30"):
        RaggedCache.of(prefilled, [full], [ScissorhandsEviction(SEQ_LEN)])
    uneven = Selection.from_heads([[torch.arange(3), torch.arange(1, 4)]] * 2, SEQ_LEN)
    with pytest.raises(CokvError, match="same positions in all heads"):
        RaggedCache.of(prefilled, [uneven], [TOVAEviction(LIMIT)])
    crowded = PrefillLayer(0, torch.zeros(1, 4, 2), torch.zeros(1, 4, 2), torch.zeros(256, 4, 2), 1.0)
    with pytest.raises(CokvError, match="at most 255 query heads per KV head and this model has 256"):
        ScissorhandsEviction(20).seed(crowded)
    fits = replace(crowded, window_queries=torch.zeros(255, 4, 2))
    assert ScissorhandsEviction(20).seed(fits).shape == (1, 4, 404), "a byte per token and query"
    for make in (
        lambda: H2OEviction(1),
        lambda: TOVAEviction(0),
        lambda: ScissorhandsEviction(10),
        lambda: ScissorhandsEviction(20, 0),
    ):
        with pytest.raises(CokvError, match="expected at least"):
            make()
