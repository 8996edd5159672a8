"""A recorded step gives what an ordinary step gives, through every laying out of storage, and says what it refuses."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import emulated_attention
import pytest
import torch
from recorded_steps import record
from transformers import PreTrainedModel

import cokv
from cokv.cache.attention import varlen
from cokv.cache.prefill import prefill
from cokv.decode.batches import Row
from cokv.decode.decode import Stop, decode
from cokv.decode.graphed import GraphedStep
from cokv.types import Selection

NEW = 45  # more than the slack of a segment: storage is laid out anew on the way


@pytest.fixture(autouse=True)
def emulated_varlen(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch's varlen attention with its kernel emulated, and no length known to the host by asking."""
    monkeypatch.setattr(varlen, "missing", lambda: None)
    monkeypatch.setattr(varlen, "flash_refusal", lambda *kind: None)
    monkeypatch.setattr("cokv.cache.storage.plain.NO_WAITING", ())
    library = torch.library.Library("aten", "IMPL")
    library.impl("_flash_attention_forward", emulated_attention.aten_flash_attention_forward, "CPU")
    yield
    library._destroy()


def two_caches(model: PreTrainedModel, ids: torch.Tensor, seen: torch.Tensor, method: str) -> tuple[Any, Any, Any]:
    window = {"window_size": 4} if method == "adakv" else {}
    cache = cokv.compress(model, method, kv_budget=16, attention="varlen", **window)
    with torch.no_grad():
        logits = model(ids, attention_mask=seen, past_key_values=cache).logits[:, -1]
    return cache, copy.deepcopy(cache), logits.argmax(-1)


@pytest.mark.parametrize("method", ["adakv", "streamingllm"])
def test_recorded_steps_are_ordinary_steps(method: str, fresh_model: Callable[..., Any], prompt: Any) -> None:
    model = fresh_model().to(torch.bfloat16)
    ids, seen = torch.stack([prompt(40), prompt(40)]), torch.ones(2, 40, dtype=torch.int64)
    seen[0, :5] = 0
    plain, recorded, token = two_caches(model, ids, seen, method)
    step, positions = GraphedStep(model, recorded, record), seen.sum(1)
    for _ in range(NEW):
        with torch.no_grad():
            expected = model(token[:, None], position_ids=positions[:, None], past_key_values=plain).logits[:, -1]
        got = step(token)
        assert torch.equal(got, expected)
        token, positions = expected.argmax(-1), positions + 1
    assert recorded.get_seq_length() == plain.get_seq_length() == 40 + NEW
    assert recorded.memory() == plain.memory()
    assert torch.equal(recorded.tokens.first(40 + NEW), plain.tokens.first(40 + NEW))
    assert step.replays > NEW // 2 and (step.records > 1) is (method == "adakv")


def test_decoding_by_recorded_steps(
    fresh_model: Any, prompt: Any, uneven_mask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that end leave, and what remains is recorded again."""
    monkeypatch.setattr("cokv.decode.session.GraphedStep", partial(GraphedStep, record=record))
    model = fresh_model().to(torch.bfloat16)
    read = prefill(model, prompt(40))
    shape = read.shape
    rows = [Row(Selection.from_mask(uneven_mask(shape.num_layers, shape.num_kv_heads, 40, s))) for s in range(3)]

    def tokens(stop: Stop, graph: bool) -> list[list[int]]:
        return [row.tokens for row in decode(model, read, rows, stop, attend=varlen.attend, graph=graph)]

    whole = tokens(Stop(24), False)
    ends = Stop(24, (whole[0][9],))
    lengths = [len(row) for row in tokens(ends, False)]
    assert lengths[0] <= 10 and max(lengths) > lengths[0] + 3, "one row ends before another"
    for stop in (Stop(24), ends):
        assert tokens(stop, True) == tokens(stop, False)


def test_rows_that_leave_are_seen(fresh_model: Callable[..., Any], prompt: Any) -> None:
    model = fresh_model().to(torch.bfloat16)
    ids = torch.stack([prompt(40), prompt(40)])
    _, cache, token = two_caches(model, ids, torch.ones_like(ids), "adakv")
    step = GraphedStep(model, cache, record)
    for _ in range(4):
        token = step(token).argmax(-1)
    cache.keep_rows(torch.tensor([1]))
    with pytest.raises(cokv.CokvError, match="make a new GraphedStep when rows leave"):
        step(token[1:])


@pytest.mark.parametrize(("method", "named"), [("h2o", "AttentionEvictor"), ("kivi4", "QuantizedRows")])
def test_rules_that_count_on_the_host_are_refused(method: str, named: str, fresh_model: Any, prompt: Any) -> None:
    model, cache = fresh_model(), None
    cache = cokv.compress(model, method, kv_budget=16)
    with pytest.raises(cokv.CokvError, match="has read no prompt yet"):
        GraphedStep(model, cache, record)
    with torch.no_grad():
        model(prompt(40)[None], past_key_values=cache)
    with pytest.raises(cokv.CokvError, match=named):
        GraphedStep(model, cache, record)


def test_a_graph_needs_cuda_and_a_backend_that_asks_nothing(fresh_model: Any, prompt: Any) -> None:
    model = fresh_model()
    cache = cokv.compress(model, "full", attention="buckets")
    with torch.no_grad():
        model(prompt(40)[None], past_key_values=cache)
    with pytest.raises(cokv.CokvError, match="attention 'buckets' on cpu cannot be recorded; expected a cache on CUDA"):
        cache.graphed()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", ["adakv", "streamingllm"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cuda_graph_gives_ordinary_steps(method: str, dtype: torch.dtype, fresh_model: Any, prompt: Any) -> None:
    model, ids = fresh_model().to("cuda", dtype), torch.stack([prompt(40), prompt(40)]).cuda()
    window = {"window_size": 4} if method == "adakv" else {}
    plain, recorded = (cokv.compress(model, method, kv_budget=16, **window) for _ in range(2))
    with torch.no_grad():
        first, _ = (model(ids, past_key_values=cache).logits[:, -1] for cache in (plain, recorded))
        token = first.argmax(-1)
        step = recorded.graphed()
        for _ in range(NEW):
            expected = model(token[:, None], past_key_values=plain).logits[:, -1]
            torch.testing.assert_close(step(token).float(), expected.float(), rtol=2e-2, atol=0.2)
            token = expected.argmax(-1)
    assert step.replays > NEW // 2
