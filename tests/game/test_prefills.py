"""Prefills within a bound: what is dropped comes back the same, and the bounds hold."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from cokv.cache.prefill import prefill
from cokv.decode.decode import Stop
from cokv.game.prefills import PrefillStore, on_device, prefill_bytes
from cokv.game.utility import GamePrompt, HeadGame
from cokv.types import CokvError

MakeModel = Callable[..., PreTrainedModel]
Prompt = Callable[..., torch.Tensor]
LENGTHS = (40, 55, 47)


@pytest.mark.parametrize(("device", "host", "computed"), [(0, 0, 6), (9.9, 0, 3), (1.2, 9.9, 3), (0, 9.9, 3)])
@pytest.mark.parametrize("family", ["llama", "qwen3-hybrid"])
def test_a_bound_changes_no_utility(
    make_model: MakeModel, prompt: Prompt, family: str, device: float, host: float, computed: int
) -> None:
    """Bounds in units of the longest prompt's prefill; every prompt is asked for twice."""
    model = make_model(family)
    ids = [prompt(length, seed) for seed, length in enumerate(LENGTHS)]
    unit = prefill_bytes(prefill(model, ids[1], window=1))
    store = PrefillStore(model, int(device * unit), int(host * unit))
    plain = HeadGame(model, [GamePrompt(prefill(model, i), Stop(6), lambda t: float(sum(t))) for i in ids])
    kept = HeadGame(model, [GamePrompt(store.handle(i), Stop(6), lambda t: float(sum(t))) for i in ids])
    coalitions = np.random.default_rng(0).random((5, plain.num_players)) < 0.5
    expected = plain.per_prompt(coalitions)
    assert store.computed == 0, "nothing is computed before it is asked for"
    for _ in range(2):
        assert np.array_equal(kept.per_prompt(coalitions), expected)
        assert store.held_bytes["device"] <= store.device_bytes and store.held_bytes["host"] <= store.host_bytes
    assert store.computed == computed


def test_the_least_recently_used_goes_first(make_model: MakeModel, prompt: Prompt) -> None:
    model = make_model()
    unit = prefill_bytes(prefill(model, prompt(40), window=1))
    store = PrefillStore(model, 2 * unit)
    first, second, third = (store.handle(prompt(40, seed)) for seed in range(3))
    kept = first()
    second()
    assert first() is kept
    third()  # pushes the second out
    assert first() is kept and store.computed == 3
    second()
    assert store.computed == 4


def test_bytes_are_those_of_the_tensors(make_model: MakeModel, prompt: Prompt) -> None:
    prefilled = prefill(make_model(), prompt(40), window=4)
    queries = 3 * 4 * 4 * 16 * 4  # layers, heads, window, head_dim, float32
    assert prefill_bytes(prefilled) == prefilled.full_bytes + queries + 97 * 4 + 40 * 8
    assert on_device(prefilled, torch.device("cpu")) is prefilled
    away = on_device(prefilled, torch.device("meta"))
    assert away.layers[2].keys.device.type == away.first_logits.device.type == "meta"


def test_impossible_bounds_are_refused(make_model: MakeModel) -> None:
    with pytest.raises(CokvError, match="expected 0 or more"):
        PrefillStore(make_model(), -1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_prefills_leave_a_cuda_device_and_come_back(fresh_model: MakeModel, prompt: Prompt) -> None:
    model = fresh_model("qwen3-hybrid").cuda()
    unit = prefill_bytes(prefill(model, prompt(40), window=1))
    store = PrefillStore(model, unit, 9 * unit)
    handles = [store.handle(prompt(40, seed)) for seed in range(3)]
    before = [handle().layers[0].keys.clone() for handle in handles]
    assert store.held_bytes["host"] >= unit
    for handle, keys in zip(handles, before, strict=True):
        assert torch.equal(handle().layers[0].keys, keys) and handle().layers[0].keys.is_cuda
    assert store.computed == 3
