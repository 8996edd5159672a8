"""FastGen and CAKE while decoding: heads stay at sizes of their own and hold the positions of explicit lists."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from attention_sums import AttentionSums
from transformers import PreTrainedModel

from cokv.cache.attention import buckets
from cokv.cache.attention.attachment import ragged_attention
from cokv.cache.cache import RaggedCache
from cokv.cache.compression import SelectEachLayer
from cokv.cache.policies.growth import Grow
from cokv.cache.policies.protocol import EvictsByAttention
from cokv.cache.prefill import Prefill, prefill
from cokv.cache.storage.attention_evictor import AttentionEvictor
from cokv.decode.batches import Row
from cokv.decode.decode import Stop, decode
from cokv.methods.policies.cake import CakeEviction
from cokv.methods.policies.fastgen import FastGenEviction
from cokv.methods.policies.h2o import H2OEviction
from cokv.methods.registry import get_method
from cokv.methods.scorers.fastgen import FastGenScorer
from cokv.types import CokvError, Selection

MakeModel = Callable[..., PreTrainedModel]
Prompt = Callable[..., torch.Tensor]
STEPS, WINDOW, KERNEL, GAMMA = 17, 6, 5, 20.0
SPECIAL, MARKS = {1, 2, 3}, set(range(4, 21))


class Tokenizer:
    all_special_ids = tuple(SPECIAL)

    def decode(self, ids: list[int]) -> str:
        return "," if ids[0] in MARKS else "word"


def rule(name: str, limit: int) -> EvictsByAttention:
    return FastGenEviction(limit) if name == "fastgen" else CakeEviction(limit, WINDOW, KERNEL, GAMMA)


def sizes(kept: list[set[int]], seq_len: int, limit: int, grows: bool) -> list[float]:
    if seq_len <= limit:
        return [limit] * len(kept)
    return [np.inf if grows and len(head) == seq_len else len(head) for head in kept]


class FastGenSets(AttentionSums):
    def __init__(self, history: list[np.ndarray], kept: list[set[int]], limit: int, ids: list[int]) -> None:
        self.limits, self.ids = sizes(kept, len(history), limit, grows=True), ids
        self.scores = [[0.0] * len(ids) for _ in kept]
        for weights in history:
            self.add(weights)

    def step(self, weights: np.ndarray, held: list[set[int]], position: int) -> list[set[int]]:
        self.add(weights)
        return [
            set(best_first(head, scores, self.ids, position + 1)[: int(min(limit, len(head)))])
            for head, scores, limit in zip(held, self.scores, self.limits, strict=True)
        ]


def best_first(held: set[int], scores: list[float], ids: list[int], tokens_read: int) -> list[int]:
    """Tier by tier, with the default shares."""
    attended = sorted(held, key=lambda j: (-scores[j], j))
    special = [j for j in attended if ids[j] in SPECIAL]
    marks = [j for j in attended if ids[j] in MARKS]
    frequent = attended[: int(0.3 * tokens_read)]
    local = [j for j in sorted(held, reverse=True) if j >= tokens_read - int(0.3 * tokens_read)]
    return list(dict.fromkeys([*special, *marks, *frequent, *local, *attended]))


class CakeLists:
    """The released cache: what was ranked last, best first, then the window."""

    def __init__(self, history: list[np.ndarray], kept: list[set[int]], limit: int, ids: list[int]) -> None:
        seq_len = len(history)
        self.limits = sizes(kept, seq_len, limit, grows=False)
        self.lines = [sorted(head) for head in kept]
        if seq_len > limit:
            last = np.stack([np.pad(row, ((0, 0), (0, seq_len - row.shape[1]))) for row in history[-WINDOW:]])
            high = (last.mean(axis=0) + GAMMA * last.var(axis=0, ddof=1))[:, : seq_len - WINDOW]
            for head, line in enumerate(self.lines):
                group = len(high) // len(kept)
                scores = pooled(high[head * group : (head + 1) * group])
                line.sort(key=lambda j, s=scores: (-s[j], j) if j < seq_len - WINDOW else (1, j))

    def step(self, weights: np.ndarray, held: list[set[int]], position: int) -> list[set[int]]:
        group = len(weights) // len(held)
        for head, (line, limit) in enumerate(zip(self.lines, self.limits, strict=True)):
            line.append(position)
            assert set(line) == held[head]
            if len(line) > limit:
                old, window = line[:-WINDOW], line[-WINDOW:]
                scores = pooled(weights[head * group : (head + 1) * group][:, old])
                order = sorted(range(len(old)), key=lambda i, s=scores: (-s[i], i))
                line[:] = [old[i] for i in order[: int(limit) - WINDOW]] + window
        return [set(line) for line in self.lines]


def pooled(weights: np.ndarray) -> list[float]:
    """[query heads, tokens] -> mean over the heads of averages over five neighbours, zeros beyond the ends."""
    scores = []
    for i in range(weights.shape[1]):
        near = range(max(i - KERNEL // 2, 0), min(i + KERNEL // 2 + 1, weights.shape[1]))
        scores.append(float(np.mean([sum(row[j] for j in near) / KERNEL for row in weights])))
    return scores


SETS: dict[str, Any] = {"fastgen": FastGenSets, "cake": CakeLists}


def held_positions(cache: RaggedCache) -> list[dict[int, set[int]]]:
    """Per layer, what the notes say each watched segment holds."""
    per_head: list[dict[int, set[int]]] = []
    for layer in cache.ragged_layers:
        ((_, part),) = layer.parts
        heads = {}
        for columns in part.evictors:
            assert isinstance(columns, AttentionEvictor)
            for segment, notes in zip(columns.segments.tolist(), columns.positions, strict=True):
                heads[segment] = {p for p in notes.tolist() if p >= 0}
                assert len(heads[segment]) == part.store.lengths[segment], "notes and storage disagree"
        per_head.append(heads)
    return per_head


def read(model: PreTrainedModel, cache: RaggedCache, ids: torch.Tensor, position: int) -> torch.Tensor:
    """Logits [rows, t, vocab_size]."""
    where = torch.arange(position, position + ids.shape[1])[None]
    with ragged_attention(model), torch.no_grad():
        return model(input_ids=ids, past_key_values=cache, position_ids=where).logits


def prefilled(model: PreTrainedModel, ids: torch.Tensor) -> Prefill:
    observers = {o for name in ("fastgen", "cake", "h2o") for o in get_method(name).observers} | {
        *FastGenEviction().observers
    }
    return prefill(model, ids, WINDOW + 1, sorted(observers, key=repr), Tokenizer())


def answer_ids(prompt: Prompt, seed: int = 1) -> torch.Tensor:
    """With a special token and marks among them."""
    after = prompt(STEPS, seed=seed)
    after[3], after[5], after[6] = 2, 7, 9
    return after


def uneven(kv_heads: int, seq_len: int, name: str) -> Selection:
    """Random tokens; heads of very different sizes, one of them whole; for CAKE the window in each."""
    generator = torch.Generator().manual_seed(3)
    mask = torch.zeros(2, kv_heads, seq_len, dtype=torch.bool)
    counts = [7, seq_len, 12, 17, seq_len - 1, 9, WINDOW, 8]
    for place in range(2 * kv_heads):
        head = mask[place % 2, place // 2]
        head[torch.randperm(seq_len, generator=generator)[: counts[place]]] = True
        if name == "cake":
            head[:] = False
            head[seq_len - WINDOW :] = True
            head[torch.randperm(seq_len - WINDOW, generator=generator)[: counts[place] - WINDOW]] = True
    return Selection.from_mask(mask)


@pytest.mark.parametrize("heads", ["mha", "gqa", "mqa"])
@pytest.mark.parametrize("seq_len", [31, 18, 5, 1])
@pytest.mark.parametrize("name", ["fastgen", "cake"])
def test_positions_and_logits_are_those_of_explicit_lists(
    make_model: MakeModel, prompt: Prompt, simulated: Callable[..., Any], name: str, seq_len: int, heads: str
) -> None:
    model, ids, after = make_model("llama", heads, num_hidden_layers=2), prompt(seq_len), answer_ids(prompt)
    prefill_result, limit = prefilled(model, ids), 18  # beside which 31 tokens are many, and the others fit
    kv_heads = prefill_result.shape.num_kv_heads
    selection = uneven(kv_heads, seq_len, name) if seq_len > limit else Selection.full(2, kv_heads, seq_len)
    kept = [[set(selection.head(i, h).tolist()) for h in range(kv_heads)] for i in range(2)]
    token_ids = [*ids.tolist(), *after.tolist()]
    logits, sets = simulated(model, ids, after, kept, lambda history, held: SETS[name](history, held, limit, token_ids))
    most = []

    def spy(queries: torch.Tensor, *stored: Any) -> tuple[torch.Tensor, torch.Tensor]:
        most.append(stored[3].clone())
        return buckets.attend(queries, *stored)

    cache = RaggedCache.of(prefill_result, [selection], [rule(name, limit)], slack=3, attend=spy)
    for i, token in enumerate(after):
        most.clear()
        got = read(model, cache, token.view(1, 1), seq_len + i)[0, 0]
        np.testing.assert_allclose(got.numpy(), logits[i], rtol=0, atol=2e-4)
        for layer, (per_head, expected) in enumerate(zip(held_positions(cache), sets, strict=True)):
            allowed = sizes(kept[layer], seq_len, limit, name == "fastgen")
            for head, known in per_head.items():
                assert known == expected[head][i], f"layer {layer}, head {head} after token {i}"
                assert len(known) <= allowed[head] and most[layer][head] <= allowed[head] + 1
            for head in {*range(kv_heads)} - {*per_head}:
                assert allowed[head] == np.inf and most[layer][head] == seq_len + i + 1, "a head that kept all grows"
    now = held_positions(cache)
    dropped = [{*range(seq_len + STEPS)} - held for per_head in now for held in per_head.values()]
    assert seq_len == 1 or any(dropped), "nothing was dropped"


def test_dropping_one_by_one_follows_the_tiers_of_the_prompt(make_model: MakeModel, prompt: Prompt) -> None:
    """As long as the newest token is there, by which it is known how many have been read."""
    prefill_result, policy, followed = prefilled(make_model(num_hidden_layers=2), prompt(43)), FastGenEviction(8), 0
    for layer in prefill_result.layers:
        for memory, scores in zip(policy.seed(layer), FastGenScorer().scores(layer), strict=True):
            positions, order = torch.arange(43), scores.argsort().tolist()
            for token in order[: order.index(42)]:
                assert policy.worst(memory[None], positions[None], 2).tolist() == [token]
                positions[token] = -1
                followed += 1
    assert followed > 60


def rows_of(prefill_result: Prefill) -> list[Row]:
    """Both methods at several budgets, beside rows that do otherwise."""
    rows = [
        Row(Selection.full(2, 2, prefill_result.seq_len)),
        Row(get_method("h2o").select(prefill_result, 20), H2OEviction(20)),
    ]
    for budget in (16, 20, 40, prefill_result.seq_len + 40):
        rows.append(
            Row(get_method("fastgen", least_threshold=0).select(prefill_result, budget), FastGenEviction(budget))
        )
        cake = get_method("cake", window_size=WINDOW, kernel_size=KERNEL, gamma=GAMMA)
        rows.append(Row(cake.select(prefill_result, budget), CakeEviction(budget, WINDOW, KERNEL, GAMMA)))
    return rows


@pytest.mark.parametrize("first_token", ["prefill", "compressed"])
@pytest.mark.parametrize("seq_len", [61, 40])
def test_rows_in_a_batch_answer_as_alone(make_model: MakeModel, prompt: Prompt, seq_len: int, first_token: Any) -> None:
    model = make_model(num_hidden_layers=2)
    prefill_result = prefilled(model, prompt(seq_len))
    rows = rows_of(prefill_result)
    free = decode(model, prefill_result, rows, Stop(30), first_token=first_token)
    ends = {t: {a.tokens.index(t) if t in a.tokens else 30 for a in free} for a in free for t in a.tokens[1:]}
    stop = Stop(30, (max(ends, key=lambda token: (len(ends[token]), token)),))
    alone = [decode(model, prefill_result, [row], stop, first_token=first_token)[0] for row in rows]
    assert len({len(answer.tokens) for answer in alone}) > 2, "rows should leave at different steps"
    together = decode(model, prefill_result, rows, stop, way="auto", first_token=first_token)
    assert [a.tokens for a in together] == [a.tokens for a in alone]
    assert [a.kept_bytes for a in together[:1]] == [a.kept_bytes for a in alone[:1]]
    for row, answer in zip(rows[1:], alone[1:], strict=True):
        assert answer.kept_tokens == row.selection.total, "each head stays at its slots"


@pytest.mark.parametrize("seq_len", [61, 19, 15])
def test_after_every_step_the_total_is_the_budgets(make_model: MakeModel, prompt: Prompt, seq_len: int) -> None:
    """But for heads that kept all of a prompt longer than the budget."""
    model, after = make_model(num_hidden_layers=2), answer_ids(prompt)
    prefill_result = prefilled(model, prompt(seq_len))
    for name, own in (("cake", {"window_size": WINDOW}), ("fastgen", {"least_threshold": 0})):
        selection = get_method(name, **own).select(prefill_result, 18)
        whole = int((selection.counts == seq_len).sum()) if name == "fastgen" and seq_len > 18 else 0
        assert selection.total == min(18, seq_len) * 4
        cache = RaggedCache.of(prefill_result, [selection], [rule(name, 18)])
        for i, token in enumerate(after):
            read(model, cache, token.view(1, 1), seq_len + i)
            assert cache.stored_tokens == min(18 * 4, selection.total + 4 * (i + 1)) + whole * (i + 1)


def test_a_budget_for_everything_changes_nothing(make_model: MakeModel, prompt: Prompt) -> None:
    model = make_model(num_hidden_layers=2)
    prefill_result = prefilled(model, prompt(25))
    full = Selection.full(2, 2, 25)
    dense = model.generate(prefill_result.input_ids[None], max_new_tokens=20, do_sample=False)[0, 25:].tolist()
    rows = [Row(full, rule(name, limit)) for name in ("fastgen", "cake") for limit in (45, 60)]
    assert [answer.tokens for answer in decode(model, prefill_result, rows, Stop(20))] == [dense] * 4
    less = decode(model, prefill_result, [Row(full, rule(name, 25)) for name in ("fastgen", "cake")], Stop(20))
    assert [answer.kept_tokens for answer in less] == [100, 100]


def test_notes_are_charged_by_the_widest_head_of_like_size(make_model: MakeModel, prompt: Prompt) -> None:
    model = make_model(num_hidden_layers=2)
    prefill_result = prefilled(model, prompt(61))
    heads = [[torch.arange(61 - n, 61) for n in layer] for layer in ((9, 61), (15, 60))]
    selection = Selection.from_heads(heads, 61)
    for name, widths in (("fastgen", 10 + 16 + 61), ("cake", 10 + 62 + 16 + 61)):
        (answer,) = decode(model, prefill_result, [Row(selection, rule(name, 36))], Stop(2))
        assert answer.kept_tokens == 145
        assert answer.kept_bytes == 145 * prefill_result.token_bytes + widths * (4 + 8), name
    together = Selection.from_heads([[torch.arange(61 - n, 61) for n in (9, 15)]] * 2, 61)
    (answer,) = decode(model, prefill_result, [Row(together, FastGenEviction(12))], Stop(2))
    assert answer.kept_bytes == 48 * prefill_result.token_bytes + 4 * 16 * 12, "8 to 15 slots share columns"


def test_copied_and_leaving_rows_keep_their_limits(make_model: MakeModel, prompt: Prompt) -> None:
    model, ids, after = make_model(num_hidden_layers=2), prompt(31), answer_ids(prompt)
    prefill_result = prefilled(model, ids)
    for name in ("fastgen", "cake"):
        selection, policy = uneven(2, 31, name), rule(name, 18)
        alone = RaggedCache.of(prefill_result, [selection], [policy])
        expected = torch.cat([read(model, alone, t.view(1, 1), 31 + i)[0] for i, t in enumerate(after)])
        rows = RaggedCache.of(prefill_result, [Selection.full(2, 2, 31), selection], [Grow(), policy])
        first = read(model, rows, after[:5].expand(2, -1), 31)[1]
        rows.reorder_cache(torch.tensor([1, 0, 1]))
        rows.keep_rows(torch.tensor([2]))
        rest = read(model, rows, after[5:][None], 36)[0]
        torch.testing.assert_close(torch.cat([first, rest]), expected, rtol=0, atol=1e-4)
        assert [(row.slots, row.bytes) for row in rows.held()] == [(row.slots, row.bytes) for row in alone.held()]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("first_token", ["prefill", "compressed"])
def test_on_cuda_they_answer_as_on_the_cpu(fresh_model: MakeModel, prompt: Prompt, first_token: Any) -> None:
    model, answers = fresh_model(num_hidden_layers=2), []
    for device in ("cpu", "cuda"):
        prefill_result = prefilled(model.to(device), prompt(31))
        rows = [Row(uneven(2, 31, name), rule(name, 18)) for name in ("fastgen", "cake")]
        answers.append(decode(model, prefill_result, rows, Stop(14), first_token=first_token))
    assert answers[0] == answers[1]


def test_what_cannot_be_known_is_refused(make_model: MakeModel, prompt: Prompt) -> None:
    model, ids = make_model(num_hidden_layers=2), prompt(31)
    follows = SelectEachLayer(after=FastGenEviction(40))
    with ragged_attention(model), torch.no_grad():
        with pytest.raises(CokvError, match="needs the model's tokenizer and got none"):
            model(input_ids=ids[None], past_key_values=RaggedCache(model.config, follows))
        cache = RaggedCache(model.config, follows, tokenizer=Tokenizer())
        model(input_ids=ids[None], past_key_values=cache)
        with pytest.raises(CokvError, match="must know which tokens are read, and the model was given embeddings"):
            model(inputs_embeds=torch.zeros(1, 1, 64), past_key_values=cache)
    prefill_result = prefill(model, ids, WINDOW + 1, FastGenEviction().observers)
    with pytest.raises(CokvError, match="needs the model's tokenizer and got none"):
        decode(model, prefill_result, [Row(uneven(2, 31, "fastgen"), FastGenEviction(18))], Stop(3))
    prefill_result = prefilled(model, ids)
    with pytest.raises(CokvError, match="rows with a policy of their own need way='ragged'"):
        decode(model, prefill_result, [Row(uneven(2, 31, "fastgen"), FastGenEviction(18))], Stop(3), way="trie")
    layer = RaggedCache.of(prefill_result, [uneven(2, 31, "fastgen")], [FastGenEviction(18)]).ragged_layers[0]
    new = torch.zeros(1, 4, 1, 16)
    with pytest.raises(CokvError, match="must know which tokens are read"):
        layer.attend(new, new[:, :2], new[:, :2], 1.0)
    layer.token_kinds = torch.zeros(1, 2, dtype=torch.int64)
    with pytest.raises(CokvError, match=r"reads tokens \[1, 1\], but its input_ids have shape \[1, 2\]"):
        layer.attend(new, new[:, :2], new[:, :2], 1.0)
    small = Selection.from_heads([[torch.arange(3), torch.arange(9)]] * 2, 31)
    with pytest.raises(CokvError, match="holds 3 tokens in a head, fewer than the window of 6"):
        RaggedCache.of(prefill_result, [small], [rule("cake", 18)])
    short = prefill(model, ids, WINDOW - 1)
    with pytest.raises(CokvError, match="prefill with window_size=6"):
        RaggedCache.of(short, [uneven(2, 31, "cake")], [rule("cake", 18)])
    for make in (lambda: FastGenEviction(0), lambda: CakeEviction(WINDOW, WINDOW)):
        with pytest.raises(CokvError, match="expected at least"):
            make()
    for make in (
        lambda: FastGenEviction(9, frequent_share=2),
        lambda: CakeEviction(64, 1),
        lambda: CakeEviction(64, 8, 4),
    ):
        with pytest.raises(CokvError, match=r"frequent_share|window_size|odd number"):
            make()
