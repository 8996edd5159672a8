"""A method whose row names a policy decodes with it, and its records hold the slots and bytes it really takes."""

import pytest
import torch

from cokv.cache.cache import RaggedCache
from cokv.cache.policies.growth import EvictOldest, EvictOldestWhereEvicted, Grow
from cokv.cache.policies.prune_channels import PruneChannels
from cokv.cache.policies.quantize import Quantize
from cokv.cache.policies.recall import Recall
from cokv.cache.prefill import prefill
from cokv.decode.decode import Stop
from cokv.methods.method import prefill_requirements
from cokv.methods.policies.cake import CakeEviction
from cokv.methods.policies.fastgen import FastGenEviction
from cokv.methods.policies.h2o import H2OEviction
from cokv.methods.policies.scissorhands import ScissorhandsEviction
from cokv.methods.policies.tova import TOVAEviction
from cokv.methods.registry import METHODS, get_method
from cokv.model.loading import load_model
from cokv.types import CokvError, HeadScores, KVBudget
from suite.run.cells import GridCell
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
    think = GridCell(get_method("think"), None)
    composed = [GridCell(get_method(name), KVBudget(128)) for name in ("snapkv_think", "snapkv_kivi4")]
    grid = [GridCell(full, None), GridCell(kivi, None), think, *composed]
    assert prefill_requirements([think.method]) == (33, [])
    grid += [GridCell(method, KVBudget(budget)) for method in (*methods, arkvale) for budget in (8, 128)]
    assert prefill_requirements(cell.method for cell in grid)[0] == 401
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
        notes = {"h2o": 129 * 8, "tova": 129 * 8, "scissorhands": 129 * 108, "streamingllm": 0}[name]
        assert record["kept_bytes"] == 4 * (128 * token + notes) and "host_bytes" not in record
    pages = records["arkvale", 128]
    assert pages["kept_tokens"] == 4 * 128 and pages["host_bytes"] == 4 * (192 + 32) * token
    assert pages["kept_bytes"] == pages["kept_tokens"] * token + 4 * (6 * token + 4 * 8), "digests; what lies where"
    for name, why in (("arkvale", "pages of 32"), ("scissorhands", "10 newest")):
        assert records[name, 8]["score"] is None and why in records[name, 8]["infeasible"]
    assert records["tova", 8]["kept_tokens"] == 32


def test_rules_that_must_know_the_tokens_are_told_them_while_timed(random_model) -> None:
    loaded, method = load_model(str(random_model)), get_method("fastgen", least_threshold=0)
    prefilled = prefill(loaded.model, sample().context_ids, *prefill_requirements([method]), loaded.tokenizer)
    selection = method.select(prefilled, 64)
    assert selection.total == 4 * 64 and selection.counts.max() < TOKENS, "no head should grow here"
    policy = method.bound_policy(64, TOKENS, loaded.shape.num_layers, loaded.shape.num_kv_heads)
    cache = RaggedCache.of(prefilled, [selection] * 2, [policy] * 2)
    _generate(loaded, cache, int(prefilled.first_logits.argmax()), TOKENS, 2, 9)
    assert cache.stored_tokens == 2 * selection.total


def bound(name: str, kv_budget: int | None = 64, profile: HeadScores | None = None, **params):
    return get_method(name, **params).bound_policy(kv_budget, TOKENS, 2, 2, profile)


def test_policies_follow_the_methods_parameters_and_the_budget() -> None:
    assert bound("snapkv") == bound("full", None) == Grow()
    assert bound("streamingllm", num_sinks=2) == EvictOldest(64, 2)
    assert bound("duoattention", num_sinks=4, local=16) == EvictOldestWhereEvicted(None, 4)
    assert bound("h2o", recent_share=0.25) == H2OEviction(64, 0.25)
    assert bound("scissorhands", history=9, recent=2) == ScissorhandsEviction(64, 9, 2)
    assert bound("tova") == TOVAEviction(64)
    assert bound("fastgen", frequent_share=0.2, local_share=0.1) == FastGenEviction(64, 0.2, 0.1)
    assert bound("cake", window_size=8, kernel_size=3, gamma=9.0) == CakeEviction(64, 8, 3, 9.0)
    assert bound("arkvale", page=8) == Recall(64, 8)
    assert bound("kivi4", None, group=16) == Quantize(4, 16, 128)
    assert bound("think", None) == PruneChannels(0.4, 32, 32)
    assert bound("snapkv_think", pruned=0.5, window_size=8, kernel_size=7) == PruneChannels(0.5, 8, 32)
    scores = HeadScores(torch.tensor([[1.0, 4.0], [3.0, 2.0]]).double().numpy())
    assert bound("kivi_by_score", None, scores) == Quantize(((2, 4), (4, 2)))
    drawn = bound("kivi_at_random", None, seed=1)
    assert isinstance(drawn, Quantize) and sorted(b for layer in drawn.bits for b in layer) == [2, 2, 4, 4]
    assert bound("kivi_at_random", None, seed=1) == drawn


def test_a_share_is_bound_to_the_prompt() -> None:
    assert bound("tova", "20%") == bound("tova", KVBudget.parse("20%")) == TOVAEviction(40)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("tova", {}, "tova: .*set kv_budget"),
        ("kivi2", {"split": "by_hand"}, "kivi2: .*expected one of even, scores, random"),
        ("kivi_by_score", {}, "kivi_by_score: .*got none"),
        ("kivi2", {"bits": 3}, "kivi2: .*expected 2, 4, 8, or 16"),
    ],
)
def test_what_is_missing_is_said(name, parameters, message) -> None:
    with pytest.raises(CokvError, match=message):
        bound(name, None, **parameters)


def test_budgets_are_for_methods_that_take_them() -> None:
    without = {name for name, method in METHODS.items() if not method.takes_budget}
    assert without == {"full", "think", "kivi2", "kivi4", "kivi8", "kivi_by_score", "kivi_at_random"}
    assert all(method.policy.does for method in METHODS.values() if not isinstance(method.policy, Grow))
