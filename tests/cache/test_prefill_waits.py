"""A prompt that compresses itself asks the device nothing layer by layer: positions stay there, checks come at the end.

Tensors on "meta" have no numbers to give: whatever waits for a GPU's numbers raises on them. The few questions that the
code asks on purpose go through `cokv.model.device.read`, which is answered, and counted, here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from device_waits import DEVICE, BlockingCopies
from transformers import PreTrainedModel

import cokv
from cokv.cache.attention import masks
from cokv.cache.layer import RaggedLayer
from cokv.methods.allocators import ada
from cokv.model import device

MakeModel = Callable[..., PreTrainedModel]
SEQ_LEN, LAYERS, KV_HEADS, HEADS, DIM = 100, 3, 2, 4, 16
PER_LAYER = {  # waits for the device
    **dict.fromkeys(("snapkv", "pyramidkv", "streamingllm", "cokv", "headkv_r", "headkv_r2", "lukv"), 0),
    **dict.fromkeys(("knorm", "keydiff", "criticalkv", "duoattention", "full"), 0),
    "adakv": 1,  # how many tokens each head gets: KV_HEADS numbers
}


class Questions:
    """Stands for `read`: what was asked, by the number of answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[int] = []
        for module in (device, ada, masks):
            monkeypatch.setattr(module, "read", self)

    def __call__(self, tensor: torch.Tensor) -> Any:
        self.asked.append(tensor.numel())
        return torch.zeros(tensor.shape, dtype=tensor.dtype).tolist()


def attended(layer: RaggedLayer, rows: int, mask: torch.Tensor | None = None) -> None:
    """As if the layer had just attended a prompt on the device."""
    keys, values = (torch.empty(rows, KV_HEADS, SEQ_LEN, DIM, device=DEVICE) for _ in "kv")
    layer.lazy_initialization(keys, values)
    layer.keys, layer.values, layer.tokens_seen = keys, values, SEQ_LEN
    layer.observe(torch.empty(rows, HEADS, SEQ_LEN, DIM, device=DEVICE), mask, 0.25)


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("name", PER_LAYER)
def test_a_layer_waits_only_for_the_budgets_that_its_scores_decide(
    make_model: MakeModel, small_method: Any, profile_of: Any, monkeypatch: pytest.MonkeyPatch, name: str, rows: int
) -> None:
    method, questions = small_method(name), Questions(monkeypatch)
    kv_budget = None if name == "full" else 70 if name == "duoattention" else 40
    cache = cokv.compress(make_model(), method, kv_budget, profile_of(method))
    for place, layer in enumerate(cache.ragged_layers):
        with BlockingCopies() as copies:
            attended(layer, rows)
        last, scored = place == LAYERS - 1, method.scorer is not None
        expected = [KV_HEADS] * (PER_LAYER[name] * rows) + [LAYERS * rows * (1 + (name == "criticalkv"))] * (
            last and scored
        )
        assert questions.asked == expected and copies.names == [], f"layer {place}"
        questions.asked.clear()
        assert all(part.store.k.device == DEVICE for _, part in layer.parts)


def test_a_mask_is_looked_at_once_for_all_layers(
    make_model: MakeModel, small_method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = Questions(monkeypatch)
    cache = cokv.compress(make_model(), small_method("snapkv"), 40)
    mask = torch.empty(2, 1, SEQ_LEN, SEQ_LEN, dtype=torch.bool, device=DEVICE)
    for layer in cache.ragged_layers:
        attended(layer, 2, mask)
    assert questions.asked == [2 * 2, LAYERS * 2], "the starts of two rows with whether they are plain, and NaN"


def test_another_layers_mask_is_looked_at_too(
    make_model: MakeModel, small_method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = Questions(monkeypatch)
    cache = cokv.compress(make_model(), small_method("snapkv"), 40)
    for layer in cache.ragged_layers:
        attended(layer, 1, torch.empty(1, 1, SEQ_LEN, SEQ_LEN, dtype=torch.bool, device=DEVICE))
    assert questions.asked[:LAYERS] == [2] * LAYERS


def test_a_question_to_no_tensor_on_a_device_raises_here() -> None:
    """Else the tests above could not fail."""
    tensor = torch.empty(4, device=DEVICE)
    for ask in (tensor.tolist, tensor.sum().item, tensor.nonzero, lambda: tensor[tensor > 0], tensor.cpu):
        with pytest.raises((RuntimeError, NotImplementedError)):
            ask()
    with BlockingCopies() as copies:
        torch.zeros(3).to(DEVICE)
        torch.tensor([1, 2], device=DEVICE)
        device.sent(torch.zeros(3), DEVICE)
    assert len(copies.names) == 2, copies.names


def test_checks_that_were_left_for_later_name_the_first_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = device.LaterChecks("snapkv")
    for word in ("one", "two", "three"):
        checks.expect_not(torch.empty((), dtype=torch.bool, device=DEVICE), word)
    monkeypatch.setattr(device, "read", lambda tensor: [False, True, True])
    with pytest.raises(cokv.CokvError, match=r"^snapkv: two$"):
        checks.ask()
    checks.ask()  # each is asked once
    with pytest.raises(cokv.CokvError, match=r"^four$"):
        checks.expect_not(torch.tensor(True), "four")
