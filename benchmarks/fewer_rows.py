"""How far answers depend on the rows they are decoded beside: a run's samples again, with a few of its methods alone.

    python benchmarks/fewer_rows.py RUN [--experiment smollm2] [--methods full snapkv ...] [--samples 2]

Products of matrices of another size round differently, which decides a token where two logits are near each other: in
float32 hardly ever, in bfloat16 now and then. RUN is a folder of that experiment. Methods that need a profile are left
out. Prints how many answers are equal word for word, and how many score alike.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from cokv.model.loading import load_model
from suite.cli.commands import experiment_of
from suite.run.cells import grid_cells
from suite.run.samples import run_sample
from suite.tasks.benchmarks import seeds_of, task_names, test_prompts

METHODS = ("full", "snapkv", "adakv", "cake", "keydiff", "tova", "kivi4", "think")
KEY = ("task", "seed", "sample_id", "method", "preset", "kv_budget")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--experiment", type=Path, default=Path("smollm2"))
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--samples", type=int, default=2, help="of each task")
    args = parser.parse_args()
    experiment = experiment_of(args.experiment)
    spec = experiment.model
    loaded = load_model(spec.name, spec.revision, spec.device, spec.dtype)
    cells = [c for c in grid_cells(experiment) if c.method.name in args.methods and not c.method.needs_profile]
    lines = (args.run / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    stored = {tuple(record[name] for name in KEY): record for record in map(json.loads, lines)}
    answers = equal = alike = 0
    for task in task_names(experiment):
        prompts = list(test_prompts(experiment, loaded, task, seeds_of(experiment, task)[0]))[: args.samples]
        for prompt in prompts:
            for record in run_sample(loaded, prompt, cells, None, first_token=experiment.protocol.first_token):
                before = stored[tuple(record[name] for name in KEY)]
                answers += record["score"] is not None
                equal += record["score"] is not None and record["prediction"] == before["prediction"]
                alike += record["score"] is not None and record["score"] == before["score"]
        print(f"{task}: of {answers} answers so far {equal} equal word for word, {alike} score alike", flush=True)


if __name__ == "__main__":
    main()
