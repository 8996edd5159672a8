"""The cache's benchmarks at their smallest: each runs, writes its record, and the page comes from that alone."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path

import measuring
import pytest

TINY = ["--shape", "tiny", "--clock", "cpu"]
RUNS = {
    "decode": ["--prompt", "140", "--budget", "64", "--rounds", "2", "--block", "1", "--methods", "uneven", "h2o"],
    "prefill": ["--layers", "2", "--prompt", "140", "--budget", "64", "--rounds", "1", "--methods", "snapkv", "lukv"],
    "memory": ["--layers", "2", "--prompt", "140", "--budget", "64", "--methods", "snapkv", "--no-processes"],
    "scaling": [
        *("--layers", "2", "--context", "80", "160", "--rows", "1", "2", "--kv-heads", "1", "2"),
        *("--budget", "70", "--rounds", "1", "--block", "1"),
    ],
    "soak": ["--steps", "130", "--turns", "8", "--methods", "streamingllm", "h2o"],
    "probe_cost": ["--prompt", "40", "--rounds", "1", "--seconds", "0.02", "--interval", "0.005"],
}


ATTENTION = ["--clock", "cpu", "--rounds", "1", "--block", "1", "--case", "300", "64", "1"]


def run(name: str, out: Path) -> dict:
    arguments = ATTENTION if name == "ragged_attention" else [*TINY, *RUNS[name]]
    record = importlib.import_module(name).main([*arguments, "--out", str(out)])
    written = json.loads(out.read_text())
    assert written == json.loads(json.dumps(record)), "what is written is what was measured"
    assert measuring.page(written) == out.with_suffix(".md").read_text(), "the page is made from the file alone"
    return written


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    folder = tmp_path_factory.mktemp("results")
    return {name: run(name, folder / f"{name}.json") for name in (*RUNS, "ragged_attention")}


@pytest.mark.parametrize("name", RUNS)
def test_a_record_says_how_and_on_what_it_was_made(records, name):
    record = records[name]
    assert record["command"].startswith(f"python benchmarks/{name}.py --")
    assert record["machine"]["system"] and record["versions"]["torch"] and record["results"]
    assert all(math.isfinite(x) for x in numbers(record["results"]))
    page = measuring.page(record)
    assert page.startswith("# ") and record["command"] in page and record["versions"]["torch"] in page


def numbers(value):
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from numbers(part)
    elif isinstance(value, float):
        yield value


def test_decode_has_every_arm_and_its_bound(records):
    (result,) = records["decode"]["results"]
    assert set(result["arms"]) == {"weights", "DynamicCache", "full", "snapkv", "uneven", "h2o"}
    for name, arm in result["arms"].items():
        assert arm["to_DynamicCache"]["min"] <= arm["to_DynamicCache"]["median"] <= arm["to_DynamicCache"]["max"]
        assert name == "weights" or (arm["to_bound"]["median"] > 0 and arm["cache_bytes"] > 0)
    full, kept = (result["arms"][name]["cache_bytes"] for name in ("full", "snapkv"))
    assert kept / full == pytest.approx(64 / 140)


def test_every_backend_that_is_here_is_timed(records):
    uneven, even = records["ragged_attention"]["results"]
    assert (uneven["budgets"], even["budgets"]) == ("uneven", "even")
    assert {"bound", "reference", "buckets", uneven["chosen"], "full cache"} <= set(uneven["arms"])


def test_prefill_says_which_methods_it_leaves_out(records):
    (result,) = records["prefill"]["results"]
    assert set(result["arms"]) == {"plain model", "snapkv"} and result["arms"]["snapkv"]["needs"] == "32 queries"
    assert [entry["what"] for entry in records["prefill"]["left_out"]] == ["lukv (140 tokens)"]


def test_counted_memory_is_exact(records):
    (result,) = records["memory"]["results"]
    assert result["arms"]["DynamicCache"]["held"] == result["full_bytes"] == 2 * 2 * 2 * 16 * 140 * 4
    assert result["arms"]["snapkv"]["held"] == result["full_bytes"] * 64 // 140
    assert result["arms"]["no cache"]["peak_bytes"] < result["arms"]["DynamicCache"]["peak_bytes"]


def test_scaling_varies_one_thing_at_a_time(records):
    assert [result["values"] for result in records["scaling"]["results"]] == [[80, 160], [80, 160], [1, 2], [2, 4]]


def test_the_exponent_is_the_slope_between_logarithms():
    exponent = importlib.import_module("scaling").exponent
    assert exponent([1, 2, 4], [3.0, 12.0, 48.0]) == pytest.approx(2)
    assert exponent([1, 2, 4], [3.0, -0.1, 48.0]) is None, "lost in the noise"


def test_a_soaked_cache_is_flat_and_has_not_drifted(records):
    turns, *steps = records["soak"]["results"]
    assert turns["turns_with_other_logits"] == 0
    for result in steps:
        assert len(result["logits_apart"]) == 10 and max(result["logits_apart"]) < 1e-4
        assert result["samples"]["held"]["span"] == result["samples"]["allocated"]["span"] == 0


def test_a_wrong_token_is_seen_as_drift(tmp_path, monkeypatch):
    soak = importlib.import_module("soak")
    right = soak.streaming
    monkeypatch.setattr(soak, "streaming", lambda seen, budget: lambda *head: [0, *right(seen, budget)(*head)[2:]])
    out = tmp_path / "soak.json"
    record = soak.main([*TINY, "--steps", "100", "--turns", "4", "--methods", "streamingllm", "--out", str(out)])
    assert min(record["results"][1]["logits_apart"]) > 1e-3


def test_a_slow_compile_is_left_out_with_its_reason(tmp_path, monkeypatch):
    import time

    import torch

    monkeypatch.setattr(torch, "compile", lambda *args, **kwargs: lambda *a, **k: time.sleep(30))
    decode = importlib.import_module("decode")
    record = decode.main([*TINY, *RUNS["decode"], "--static", "--compile-seconds", "1"])
    (left,) = record["left_out"]
    assert "StaticCache" in left["what"] and "more than 1 s" in left["why"]
    assert "DynamicCache" in record["results"][0]["arms"], "the other arms are measured"


def test_arms_take_turns():
    order: list[str] = []
    arms = {name: (lambda name=name: lambda: order.append(name)) for name in "AB"}
    seconds = measuring.in_turns(arms, rounds=2, block=2, untimed=1)
    assert order == list("AAABBB") * 3, "a first round is not counted"
    assert {name: len(times) for name, times in seconds.items()} == {"A": 2, "B": 2}


def test_pages_of_results_are_those_of_their_files():
    for path in (*measuring.RESULTS.glob("*.json"), *(measuring.RESULTS / "gpu").glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(record, dict) and "benchmark" in record:
            page = path.with_suffix(".md").read_text(encoding="utf-8")
            assert page == measuring.page(record), f"python benchmarks/measuring.py {path} makes it again"
