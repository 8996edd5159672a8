"""Every model class of transformers: a compressed cache is right, or the model is refused. There is no third outcome.

Right: at full budget the tokens and logits of transformers' own cache, every token stored once, also of rows that are
padded; at a small budget as many slots as asked for. Refused: one line that names the model's class or layer, before
any token is generated.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers
from models import MAY_BE_REFUSED, REFUSABLE, tiny_models
from packaging.version import Version
from transformers import Cache, DynamicCache, PreTrainedModel, StoppingCriteria, StoppingCriteriaList

import cokv
from cokv.model.shape import model_shape
from cokv.types import CokvError

PROMPT, NEW, BUDGET, WINDOW = 60, 12, 24, 8
MODELS = tiny_models()
pytestmark = pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.20"),
    reason="models are built small, and refused, as of 5.23",
)


outcomes: dict[str, str] = {}  # "right" or the refusal, by model


def compressed(model: PreTrainedModel, method: str, kv_budget: int) -> Any:
    """The one call under test."""
    params = {"window_size": WINDOW} if method == "snapkv" else {}
    return cokv.compress(model, method, kv_budget=kv_budget, **params)


class CountedTokens(StoppingCriteria):  # type: ignore[misc]
    def __init__(self) -> None:
        self.count = 0

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        self.count += 1
        return torch.zeros(len(input_ids), dtype=torch.bool)


@dataclass
class Run:
    """What came of one generation on a compressed cache."""

    cache: Any = None
    tokens: list[int] | None = None
    refusal: str | None = None


def run(model: PreTrainedModel, prompt: torch.Tensor, method: str, kv_budget: int) -> Run:
    """Lets every error pass that is not a refusal as it should be."""
    counted = CountedTokens()
    try:
        cache = compressed(model, method, kv_budget)
        assert isinstance(cache, Cache)
        stopping = StoppingCriteriaList([counted])
        return Run(cache, generate(model, prompt, past_key_values=cache, stopping_criteria=stopping))
    except CokvError as error:
        message = str(error)
    assert counted.count == 0, f"refused after {counted.count} tokens: {message}"
    assert "\n" not in message
    assert type(model).__name__ in message or re.search(r"\blayer \d", message), message
    return Run(refusal=message)


def generate(model: PreTrainedModel, prompt: torch.Tensor, **settings: Any) -> list[int]:
    """The new tokens."""
    return model.generate(prompt, max_new_tokens=NEW, do_sample=False, **settings)[0, -NEW:].tolist()


def implementations(model: PreTrainedModel) -> list[str]:
    return [module.config._attn_implementation for module in model.modules() if isinstance(module, PreTrainedModel)]


def continued(model: PreTrainedModel, prompt: torch.Tensor, continuation: torch.Tensor, cache: Any) -> torch.Tensor:
    """Logits [tokens, vocabulary] of a continuation, read token by token after the prompt."""
    with torch.no_grad():
        steps = [model(prompt, past_key_values=cache, use_cache=True)]
        steps += [model(token[None, None], past_key_values=cache, use_cache=True) for token in continuation]
    return torch.stack([step.logits[0, -1] for step in steps])


@pytest.fixture(scope="module")
def prompt() -> torch.Tensor:
    return torch.randint(1, 80, (1, PROMPT), generator=torch.Generator().manual_seed(1))


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_right_or_refused(name: str, prompt: torch.Tensor) -> None:
    model = MODELS[name]()
    before, own = implementations(model), generate(model, prompt)
    full, small = run(model, prompt, "full", 10**6), run(model, prompt, "snapkv", BUDGET)
    assert (full.refusal is None) == (small.refusal is None), "one method is refused, the other is not"
    if full.refusal is None:
        check_right(model, prompt, own, full, small)
    cokv.detach(model)
    assert implementations(model) == before
    assert generate(model, prompt) == own, "the model itself has changed"
    outcomes[name] = full.refusal or "right"
    assert full.refusal is None or name in REFUSABLE, f"refused, although nothing stands in the way: {full.refusal}"


def check_right(model: PreTrainedModel, prompt: torch.Tensor, own: list[int], full: Run, small: Run) -> None:
    assert full.tokens == own
    reference = DynamicCache(config=model.config)
    continuation = torch.randint(1, 80, (NEW - 1,), generator=torch.Generator().manual_seed(2))
    expected = continued(model, prompt, continuation, reference)
    logits = continued(model, prompt, continuation, compressed(model, "full", 10**6))
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)
    kv_heads = [layer.keys.shape[1] for layer in reference.layers if not layer.is_sliding]
    assert stored(full.cache) == [heads * (PROMPT + NEW - 1) for heads in kv_heads]
    assert stored(small.cache) == [heads * (BUDGET + NEW - 1) for heads in kv_heads]
    assert generate(model, prompt, past_key_values=compressed(model, "snapkv", PROMPT)) == own
    rows = {"inputs": prompt.view(2, PROMPT // 2), "attention_mask": torch.ones(2, PROMPT // 2, dtype=torch.int64)}
    rows["attention_mask"][1, :7] = 0
    settings: dict[str, Any] = {**rows, "max_new_tokens": NEW, "do_sample": False}
    padded = model.generate(**settings, past_key_values=compressed(model, "full", 10**6))
    assert padded.tolist() == model.generate(**settings).tolist()


def stored(cache: Any) -> list[int]:
    """KV slots in use, summed over heads, of each full-attention layer."""
    return [layer.stored_tokens for layer in cache.ragged_layers]


@pytest.mark.slow
def test_what_can_be_right_is_right() -> None:
    if len(outcomes) < len(MODELS):
        pytest.skip(f"needs the outcomes of all {len(MODELS)} models, from the test above")
    right = [name for name, outcome in outcomes.items() if outcome == "right"]
    refused = {name: outcome for name, outcome in outcomes.items() if outcome != "right"}
    print(f"\n{len(right)} models right, {len(refused)} refused:")
    print("\n".join(f"  {name}: {why}" for name, why in refused.items()))
    assert set(MODELS) - REFUSABLE <= set(right)
    assert set(refused) == REFUSABLE & set(MODELS), "one that has become right leaves the list, and the page of models"
    assert len(right) >= 148, "of 241 with transformers 5.23"


@pytest.mark.parametrize("why", MAY_BE_REFUSED)
def test_the_list_of_refusable_models_names_models_of_this_transformers_or_another(why: str) -> None:
    unknown = set(MAY_BE_REFUSED[why].split()) - set(MODELS)
    assert not [name for name in unknown if hasattr(transformers, name.split("-")[0])]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["criticalkv", "expectedattention"])
@pytest.mark.parametrize("name", sorted(set(MODELS) - REFUSABLE))
def test_a_method_that_reads_model_parts_runs_or_says_why(name: str, method: str, prompt: torch.Tensor) -> None:
    """Output projections and rotary embeddings have other names and signatures in some models."""
    params = {"window_size": WINDOW} if method == "criticalkv" else {}
    model = MODELS[name]()
    try:
        cache = cokv.compress(model, method, kv_budget=BUDGET, **params)
        generate(model, prompt, past_key_values=cache)
    except CokvError as error:
        assert "\n" not in str(error) and method in str(error)
        return
    shape = model_shape(model.config)
    assert cache.stored_tokens == shape.num_layers * shape.num_kv_heads * (BUDGET + NEW - 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["LlamaForCausalLM", "LlavaForConditionalGeneration"])
def test_the_check_notices_a_wrong_cache(name: str, prompt: torch.Tensor) -> None:
    """The contract above can fail: a cache that compresses nothing does not pass as one that does."""
    model = MODELS[name]()
    own = generate(model, prompt)
    full = run(model, prompt, "full", 10**6)
    small = run(model, prompt, "full", 10**6)
    with pytest.raises(AssertionError):
        check_right(model, prompt, own, full, small)
    cokv.detach(model)
