"""A decode step on CUDA never waits for the device, whatever rule a cache follows: seen without a GPU.

benchmarks/launches.py runs a step on tensors that have a shape and no numbers: asking for one stops it.
"""

from __future__ import annotations

import launches
import pytest

GROWING = ("full", "adakv")


@pytest.mark.parametrize("backend", ["auto", "buckets", "varlen", "triton"])
@pytest.mark.parametrize("method", ["full", "adakv", "streamingllm", "h2o", "tova", "cake", "scissorhands"])
def test_a_step_asks_the_device_for_nothing(method: str, backend: str) -> None:
    counted = launches.count(method, backend, rows=2, prompt_tokens=80, kv_budget=40)
    assert counted["waits"] == [] and "stopped" not in counted
    if method in GROWING and backend == "triton":
        assert counted["operators"] in (["triton split"], ["triton split", "triton merge"])
    if method in GROWING and backend == "varlen":
        assert counted["operators"].count("_varlen_attn") == 1 and counted["launches"] <= 7
        assert counted["times_held"] < 1.2, "K and V are read once"


@pytest.mark.parametrize("backend", ["varlen", "triton"])
def test_storage_that_grows_is_laid_out_anew_without_a_question(backend: str) -> None:
    counted = launches.count("adakv", backend, rows=1, prompt_tokens=60, kv_budget=20, steps=80)
    assert counted["waits"] == [] and "stopped" not in counted


def test_a_question_to_the_device_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from cokv.cache.attention import varlen

    attend = varlen.attend

    def asking(*arguments: object, **more: object) -> object:
        int(arguments[4].sum())  # type: ignore[attr-defined]  # the lengths
        return attend(*arguments, **more)  # type: ignore[arg-type]

    asking.__module__ = attend.__module__
    monkeypatch.setattr(varlen, "attend", asking)
    counted = launches.count("full", "varlen", rows=1, prompt_tokens=40, kv_budget=40)
    assert counted == {"waits": ["__int__"], "stopped": True}
