"""A small run folder with made-up numbers (SYNTHETIC: no model produced them), for tests to read, draw and break."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reports import aggregate, write_report

TASKS = ("niah_single_1", "niah_single_2", "niah_multikey_1", "niah_multivalue", "niah_multiquery", "vt", "cwe", "qa_1")
# Method -> its made-up share of the full score at budgets 64, 128, 256; None: the method cannot meet the budget.
METHODS: dict[str, tuple[float | None, ...]] = {
    "streamingllm": (0.08, 0.15, 0.30),
    "snapkv": (0.55, 0.80, 0.95),
    "pyramidkv": (0.50, 0.78, 0.94),
    "adakv": (0.62, 0.86, 0.97),
    "duoattention": (None, None, 0.90),
    "cokv": (0.78, 0.93, 0.99),
}
BUDGETS = (64, 128, 256)
PLAYERS, BYTES_PER_TOKEN = 16, 256
REASON = "needs sink + window = 192 slots per head, more than kv_budget"

# As the methods' registry has them: a run writes them into its spec.json.
TITLES = {
    "full": "Full",
    "streamingllm": "StreamingLLM",
    "snapkv": "SnapKV",
    "pyramidkv": "PyramidKV",
    "adakv": "AdaKV",
    "duoattention": "DuoAttention",
    "cokv": "CoKV",
}

Records = list[dict[str, Any]]


def record(
    method: str = "snapkv", kv_budget: int | str | None = 64, score: float | None = 50.0, sample: int = 0, **more: Any
) -> dict[str, Any]:
    """One synthetic record; whatever `more` names replaces its default."""
    task, seed = more.get("task", "niah_single_1"), more.get("seed", 0)
    tokens = more.get("prompt_tokens", 960 + 7 * sample)
    slots = more.get("kv_slots") if isinstance(kv_budget, str) else kv_budget
    kept = PLAYERS * (tokens if slots is None else min(slots, tokens))
    return {
        "benchmark": "ruler",
        "task": task,
        "seed": seed,
        "sample_id": f"{task}/{seed}/{sample}",
        "method": method,
        "preset": "normalized",
        "kv_budget": kv_budget,
        "prompt_tokens": tokens,
        "generated_tokens": 9,
        "prediction": "4 1 9 2",
        "references": ["4192"],
        "score": score,
        "infeasible": None if score is not None else REASON,
        "kept_tokens": kept,
        "kept_bytes": kept * BYTES_PER_TOKEN,
        "slack_bytes": PLAYERS * 16 * BYTES_PER_TOKEN,
        "full_bytes": PLAYERS * tokens * BYTES_PER_TOKEN,
        "query_aware": True,
        "first_token": "prefill",
        "notes": ["synthetic data"],
        **more,
    }


def synthetic_records(samples: int = 10) -> Records:
    """Every task x method x budget; scores drawn so that the methods differ and are correlated within a sample."""
    rng = np.random.default_rng(7)
    out = []
    for number, task in enumerate(TASKS):
        for sample in range(samples):
            ease = rng.random()
            full = 100.0 if ease < 0.98 - 0.05 * number else 25.0
            out.append(record("full", None, full, sample, task=task))
            for method, shares in METHODS.items():
                for kv_budget, share in zip(BUDGETS, shares, strict=True):
                    score = None if share is None else float(full * (ease < share * (1 - 0.04 * number)))
                    out.append(record(method, kv_budget, score, sample, task=task))
    return out


def synthetic_stability() -> dict[str, Any]:
    rng = np.random.default_rng(11)
    tasks: dict[str, Any] = {}
    for task in TASKS[:4]:
        truth = -0.35 + 0.25 * rng.random((4, 4)) ** 3
        runs = [truth + 0.02 * rng.standard_normal((4, 4)) for _ in range(2)]
        tasks[task] = {
            "runs": [run.tolist() for run in runs],
            "mae": float(np.abs(runs[0] - runs[1]).mean()),
            "threshold": 1 / PLAYERS,
            "spearman": 0.81,
            "interval": [[value - 0.03, value + 0.03] for value in np.mean(runs, axis=0).ravel().tolist()],
            "head_removal": [
                {
                    "cut": cut,
                    "heads": heads,
                    "score": score,
                    "low": max(score - 7, 0),
                    "high": min(score + 6, 100),
                    "full_score": 96.0,
                }
                for cut, drop in (("top", 30), ("bottom", 0.9), ("random", 9))
                for heads in (2, 4, 6, 8)
                for score in [max(96.0 - drop * heads, 1.5)]
            ],
        }
    return {
        "num_players": PLAYERS,
        "num_layers": 4,
        "num_kv_heads": 4,
        "utility": "metric",
        "slice_sizes": [2, 4, 6, 8],
        "coalitions_per_size": 30,
        "tasks": tasks,
    }


def synthetic_measurements() -> dict[str, Any]:
    def entry(method: str, runtime: str, kv_budget: int | None, ms: float, cache: int) -> dict[str, Any]:
        return {
            "method": method,
            "runtime": runtime,
            "kv_budget": kv_budget,
            "batch": 8,
            "prompt_tokens": 1000,
            "generated_tokens": 64,
            "prefill_ms": 410.0,
            "decode_ms_per_token": ms,
            "peak_bytes": {"rss": 412_000_000 + cache},
            "cache_bytes": cache,
            "ratio_to": {
                "dynamic_cache": ms / 9.1,
                "ragged_full": {"median": ms / 5.6, "min": ms / 6, "max": ms / 5.2},
            },
        }

    return {
        "machine": {"system": "Linux", "cpus_usable": 2},
        "versions": {"torch": "2.13.0"},
        "decode": [
            entry("cokv", "ragged", 64, 3.1, 2_100_000),
            entry("full", "ragged", None, 5.6, 33_000_000),
            entry("full", "dynamic_cache", None, 9.1, 32_768_000),
            entry("snapkv", "ragged", 64, 3.0, 2_100_000),
        ],
    }


@pytest.fixture(name="record", scope="session")
def _record() -> Callable[..., dict[str, Any]]:
    return record


@pytest.fixture
def records() -> Records:
    return synthetic_records()


@pytest.fixture
def stability() -> dict[str, Any]:
    return synthetic_stability()


@pytest.fixture
def measurements() -> dict[str, Any]:
    return synthetic_measurements()


def write_run(folder: Path, records: Records, stability: Any = None, measurements: Any = None) -> Path:
    """A finished synthetic run folder."""
    folder.mkdir()
    spec = {
        "name": "synthetic",
        "model": "none (made-up numbers)",
        "seeds": [0],
        "grid": {"kv_budgets": list(BUDGETS)},
        "methods": [{"method": name} for name in TITLES],
        "about": {"titles": TITLES},
    }
    (folder / "spec.json").write_text(json.dumps(spec))
    (folder / "predictions.jsonl").write_text("".join(json.dumps(item) + "\n" for item in records))
    (folder / "metrics.json").write_text(json.dumps(aggregate(records)))
    for file, value in (("stability.json", stability), ("measurements.json", measurements)):
        if value is not None:
            (folder / file).write_text(json.dumps(value))
    (folder / "done.json").write_text("{}")
    return folder


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Written once; not to be changed: `run_dir` is a copy."""
    folder = tmp_path_factory.mktemp("whole") / "synthetic-0a1b2c3d"
    return write_run(folder, synthetic_records(), synthetic_stability(), synthetic_measurements())


@pytest.fixture
def run_dir(whole_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole_run, tmp_path / whole_run.name))


@pytest.fixture(scope="session")
def whole_report(whole_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a copy of the whole run, written once."""
    return write_report(shutil.copytree(whole_run, tmp_path_factory.mktemp("reported") / whole_run.name))


@pytest.fixture
def bare_run(tmp_path: Path) -> Path:
    """A run of one task without stability or measurements."""
    return write_run(tmp_path / "bare-00000000", [r for r in synthetic_records() if r["task"] == "vt"])
