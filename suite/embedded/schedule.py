"""The curriculum: where a training stands, how fast it learns there, and when it moves on.

Stage 1 (`copy`) doubles the span of what is repeated, stage 2 (`tasks`) the context, each when the last is learned.
"""

import argparse
import math
from dataclasses import dataclass

import numpy as np

LENGTHS = (64, 128, 256, 512, 1024, 2048, 4096)
RATE = {64: 1.0, 128: 0.6, 256: 0.5, 512: 0.4, 1024: 0.3, 2048: 0.2, 4096: 0.15}  # share of the top learning rate
CORE = (
    *("niah_single_2", "niah_multikey_1", "niah_multikey_2", "niah_multiquery", "vt", "recall"),
    *("qasper", "hotpotqa", "trec", "passage_retrieval_en", "lcc"),
)


@dataclass
class State:
    """Where a training stands. A checkpoint holds it as a plain dict, a log line as its first fields."""

    step: int = 0
    stage: str = "copy"  # then "tasks"
    length: int = LENGTHS[0]  # tokens of context
    minutes: float = 0.0
    tokens: int = 0
    skipped: int = 0  # steps whose gradient was not finite
    since: int = 0  # steps since the stage, the span or the context last changed
    span: int = 8  # longest stretch that comes again, tokens


def rate(state: State, args: argparse.Namespace) -> float:
    """Warm-up at the start of a stage, a share by context length, a cosine over the last part of the time."""
    left = 1 - state.minutes / args.minutes
    cool = min(1.0, left / args.cool) if state.stage == "tasks" else 1.0
    cosine = 0.5 * (1 - math.cos(math.pi * max(cool, 0.0)))
    warm = min(1.0, (state.since + 1) / args.warmup)
    share = RATE[state.length] if state.stage == "tasks" else 1.0
    return float(args.rate * share * warm * max(cosine, 0.01))


def advance(s: State, scores: dict[str, float], args: argparse.Namespace) -> bool:
    """Moves to the next stage or context length when this one is learned. True when it moved."""
    if s.stage == "copy":
        if s.span < s.length // 2:  # longer spans as soon as the circuit begins to work
            if scores.get("copy", 0) < args.begun or s.since < 50:
                return False
            s.span, s.since = s.span * 2, 0
        elif scores.get("copy", 0) < args.copied or s.since < 100:
            return False
        else:
            s.stage, s.length, s.span, s.since = "tasks", s.length * 2, s.length, 0
    else:
        core = [scores[k] for k in CORE if k in scores]
        if s.since < 150 or np.mean(core) < args.threshold or s.length * 2 > args.max_length:
            return False
        s.length, s.span, s.since = s.length * 2, s.length, 0
    return True
