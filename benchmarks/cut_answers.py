"""Whether a shorter answer length would change a run's RULER scores: its stored answers cut after so many tokens.

python benchmarks/cut_answers.py RUN --model qwen2.5-coder-0.5b [--tokens 48] [--leave-out cwe]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from cokv.model.loading import load_model
from ruler.scoring import score
from ruler.tasks import get_task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--model", required=True, help="whose tokenizer counts")
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--leave-out", nargs="*", default=["cwe"], help="tasks whose right answers are longer")
    args = parser.parse_args()
    tokenizer = load_model(args.model).tokenizer
    answers = longer = changed = 0
    for line in (args.run / "predictions.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if record["benchmark"] != "ruler" or record.get("score") is None or record["task"] in args.leave_out:
            continue
        answers += 1
        if record["generated_tokens"] <= args.tokens:
            continue
        longer += 1
        ids = tokenizer.encode(record["prediction"], add_special_tokens=False)[: args.tokens]
        cut = score(get_task(record["task"]).metric, tokenizer.decode(ids), tuple(record["references"]))
        changed += abs(cut - record["score"]) > 1e-9
    print(f"{answers} answers, {longer} longer than {args.tokens} tokens, {changed} of these score otherwise when cut")


if __name__ == "__main__":
    main()
