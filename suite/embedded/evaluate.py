"""How well the embedded model retrieves with its full cache: `python -m suite.embedded.evaluate`.

RULER's tasks and LongBench's stand-ins, official metrics, fresh samples. The bars say what a model must reach to be
shipped; tasks beyond a model of this size are in the same table, not hidden.
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

from cokv.cache.prefill import prefill
from cokv.decode.batches import Row
from cokv.decode.decode import Stop, decode
from cokv.model.loading import EMBEDDED, LoadedModel, load_model
from cokv.types import Selection
from longbench.metrics import sample_score
from longbench.mini import generate as longbench_mini
from ruler.generate import generate
from ruler.scoring import score
from ruler.tasks import TASKS
from suite.tasks.longbench_mini_tasks import PROTOCOL
from suite.tasks.longbench_tasks import tokenize
from suite.tasks.prompt import text_of

BARS = {
    "niah_single_1": 95,
    "niah_single_2": 95,
    "niah_multikey_1": 90,
    "niah_multivalue": 80,
    "niah_multiquery": 80,
    "vt": 80,
    # One data set of each category of LongBench that is to be learned, far above chance.
    "qasper": 90,
    "hotpotqa": 90,
    "samsum": 90,
    "trec": 90,
    "passage_retrieval_en": 80,
    "lcc": 60,
}


def task_scores(loaded: LoadedModel, task: str, length: int, samples: int, seed: int) -> Iterator[float]:
    """Percent of each sample, answered greedily with the full cache."""
    if task in longbench_mini.BUILDERS:
        yield from _longbench_scores(loaded, task, length, samples, seed)
        return
    for sample in generate(task, loaded.tokenizer, length, samples, seed, "mini"):
        ids = torch.tensor(loaded.tokenizer.encode(sample.prompt), dtype=torch.int64)
        yield score(sample, _answer(loaded, ids, Stop(sample.tokens_to_generate, loaded.eos_ids)))


def _longbench_scores(loaded: LoadedModel, task: str, length: int, samples: int, seed: int) -> Iterator[float]:
    tokenizer: Any = loaded.tokenizer
    for sample in longbench_mini.generate(task, tokenizer, length - 1, samples, seed):
        record = sample.record
        _, tokens = tokenize(PROTOCOL, longbench_mini.templates(), task, record, loaded)
        text = _answer(loaded, tokens["context_ids"], tokens["stop"])
        yield 100 * sample_score(task, text, record["answers"], record["all_classes"])


def chance(loaded: LoadedModel, task: str, length: int, samples: int, seed: int) -> float:
    """Score in percent of the right answer to another sample: what the form of an answer alone is worth."""
    tokenizer: Any = loaded.tokenizer
    drawn = list(longbench_mini.generate(task, tokenizer, length - 1, samples, seed))
    pairs = zip(drawn, drawn[1:] + drawn[:1], strict=True)
    scores = [sample_score(task, a.gold, b.record["answers"], b.record["all_classes"]) for a, b in pairs]
    return 100 * float(np.mean(scores))


def _answer(loaded: LoadedModel, ids: torch.Tensor, stop: Stop) -> str:
    prefilled = prefill(loaded.model, ids, 1)
    full = Selection.full(loaded.shape.num_layers, loaded.shape.num_kv_heads, prefilled.seq_len)
    return text_of(loaded, decode(loaded.model, prefilled, [Row(full)], stop, way="shared")[0].tokens)


def evaluate(loaded: LoadedModel, length: int, samples: int, seed: int) -> dict[str, dict[str, Any]]:
    """Per task: mean score in percent, its standard error, the number of samples, the bar where there is one, and for
    LongBench's stand-ins what the form of an answer alone is worth.
    """
    results: dict[str, dict[str, Any]] = {}
    for task in (*TASKS["mini"], *longbench_mini.BUILDERS):
        scores = np.array(list(task_scores(loaded, task, length, samples, seed)))
        error = float(scores.std(ddof=1) / len(scores) ** 0.5) if len(scores) > 1 else None
        results[task] = {"score": round(float(scores.mean()), 1), "standard_error": error, "samples": len(scores)}
        if task in BARS:
            results[task]["bar"] = BARS[task]
        if task in longbench_mini.BUILDERS:
            results[task]["chance"] = round(chance(loaded, task, length, samples, seed), 1)
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
    table = Table("task", "score", "± s.e.", "bar", "chance", title=title)
    for task, row in results.items():
        bar = "" if "bar" not in row else f"{row['bar']} " + ("reached" if row["score"] >= row["bar"] else "MISSED")
        error = "" if row["standard_error"] is None else f"{row['standard_error']:.1f}"
        table.add_row(task, f"{row['score']:.1f}", error, bar, f"{row['chance']:.1f}" if "chance" in row else "")
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps({"length": args.length, "seed": args.seed, "tasks": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
