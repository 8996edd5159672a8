"""How long the page of a large run takes to write, load and use, and how large it is.

    python benchmarks/page_load.py [--samples 10000] [--repeats 5] [--out benchmarks/results/page_load.json]

The run is generated (no model answered): 20 tasks, a full cache and two methods at three budgets, prompts of about 900
tokens with their text, kept tokens of 90 KV heads for one sample of each task. Times are of Debian's chromium without a
window: from the start of the navigation until every section is drawn, until a sample is shown, until a filter has been
applied. Both the page with all samples inside and the one with samples beside it are measured.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import platform
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from page_browser import browser, console, missing_programs, open_page

from reports import aggregate, load_run
from reports.page import write, write_page

TASKS, LAYERS, HEADS, TOKENS = 20, 30, 3, 900
CELLS = [("full", None), *((method, budget) for method in ("snapkv", "cokv") for budget in (64, 128, 256))]
LIMITS = {"load_ms": 2000, "page_mb": 40}


def words(generator: np.random.Generator, count: int) -> list[str]:
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    vocabulary = ["".join(generator.choice(letters, size)) for size in generator.integers(2, 9, 4000)]
    return [vocabulary[place] for place in generator.integers(0, len(vocabulary), count)]


def write_run(folder: Path, samples: int) -> None:
    """A finished run folder of this many samples."""
    generator = np.random.default_rng(0)
    text = words(generator, 200_000)
    records: list[dict[str, Any]] = []
    prompts, kept = [], []
    for number in range(samples):
        task = f"task_{number % TASKS:02}"
        sample = {"benchmark": "ruler", "task": task, "seed": 0, "sample_id": f"{task}/{number // TASKS}"}
        start = int(generator.integers(0, len(text) - TOKENS))
        prompt = [f" {word}" for word in text[start : start + TOKENS]]
        answer = str(generator.integers(1e6, 1e7))
        prompts.append({**sample, "text": "".join(prompt)})
        ease = generator.random()
        for method, budget in CELLS:
            right = budget is None or ease < 0.2 + 0.1 * np.log2(budget)
            slots = budget or TOKENS
            records.append(
                {
                    **sample,
                    **{"method": method, "preset": "normalized", "kv_budget": budget, "kv_slots": budget},
                    **{"query_aware": True, "first_token": "prefill", "cell": f"{method}{budget}"},
                    **{"prompt_tokens": TOKENS, "generated_tokens": 40, "references": [answer], "notes": []},
                    "prediction": f" {answer}." if right else " ".join(text[start : start + 30]),
                    **{"score": 100.0 if right else 0.0, "infeasible": None},
                    **{"kept_tokens": slots * LAYERS * HEADS, "kept_bytes": slots * LAYERS * HEADS * 256},
                    **{"slack_bytes": 0, "full_bytes": TOKENS * LAYERS * HEADS * 256},
                }
            )
        if number < TASKS:
            kept.append({**sample, "tokens": prompt, **selections(generator)})
    titles = {"full": "Full", "snapkv": "SnapKV", "cokv": "CoKV"}
    spec = {"name": "generated", "about": {"titles": titles, "description": "Generated: no model answered"}}
    folder.mkdir()
    for name, lines in (("predictions", records), ("prompts", prompts), ("kept_tokens", kept)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "spec.json").write_text(json.dumps(spec))
    (folder / "metrics.json").write_text(json.dumps(aggregate(records)))
    (folder / "done.json").write_text("{}")


def selections(generator: np.random.Generator) -> dict[str, Any]:
    """Every head of every cell keeps tokens of its own."""
    masks = []
    for _, budget in CELLS:
        order = generator.random((LAYERS * HEADS, TOKENS)).argsort(axis=1)
        masks.append(order < (budget or TOKENS))
    rows = np.packbits(np.concatenate(masks), axis=1, bitorder="little")
    which = np.arange(len(rows), dtype="<u4")
    return {
        "cells": [
            {"method": method, "preset": "normalized", "kv_budget": budget, "cell": f"{method}{budget}"}
            for method, budget in CELLS
        ],
        **{"seq_len": TOKENS, "num_layers": LAYERS, "num_kv_heads": HEADS},
        "patterns": base64.b64encode(zlib.compress(rows.tobytes(), 6)).decode(),
        "which": base64.b64encode(zlib.compress(which.tobytes(), 6)).decode(),
    }


# Each resolves to milliseconds, to the next frame after what it waits for.
OPEN = """
const done = arguments[arguments.length - 1], at = arguments[0], start = performance.now();
page.samples.open(at).then(() => requestAnimationFrame(() => setTimeout(() => done(performance.now() - start))));
"""
FILTER = """
const done = arguments[arguments.length - 1], start = performance.now();
const score = document.querySelector("#samples .controls input");
score.value = 50; score.dispatchEvent(new Event("input"));
requestAnimationFrame(() => setTimeout(() => done(performance.now() - start)));
"""


def measure(page: Path, samples: int, repeats: int) -> dict[str, Any]:
    """Each repeat in a browser of its own, whose caches are empty."""
    times: dict[str, list[float]] = {"load_ms": [], "open_with_kept_tokens_ms": [], "open_ms": [], "filter_ms": []}
    for _ in range(repeats):
        with browser() as driver:
            open_page(driver, page)
            times["load_ms"].append(driver.execute_script("return performance.getEntriesByName('ready')[0].startTime"))
            times["open_with_kept_tokens_ms"].append(driver.execute_async_script(OPEN, 0))
            times["open_ms"].append(driver.execute_async_script(OPEN, samples - 1))
            times["filter_ms"].append(driver.execute_async_script(FILTER))
            if complaints := console(driver):
                raise SystemExit(f"the page complained: {complaints[0]}")
    beside = list((page.parent / write.BESIDE).glob("*.js"))
    return {
        "page_mb": round(page.stat().st_size / 1e6, 2),
        "beside_mb": round(sum(file.stat().st_size for file in beside) / 1e6, 2),
        "files_beside": len(beside),
        **{name: summary(values) for name, values in times.items()},
    }


def summary(values: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(values)), "min": round(min(values)), "max": round(max(values))}


def timed(work: Callable[[], Path]) -> tuple[Path, float]:
    start = time.perf_counter()
    result = work()
    return result, round(time.perf_counter() - start, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/page_load.json"))
    options = parser.parse_args()
    if missing := missing_programs():
        raise SystemExit(f"not installed: {', '.join(missing)}; on Debian: apt-get install chromium chromium-driver")
    results: dict[str, Any] = {
        "command": f"python benchmarks/page_load.py --samples {options.samples} --repeats {options.repeats}",
        "machine": {"cpus": os.cpu_count(), "architecture": platform.machine(), "load_average": os.getloadavg()[0]},
        "samples": options.samples,
        "records": options.samples * len(CELLS),
        "limits": LIMITS,
    }
    with tempfile.TemporaryDirectory() as temporary:
        write_run(Path(temporary) / "run", options.samples)
        run = load_run(Path(temporary) / "run")
        for name, inside in (("samples_beside", 0), ("samples_inside", 1 << 62)):
            write.INSIDE = inside
            folder = Path(temporary) / name
            folder.mkdir()
            page, seconds = timed(lambda folder=folder: write_page(run, folder))  # type: ignore[misc]
            results[name] = {"write_s": seconds, **measure(page, options.samples, options.repeats)}
            print(name, json.dumps(results[name]), flush=True)
    options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
