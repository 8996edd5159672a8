"""HeadKV's retrieval scores of each KV head, from needle prompts that the full cache answers right.

HeadKV, arXiv 2410.19258, after Wu et al., arXiv 2404.15574. A step emits one token of the answer; its query is that of
the token before it, the prompt's last one for the first.

    R   share of steps at which the most attended position is one of the needle that holds the token just emitted
        (Wu et al., released in nightdessert/Retrieval_Head, retrieval_head_detection.py)
    R2  attention on the needle among the top-|needle| positions, summed over the first `answer_tokens` steps, per
        needle token and answer token: an answer that ends early is divided by all of them
        (FYYFU/HeadKV, retrieval_head_detection_r2.py, retrieval_calculate and decode)

In both the needle is the whole sentence that holds the answer, as in the released detection (its `real_needle`).

A score is the mean over the needles answered right; a KV head's is the mean of its query heads', as readers of the
published files reduce them (headkv_file.py, after nawei1010/CoKV, kv_utils.py, set_headkv_size).

Differs: R's hits are divided by the number of steps, not by the needle's length (a head would gain from repeating a
token); R2 has no factor 10, which shares do not depend on. The caller judges the whole answer: Wu et al. require
ROUGE-1 recall of the needle above 50 percent, HeadKV token F1 above 50 percent between the right answer and the first
`answer_tokens` generated tokens. Both also end an answer at a line break; here the prompt's own stop rule does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from transformers import PreTrainedModel

from cokv.cache.prefill import prefill
from cokv.methods.profile_rules import effective_heads
from cokv.methods.scorers.causal import view_attention
from cokv.model.observe import LayerView, Observation
from cokv.model.shape import model_shape
from cokv.profiles.answered_prompts import Needle, full_cache_answer, observe_pass, require_prompts
from cokv.profiles.evidence import reliability
from cokv.types import JSON, CokvError, FloatArray, HeadScores

Kind = Literal["R", "R2"]
SOURCES = {"R": "https://arxiv.org/abs/2404.15574", "R2": "https://github.com/FYYFU/HeadKV"}


@dataclass(frozen=True)
class NeedleAttention:
    """Observer of a prompt and its answer without the last token: R and R2 of each query head, [2, num_heads].

    start, end: the needle's positions. emitted: the answer's tokens, whose queries are the last ones. answer_tokens:
    how many the right answer has.
    """

    start: int
    end: int
    emitted: tuple[int, ...]
    answer_tokens: int

    def observe(self, view: LayerView) -> Observation:
        assert view.input_ids is not None  # a profile's prompts are ids
        num_heads, seq_len, _ = view.queries.shape
        steps, size, device = len(self.emitted), self.end - self.start, view.keys.device
        first = seq_len - steps  # the prompt's last token
        emitted = torch.tensor(self.emitted, device=device)
        scores = torch.zeros(2, view.keys.shape[0], num_heads // view.keys.shape[0], device=device)
        for head, row, weights in view_attention(view, first):
            step = torch.arange(row - first, row - first + weights.shape[1], device=device)
            best = weights.argmax(dim=-1)  # [group_size, rows]
            copies_token = view.input_ids.to(device)[best] == emitted[step]
            scores[0, head] += (self._inside(best) & copies_token).sum(dim=-1) / steps
            top, places = weights.topk(size, dim=-1)
            mass = (top * self._inside(places)).sum(dim=-1) * (step < self.answer_tokens)
            scores[1, head] += mass.sum(dim=-1) / (size * self.answer_tokens)
        return (scores.flatten(1),)

    def _inside(self, positions: torch.Tensor) -> torch.Tensor:
        return (positions >= self.start) & (positions < self.end)


def retrieval_scores(model: PreTrainedModel, needles: Sequence[Needle], kind: Kind) -> HeadScores:
    """R or R2 of every KV head. Raises CokvError where the model answers no needle right."""
    require_prompts(needles, "needle prompts")
    shape = model_shape(model.config)
    total = torch.zeros(shape.num_layers, shape.num_kv_heads, dtype=torch.float64)
    right = 0
    samples, chances = [], []
    for needle in needles:
        tokens = full_cache_answer(model, prefill(model, needle.prompt.input_ids, 1), needle.prompt)
        if not needle.right(tokens):
            continue
        right += 1
        ids = torch.cat([needle.prompt.read, torch.tensor(tokens[:-1], dtype=torch.int64)])
        size = needle.answer_tokens or needle.end - needle.start
        observations = observe_pass(model, ids, NeedleAttention(needle.start, needle.end, tuple(tokens), size))
        by_head = torch.stack([layer[0][0 if kind == "R" else 1] for layer in observations]).double().cpu()
        total += by_head.view(shape.num_layers, shape.num_kv_heads, -1).mean(dim=-1)
        samples.append((by_head * (1 if kind == "R" else needle.end - needle.start)).numpy())
        chances.append((needle.end - needle.start) / needle.prompt.read.numel())
    if not right:
        raise CokvError(
            f"the model answers none of {len(needles)} needle prompts right, so that no head can be seen to retrieve; "
            "use shorter prompts, or a profile from a file"
        )
    scores = (total / right).numpy()
    if not scores.any():
        raise CokvError(
            f"no head attends a needle in the {right} prompts answered right, so that every score is 0; "
            "use more prompts, or a profile from a file"
        )
    return HeadScores(
        scores,
        {
            "kind": f"HeadKV-{kind} score, mean over needles",
            "source": SOURCES[kind],
            "needles": len(needles),
            "answered_right": right,
            "evidence": _evidence(np.stack(samples), float(np.mean(chances)) if kind == "R2" else None),
            "longest": max(needle.prompt.read.numel() for needle in needles),
            "reduction": f"mean over groups of {shape.group_size} query heads",
        },
    )


def _evidence(samples: FloatArray, chance: float | None) -> dict[str, JSON]:
    """samples: of each needle, the share of steps (R) or of attention (R2) of every query head, [n, num_layers,
    num_heads]. chance: the share that even attention would give the needle.
    """
    mean = samples.mean(axis=0)
    facts: dict[str, JSON] = {"largest": float(mean.max()), "effective_query_heads": effective_heads(mean)}
    if chance is not None:
        facts["chance"] = chance
    return {**facts, "reliability": reliability(samples)}
