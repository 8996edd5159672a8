"""A method whose row names a policy decodes with it, and its records hold the slots and bytes it really takes."""

import pytest
import torch
from cokv.methods.policies.by_name import BY_NAME, policy_named

from cokv.cache.cache import RaggedCache
from cokv.cache.policies.growth import EvictOldest, EvictOldestWhereEvicted
from cokv.cache.policies.prune_channels import PruneChannels
from cokv.cache.policies.quantize import Quantize
from cokv.cache.policies.recall import Recall
from cokv.cache.prefill import prefill
from cokv.decode.decode import Stop
from cokv.methods.policies.cake import CakeEviction
from cokv.methods.policies.fastgen import FastGenEviction
from cokv.methods.policies.h2o import H2OEviction
from cokv.methods.policies.scissorhands import ScissorhandsEviction
from cokv.methods.policies.tova import TOVAEviction
from cokv.methods.registry import get_method
from cokv.model.loading import load_model
from cokv.types import CokvError, HeadScores
from suite.run.cells import Cell, prefill_requirements, takes_budget
from suite.run.measure import _generate
from suite.run.samples import run_sample
from suite.tasks.prompt import Prompt

TOKENS = 200
ROWS = ("h2o", "scissorhands", "tova", "streamingllm")


def sample() -> Prompt:
    ids = torch.randint(5, 90, (TOKENS,), generator=torch.Generator().manual_seed(0))
    return Prompt("ruler", "niah_single_1", "0", 0, ids, None, ("7",), Stop(8), lambda text, references: 0.0, ())


def test_every_policy_leaves_its_mark_in_the_record(random_model) -> None:
    loaded = load_model(str(random_model))
    full = get_method("full")
    methods = [get_method(name) for name in ROWS]
    kivi, arkvale = get_method("kivi2"), get_method("arkvale")
    think = Cell(get_method("think"), None)
    composed = [Cell(get_method(name), 128) for name in ("snapkv_think", "snapkv_kivi4")]
    grid = [Cell(full, None), Cell(kivi, None), think, *composed]
    assert prefill_requirements([think]) == (33, [])
    grid += [Cell(method, budget) for method in (*methods, arkvale) for budget in (8, 128)]
    assert prefill_requirements(grid)[0] == 401
    records = {(r["method"], r["kv_budget"]): r for r in run_sample(loaded, sample(), grid, None)}
    token = 2 * 8 * 4
    whole = records["full", None]
    assert whole["kept_tokens"] == 4 * TOKENS and whole["kept_bytes"] == whole["full_bytes"] == 4 * TOKENS * token
    packed = records["kivi2", None]
    assert packed["kept_tokens"] == 4 * TOKENS
    assert packed["kept_bytes"] == 4 * Quantize(2).head_bytes(TOKENS, 2, 8, 4) < 0.8 * whole["kept_bytes"]
    for method, tokens in (("think", TOKENS), ("snapkv_think", 128)):
        thin = records[method, None if method == "think" else 128]
        assert thin["kept_tokens"] == 4 * tokens
        assert thin["kept_bytes"] == 4 * PruneChannels().head_bytes(tokens, 8, 4) < 4 * tokens * token
    both = records["snapkv_kivi4", 128]
    assert both["kept_tokens"] == 4 * 128
    assert both["kept_bytes"] == 4 * Quantize(4, 32, 32).head_bytes(128, 4, 8, 4) < 0.7 * 4 * 128 * token
    for name in ROWS:
        record = records[name, 128]
        assert record["kept_tokens"] == 4 * 128 and record["infeasible"] is None
        notes = {"h2o": 129 * 8, "tova": 129 * 8, "scissorhands": 129 * 104, "streamingllm": 0}[name]
        assert record["kept_bytes"] == 4 * (128 * token + notes) and "host_bytes" not in record
    pages = records["arkvale", 128]
    assert pages["kept_tokens"] == 4 * 128 and pages["host_bytes"] == 4 * (192 + 32) * token
    assert pages["kept_bytes"] == pages["kept_tokens"] * token + 4 * (6 * token + 4 * 8), "digests; what lies where"
    for name, why in (("arkvale", "pages of 32"), ("scissorhands", "10 newest")):
        assert records[name, 8]["score"] is None and why in records[name, 8]["infeasible"]
    assert records["tova", 8]["kept_tokens"] == 32


def test_rules_that_must_know_the_tokens_are_told_them_while_timed(random_model) -> None:
    loaded, cell = load_model(str(random_model)), Cell(get_method("fastgen"), 64)
    made = prefill(loaded.model, sample().context_ids, *prefill_requirements([cell]), loaded.tokenizer)
    selection = cell.method.select(made, 64)
    assert selection.total == 4 * 64 and selection.counts.max() < TOKENS, "no head should grow here"
    cache = RaggedCache.of(made, [selection] * 2, [cell.policy(loaded.shape)] * 2)
    _generate(loaded, cache, int(made.first_logits.argmax()), TOKENS, 2, 9)
    assert cache.stored_tokens == 2 * selection.total


def test_names_make_policies_from_the_methods_parameters() -> None:
    assert policy_named("evict_oldest", 64, {"num_sinks": 2}) == EvictOldest(64, 2)
    assert policy_named("evict_streaming", None, {"num_sinks": 4, "local": 16}) == EvictOldestWhereEvicted(None, 4)
    assert policy_named("evict_h2o", 64, {"recent_share": 0.25}) == H2OEviction(64, 0.25)
    assert policy_named("evict_scissorhands", 64, {"history": 9, "recent": 2}) == ScissorhandsEviction(64, 9, 2)
    assert policy_named("evict_tova", 64, {}) == TOVAEviction(64)
    assert policy_named("evict_fastgen", 64, {"frequent_share": 0.2, "local_share": 0.1}) == FastGenEviction(
        64, 0.2, 0.1
    )
    cake = {"window_size": 8, "kernel_size": 3, "gamma": 9.0, "tau1": 1.0, "tau2": 1.0}
    assert policy_named("evict_cake", 64, cake) == CakeEviction(64, 8, 3, 9.0)
    assert policy_named("recall", 64, {"page": 8}) == Recall(64, 8)
    assert policy_named("quantize", None, {"bits": 4, "group": 16}) == Quantize(4, 16, 128)
    assert policy_named("prune_channels", None, {}) == PruneChannels(0.4, 32, 32)
    told = {"pruned": 0.5, "window_size": 8, "kernel_size": 7}
    assert policy_named("prune_channels", 64, told) == PruneChannels(0.5, 8, 32)
    scores = HeadScores(torch.tensor([[1.0, 4.0], [3.0, 2.0]]).double().numpy())
    assert policy_named("quantize", None, {"bits": 3, "split": "scores"}, scores=scores) == Quantize(((2, 4), (4, 2)))
    drawn = policy_named("quantize", None, {"bits": 3, "split": "random", "seed": 1}, heads=(2, 2))
    assert isinstance(drawn, Quantize) and sorted(b for layer in drawn.bits for b in layer) == [2, 2, 4, 4]


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("evict", {}, "unknown policy 'evict'; expected one of grow, evict_oldest"),
        ("evict_tova", {}, "set kv_budget"),
        ("quantize", {"split": "by_hand"}, "expected one of even, scores, random"),
        ("quantize", {"split": "scores"}, "got none"),
        ("quantize", {"split": "random"}, "num_layers"),
    ],
)
def test_what_is_missing_is_said(name, parameters, message) -> None:
    with pytest.raises(CokvError, match=message):
        policy_named(name, None, parameters)


def test_budgets_are_for_methods_that_take_them() -> None:
    assert not takes_budget(get_method("full")) and not takes_budget(get_method("kivi2"))
    assert not takes_budget(get_method("think")) and takes_budget(get_method("snapkv_think"))
    assert takes_budget(get_method("snapkv_kivi4"))
    assert takes_budget(get_method("arkvale")) and takes_budget(get_method("snapkv"))
    assert all(named.does for named in BY_NAME.values())
