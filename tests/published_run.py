"""A run folder with the names of official LongBench data whose scores a test sets (SYNTHETIC: no model gave them)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from longbench.presets import PRESETS
from longbench.tasks import TASKS
from reports import aggregate

LLAMA = "meta-llama/Meta-Llama-3-8B-Instruct"
OTHER = "HuggingFaceTB/SmolLM2-135M-Instruct"
SIXTEEN = (
    *("narrativeqa", "qasper", "multifieldqa_en", "hotpotqa", "2wikimqa", "musique", "gov_report", "qmsum"),
    *("multi_news", "trec", "triviaqa", "samsum", "passage_count", "passage_retrieval_en", "lcc", "repobench-p"),
)
TITLES = {"full": "Full", "snapkv": "SnapKV", "cokv": "CoKV", "pyramidkv": "PyramidKV", "adakv": "AdaKV"}
Score = Callable[[str, str, int | None, int], float | None]  # task, method, kv_budget, sample


def write_published_run(
    folder: Path,
    score: Score,
    model: str = LLAMA,
    tasks: tuple[str, ...] = SIXTEEN,
    methods: tuple[str, ...] = ("full", "snapkv", "cokv"),
    kv_budgets: tuple[int | str, ...] = (64,),
    samples: int = 3,
    benchmark: str = "longbench",
    protocol: str = "cokv",
    parameters: dict[str, Any] | None = None,
    changes: dict[str, Any] | None = None,
    notes: tuple[str, ...] = (),
) -> Path:
    """A finished run. parameters: of every method but full; changes: of spec.json, by dotted path."""
    parameters = {"window_size": 8, "kernel_size": 7, "pooling": "max"} if parameters is None else parameters
    preset = replace(PRESETS[protocol]) if benchmark == "longbench" else None
    cells = [("full", None), *((m, b) for m in methods if m != "full" for b in kv_budgets)]
    spec: dict[str, Any] = {
        "schema": 2,
        "model": {"attention": "flash_attention_2", "dtype": "bfloat16", "revision": "0" * 40, "digest": "ab"},
        "protocol": {"first_token": "prefill", "query_aware": True},
        "benchmarks": {benchmark: {} if preset is None else {"protocol": json.loads(json.dumps(asdict(preset)))}},
        "data": {
            benchmark: {
                "data": {task: {"official_count": TASKS[task].samples} for task in tasks if task in TASKS},
                "templates": {"official": True},
            }
        },
        "experiment": {benchmark: {"split_seed": 0, "validation_share": 0.15}, "game": None},
        "profiles": {"cokv": {"sha256": ["0123456789ab"]}},
        "methods": [
            {"method": m, "preset": "normalized", "parameters": {} if m == "full" else parameters} for m, _ in cells
        ],
        "about": {"model": model, "name": "published", "titles": TITLES},
    }
    for path, value in (changes or {}).items():
        *places, last = path.split(".")
        table = spec
        for name in places:
            table = table.setdefault(name, {})
        table[last] = value
    records = [
        {
            "benchmark": benchmark,
            "task": task,
            "seed": 0,
            "sample_id": f"{task}/{sample}",
            "method": method,
            "preset": "normalized",
            "kv_budget": budget,
            "kv_slots": 64 if isinstance(budget, str) else budget,
            "prompt_tokens": 4000,
            "prediction": "a",
            "references": ["a"],
            "score": value,
            "infeasible": None if value is not None else "needs more slots",
            "query_aware": True,
            "first_token": "prefill",
            "notes": list(notes),
        }
        for task in tasks
        for method, budget in cells
        for sample in range(samples)
        for value in [score(task, method, budget, sample)]
    ]
    folder.mkdir(parents=True)
    (folder / "spec.json").write_text(json.dumps(spec))
    (folder / "predictions.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "metrics.json").write_text(json.dumps(aggregate(records)))
    (folder / "done.json").write_text("{}")
    return folder
