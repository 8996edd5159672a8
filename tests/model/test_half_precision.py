"""A dtype whose products are slow on this processor is warned of, once."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel

import cokv
from cokv.model import half_precision


def test_a_slow_dtype_is_warned_of_once_with_what_was_measured(
    make_model: Callable[..., PreTrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    half_precision.warn_of_slow_products.cache_clear()
    monkeypatch.setattr(half_precision, "linear_ratio", {torch.bfloat16: 0.6, torch.float16: 2.87}.__getitem__)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float16):
            cokv.compress(copy.deepcopy(make_model()).to(dtype), "snapkv", kv_budget=64)
    assert [str(w.message)[:67] for w in caught] == [
        "the model's linear layers take 2.9 times as long in float16 as in f"
    ]
    assert caught[0].filename == __file__
    half_precision.warn_of_slow_products.cache_clear()


def test_what_is_measured_is_a_ratio() -> None:
    half_precision.linear_ratio.cache_clear()
    assert 0.01 < half_precision.linear_ratio(torch.bfloat16) < 1000
    assert half_precision.linear_ratio(torch.bfloat16) == half_precision.linear_ratio(torch.bfloat16)
