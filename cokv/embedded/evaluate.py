"""How well the embedded model retrieves with its full cache: `python -m cokv.embedded.evaluate`.

Official metrics, fresh samples. The bars say what a model must reach to be shipped; tasks beyond a model of this size
are in the same table, not hidden.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from cokv.decode import Row, Stop, decode
from cokv.model import EMBEDDED, LoadedModel, load_model
from cokv.prefill import prefill
from cokv.types import Selection
from ruler.generate import generate
from ruler.scoring import score
from ruler.tasks import TASKS

BARS = {
    "niah_single_1": 95,
    "niah_single_2": 95,
    "niah_multikey_1": 90,
    "niah_multivalue": 80,
    "niah_multiquery": 80,
    "vt": 80,
}


def task_scores(loaded: LoadedModel, task: str, length: int, samples: int, seed: int) -> Iterator[float]:
    """Percent of each sample, answered greedily with the full cache."""
    for sample in generate(task, loaded.tokenizer, length, samples, seed, "mini"):
        ids = torch.tensor(loaded.tokenizer.encode(sample.prompt), dtype=torch.int64)
        made = prefill(loaded.model, ids, 1)
        full = Selection.full(loaded.shape.num_layers, loaded.shape.num_kv_heads, made.seq_len)
        stop = Stop(sample.tokens_to_generate, loaded.eos_ids)
        answer = decode(loaded.model, made, [Row(full)], stop, way="shared")[0]
        text = loaded.tokenizer.decode(answer.tokens, skip_special_tokens=True)
        assert isinstance(text, str), "one answer at a time"
        yield score(sample, text)


def evaluate(loaded: LoadedModel, length: int, samples: int, seed: int) -> dict[str, dict[str, Any]]:
    """Per task: mean score in percent, its standard error, the number of samples, and the bar where there is one."""
    results: dict[str, dict[str, Any]] = {}
    for task in TASKS["mini"]:
        scores = np.array(list(task_scores(loaded, task, length, samples, seed)))
        error = float(scores.std(ddof=1) / len(scores) ** 0.5) if len(scores) > 1 else None
        results[task] = {"score": round(float(scores.mean()), 1), "standard_error": error, "samples": len(scores)}
        if task in BARS:
            results[task]["bar"] = BARS[task]
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=EMBEDDED, help="`embedded` or a folder with another checkpoint")
    parser.add_argument("--length", type=int, default=1024, help="tokens of prompt and answer")
    parser.add_argument("--samples", type=int, default=50, help="samples per task")
    parser.add_argument("--seed", type=int, default=12345)
    parser.add_argument("--json", type=Path, help="also write the scores here")
    args = parser.parse_args()
    loaded = load_model(args.model)
    results = evaluate(loaded, args.length, args.samples, args.seed)
    title = f"{args.model}, full cache, {args.length} tokens, {args.samples} samples each"
    table = Table("task", "score", "± s.e.", "bar", title=title)
    for task, row in results.items():
        bar = "" if "bar" not in row else f"{row['bar']} " + ("reached" if row["score"] >= row["bar"] else "MISSED")
        error = "" if row["standard_error"] is None else f"{row['standard_error']:.1f}"
        table.add_row(task, f"{row['score']:.1f}", error, bar)
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps({"length": args.length, "seed": args.seed, "tasks": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
