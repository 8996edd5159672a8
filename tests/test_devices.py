"""A cache that moves with its model, and models whose layers lie on several devices or on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import dispatch_model
from pretend_devices import Placed, PretendDevices, spread
from transformers import PreTrainedModel

import cokv
from cokv.cache.storage.state import state_of
from cokv.types import CokvError

MakeModel = Callable[..., PreTrainedModel]
Prompt = Callable[..., torch.Tensor]
SEQ_LEN = 70
KINDS = ["snapkv", "streamingllm", "fastgen", "razorattention", "arkvale", "kivi4", "snapkv_think"]
# Methods whose scores or budgets look at all layers, or at the model; and one of each kind of store.
MIXING_LAYERS = [
    "kvzip",
    "cake",
    "fastgen",
    "lukv",
    "cokv",
    "criticalkv",
    "expectedattention",
    "arkvale",
    "kivi_by_score",
]
TWO = ["xpu:0", "xpu:1"]


@pytest.fixture
def compressed(small_method: Any, profile_of: Any, words: Any) -> Callable[..., cokv.CompressedCache]:
    def make(model: PreTrainedModel, name: str) -> cokv.CompressedCache:
        method = small_method(name)
        budget = (52 if name in ("razorattention", "duoattention") else 40) if method.takes_budget else None
        config = model.config
        layers = (getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers).count(
            "full_attention"
        )
        return cokv.compress(model, method, budget, profile_of(method, layers), tokenizer=words, attention="buckets")

    return make


def answer(model: Any, cache: cokv.CompressedCache, ids: torch.Tensor, steps: int = 4, **mask: Any) -> torch.Tensor:
    """Logits of the prompt's last token and of a few steps: [rows, steps, vocab], on the CPU."""
    if cache.compression.further_passes and not cache.get_seq_length():
        cache.prefill(ids)
        ids = ids[:, -1:]
    logits = []
    with torch.no_grad():
        for _ in range(steps):
            logits.append(model(ids, past_key_values=cache, logits_to_keep=1, **mask).logits)
            ids = logits[-1][:, -1].argmax(-1, keepdim=True)
            if mask:
                one = mask["attention_mask"].new_ones(len(ids), 1)
                mask = {"attention_mask": torch.cat([mask["attention_mask"], one], dim=1)}
    return torch.cat(logits, dim=1).cpu()


def eager(model: PreTrainedModel) -> PreTrainedModel:
    """PyTorch's own attention asks the device what it can do, which a pretended one cannot say."""
    model.set_attn_implementation("eager")
    return model


# ---- a cache that moves


def places(value: Any, with_keys: bool = False) -> Iterator[tuple[bool, torch.device]]:
    """Of every tensor in a store: whether it should lie with the layer's keys, and where it lies."""
    if isinstance(value, torch.Tensor):
        yield with_keys, value.device
    elif isinstance(value, (list, tuple, dict)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from places(each, with_keys)
    elif (state := state_of(value)) is not None:
        for names, on_device in ((state.device, True), (state.host, False)):
            for name in names:
                yield from places(getattr(value, name), on_device)
        if state.knows_device:
            yield True, value.device


@pytest.mark.parametrize("name", KINDS)
def test_a_cache_moves_as_a_whole_and_answers_there(
    fresh_model: MakeModel, prompt: Prompt, compressed: Any, name: str
) -> None:
    there, ids = torch.device("xpu:1"), prompt(SEQ_LEN)[None]
    model = eager(fresh_model())
    cache, stays = compressed(model, name), compressed(model, name)
    before = [answer(model, each, ids) for each in (cache, stays)]
    assert torch.equal(*before)
    further = before[0][:, -1].argmax(-1, keepdim=True)
    expected = answer(model, stays, further)
    with PretendDevices():
        assert cache.to(there) is cache
        found = [pair for layer in cache.ragged_layers for pair in places(layer.rows)]
        assert {where for with_keys, where in found if with_keys} == {there}
        assert {where for with_keys, where in found if not with_keys} <= {torch.device("cpu")}
        with pytest.raises(CokvError, match=r"the cache lies on xpu:1 and the model's keys come on cpu; call cache.to"):
            answer(model, cache, further)
    cache = compressed(model, name)
    answer(model, cache, ids)
    moved = spread(eager(fresh_model()), ["xpu:1"])
    cokv.attach(moved)
    with PretendDevices():
        got = answer(moved, cache.to(there), further.to(there))
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
        assert [row.slots for row in cache.to("cpu").held()] == [row.slots for row in stays.held()]


def test_a_layer_with_a_sliding_window_moves_along(fresh_model: MakeModel, prompt: Prompt, compressed: Any) -> None:
    model, ids = eager(fresh_model("qwen3-hybrid")), prompt(SEQ_LEN)[None]
    cache = compressed(model, "snapkv")
    assert cache.to("cpu").get_seq_length() == 0, "an empty one has nothing to move"
    further = answer(model, cache, ids)[:, -1].argmax(-1, keepdim=True)
    with PretendDevices():
        cache.to("xpu:0")
        assert {str(layer.keys.device) for layer in cache.layers if layer.is_sliding} == {"xpu:0"}
        sliding = next(layer for layer in cache.layers if layer.is_sliding)
        with pytest.raises(CokvError, match="the cache lies on xpu:0"):
            sliding.update(sliding.keys.to("cpu"), sliding.values.to("cpu"))
        cache.to("cpu")
    assert answer(model, cache, further).shape[1] == 4


# ---- a model on several devices


@pytest.mark.parametrize("name", MIXING_LAYERS)
def test_layers_on_two_devices_answer_as_on_one(
    fresh_model: MakeModel, prompt: Prompt, compressed: Any, tmp_path: Path, words: Any, name: str
) -> None:
    one, two = (eager(fresh_model(num_hidden_layers=4)) for _ in range(2))
    ids = prompt(SEQ_LEN)[None]
    cache = compressed(one, name)
    expected = answer(one, cache, ids)
    cache.save(tmp_path / "cache")
    spread(two, TWO)
    with PretendDevices():
        spread_out = compressed(two, name)
        got = answer(two, spread_out, ids.to("xpu:0"))
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
        assert [str(layer.device) for layer in spread_out.ragged_layers] == [TWO[0]] * 2 + [TWO[1]] * 2
        loaded = cokv.load_cache(two, tmp_path / "cache", tokenizer=words)
        assert [str(layer.device) for layer in loaded.ragged_layers] == [TWO[0]] * 2 + [TWO[1]] * 2
        assert [row.slots for row in loaded.held()] == [row.slots for row in spread_out.held()]


@pytest.mark.parametrize("name", ["snapkv", "kvzip", "h2o", "kivi4"])
def test_padded_rows_and_sliding_layers_on_two_devices(
    fresh_model: MakeModel, prompt: Prompt, compressed: Any, name: str
) -> None:
    one, two = (eager(fresh_model("qwen3-hybrid")) for _ in range(2))
    ids = torch.stack([prompt(SEQ_LEN), prompt(SEQ_LEN, seed=1)])
    mask: dict[str, Any] = {"attention_mask": torch.ones_like(ids)}
    if name != "kvzip":  # which reads the prompt first, each row without padding
        ids[1, :20] = mask["attention_mask"][1, :20] = 0
    expected = answer(one, compressed(one, name), ids, **mask)
    spread(two, TWO)
    with PretendDevices():
        mask = {key: value.to("xpu:0") for key, value in mask.items()}
        got = answer(two, compressed(two, name), ids.to("xpu:0"), **mask)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_what_is_pretended_keeps_the_rules_of_devices() -> None:
    with PretendDevices():
        a, b, here = torch.ones(3, device="xpu:0"), torch.ones(3).to("xpu:1"), torch.arange(2)
        assert isinstance(a, Placed) and a[here].device == a.sum().device == a.device != b.device
        for mixed in (
            lambda: a + b,
            lambda: torch.stack([a, b]),
            lambda: a + torch.ones(3),
            lambda: a[here.to("xpu:1")],
        ):
            with pytest.raises(RuntimeError, match="on the same device"):
                mixed()


# ---- weights on disk


@pytest.mark.parametrize("name", ["snapkv", "criticalkv", "expectedattention", "kvzip", "kivi4"])
def test_a_model_that_is_partly_on_disk_answers_as_in_memory(
    fresh_model: MakeModel, prompt: Prompt, compressed: Any, tmp_path: Path, name: str
) -> None:
    whole, ids = fresh_model(), prompt(SEQ_LEN)[None]
    where = dict.fromkeys(["model.embed_tokens", "model.layers.0", "model.norm", "model.rotary_emb", "lm_head"], "cpu")
    where |= {"model.layers.1": "disk", "model.layers.2": "disk"}
    parts = dispatch_model(fresh_model(), where, main_device="cpu", offload_dir=tmp_path / "weights", force_hooks=True)
    assert parts.model.layers[1].mlp.up_proj.weight.device.type == "meta"
    cache = compressed(whole, name)
    expected = answer(whole, cache, ids)
    assert torch.equal(answer(parts, compressed(parts, name), ids), expected)
    cache.save(tmp_path / "cache")
    loaded, further = cokv.load_cache(parts, tmp_path / "cache"), expected[:, -1].argmax(-1, keepdim=True)
    assert torch.equal(answer(parts, loaded, further), answer(whole, cache, further)), (
        "the same weights: the same model"
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", KINDS)
def test_a_cache_moves_to_cuda_and_back_and_through_a_file(
    fresh_model: MakeModel, prompt: Prompt, compressed: Any, words: Any, tmp_path: Path, name: str
) -> None:
    model, ids = fresh_model(), prompt(SEQ_LEN)[None]
    cache, stays = compressed(model, name), compressed(model, name)
    first = [answer(model, each, ids) for each in (cache, stays)]
    further = first[0][:, -1].argmax(-1, keepdim=True)
    expected = answer(model, stays, further)
    cache.save(tmp_path / "cache")
    there = fresh_model().cuda()
    cokv.attach(there)
    for moved in (cache.to("cuda"), cokv.load_cache(there, tmp_path / "cache", tokenizer=words)):
        with pytest.raises(CokvError, match="call cache"):
            answer(model, moved, further)
        torch.testing.assert_close(answer(there, moved, further.cuda()), expected, atol=1e-3, rtol=0)
