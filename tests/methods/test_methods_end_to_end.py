"""Every row of the table on a real model: observe, select, decode; the same total and the same bytes for all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from cokv.cache.prefill import Prefill, prefill
from cokv.decode.batches import Row
from cokv.decode.decode import Stop, decode
from cokv.methods.allocators.marginal import keep_ratios
from cokv.methods.method import NORMALIZED
from cokv.methods.registry import METHODS, get_method
from cokv.profiles.lukv_file import RatioCurves
from cokv.types import HeadScores

SETTINGS = {"num_sinks": 4, "local": 8, "retrieval_share": 0.1, "window_size": 8, "least_threshold": 0}


class Tokenizer:
    all_special_ids = (1,)

    def decode(self, ids: list[int]) -> str:
        return "," if ids[0] % 9 == 0 else "word"

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [1 + ord(c) % 90 for c in text]}


def methods() -> list[Any]:
    listed = []
    for name, method in METHODS.items():
        for preset in (NORMALIZED, *method.presets):
            known = method.with_preset(preset).parameters
            listed.append(get_method(name, preset, **{k: v for k, v in SETTINGS.items() if k in known}))
    return listed


def profile_for(name: str, prefilled: Prefill) -> Any:
    shape = (prefilled.shape.num_layers, prefilled.shape.num_kv_heads)
    rng = np.random.default_rng(0)
    return (
        RatioCurves(keep_ratios(rng.exponential(size=(*shape, 50))))
        if name == "lukv"
        else HeadScores(0.5 + rng.random(shape))
    )


def observed(model: Any, ids: torch.Tensor, chosen: list[Any]) -> Prefill:
    return prefill(model, ids, 8, [o for method in chosen for o in method.observers], Tokenizer())


@pytest.mark.parametrize("heads", ["mha", "gqa", "mqa"])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "qwen3-hybrid"])
def test_every_method_keeps_the_same_bytes(make_model: Any, prompt: Any, family: str, heads: str) -> None:
    model, ids = make_model(family, heads), prompt(121)
    chosen = [
        m for m in methods() if m.exact and m.scorer is not None and ("official" not in m.preset or heads == "mha")
    ]  # SnapKV as released needs a cache per query head
    prefilled = observed(model, ids, chosen)
    total = 80 * prefilled.shape.num_layers * prefilled.shape.num_kv_heads
    rows = [Row(method.select(prefilled, 80, profile_for(method.name, prefilled))) for method in chosen]
    answers = decode(model, prefilled, rows, Stop(3))
    assert len(answers) == len(chosen) > 20
    for method, answer in zip(chosen, answers, strict=True):
        assert answer.kept_tokens == total and answer.kept_bytes == total * prefilled.token_bytes, method.name
        assert len(answer.tokens) == 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_every_method_selects_on_cuda_what_it_selects_on_a_cpu(make_model: Any, fresh_model: Any, prompt: Any) -> None:
    """Up to ties that rounding breaks: a small share of the tokens."""
    ids = prompt(121)
    chosen = [m for m in methods() if m.exact]
    here, there = observed(make_model(), ids, chosen), observed(fresh_model().cuda(), ids, chosen)
    for method in chosen:
        if method.name == "snapkv" and method.preset == "official":
            continue
        masks = [
            method.select(prefilled, 40, profile_for(method.name, prefilled)).mask() for prefilled in (here, there)
        ]
        assert masks[0].sum() == masks[1].sum() and (masks[0] != masks[1]).float().mean() < 0.02, method.name
