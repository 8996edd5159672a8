"""RazorAttention's echo and induction scores, from one pass over random tokens that repeat.

RazorAttention, arXiv 2407.15891, section 3.2 (no code was released). The prompt is `period` random tokens, four times.
At a token that has occurred one period before:

    echo        attention to that same token, one period back
    induction   attention to the token after it

each the mean over all such queries; a KV head's is the largest of its query heads'. The paper's retrieval heads are the
top 14 % by induction and the top 1 % by echo. The paper's period is 2500 tokens; a model that cannot copy so long a
text shows no induction heads there, so that the longest of PERIODS is used that the model copies.

Evidence: how much of the probe the model copies, and how far the induction scores agree with those of a second probe.

One score gives that order for any share: heads are chosen fourteen by
induction for one by echo, and a score is 1 minus the share of heads at which this head is chosen by either.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from cokv.methods.profile_rules import MIN_COPY_ACCURACY, effective_heads
from cokv.methods.scorers.causal import view_attention
from cokv.model.observe import LayerView, Observation
from cokv.model.shape import model_shape
from cokv.profiles.answered_prompts import observe_pass
from cokv.profiles.evidence import reliability
from cokv.types import CokvError, FloatArray, HeadScores

INDUCTION_PER_ECHO = 14
REPEATS = 4
PERIODS = (2500, 1250, 500, 250, 128, 64, 32, 16)
ROWS = 256  # of logits at a time


@dataclass(frozen=True)
class Repeats:
    """Observer: echo and induction of each query head, [2, num_heads], over tokens that repeat every `period` after
    `num_start` start tokens.
    """

    period: int
    num_start: int = 0

    def observe(self, view: LayerView) -> Observation:
        num_heads, seq_len, _ = view.queries.shape
        first = self.num_start + self.period
        sums = torch.zeros(2, view.keys.shape[0], num_heads // view.keys.shape[0], device=view.keys.device)
        for head, row, weights in view_attention(view, first):
            rows = torch.arange(weights.shape[1], device=weights.device)
            back = row + rows - self.period
            sums[0, head] += weights[:, rows, back].sum(dim=-1)
            sums[1, head] += weights[:, rows, back + 1].sum(dim=-1)
        return (sums.flatten(1) / (seq_len - first),)


def selection_order(induction: FloatArray, echo: FloatArray) -> FloatArray:
    """1 minus the share of heads at which each one is chosen, of any shape; ties to the lower index."""
    ranks = []
    for values in (induction, echo):
        rank = np.empty(values.size, dtype=np.int64)
        rank[np.argsort(-values, axis=None, kind="stable")] = np.arange(values.size)
        ranks.append(rank)
    first = np.minimum(ranks[0], INDUCTION_PER_ECHO * ranks[1])
    return np.asarray((1 - first / induction.size).reshape(induction.shape), dtype=np.float64)


def razor_scores(
    model: PreTrainedModel, period: int | None = None, seed: int = 0, start_ids: tuple[int, ...] = ()
) -> HeadScores:
    """Scores of every KV head. period: random tokens, read four times after `start_ids` (such as a start token).

    period None: the longest of PERIODS that fits the context and that the model copies; where it copies none, the one
    that it copies best. Token ids are drawn without repeats where the vocabulary has enough, so that "the same token"
    is one position.
    """
    shape = model_shape(model.config)
    if period is not None and (isinstance(period, bool) or not isinstance(period, int) or period < 2):
        raise CokvError(f"period is {period!r}, expected at least 2 random tokens, or None to choose it")
    longest = (shape.context_length - len(start_ids)) // REPEATS
    if period is not None and period > longest:
        raise CokvError(
            f"{REPEATS} times {period} tokens pass the model's {shape.context_length} positions; set the period to at "
            f"most {longest}"
        )
    fitting = [period] if period is not None else [p for p in PERIODS if p <= longest]
    if not fitting:
        raise CokvError(
            f"{REPEATS} times {min(PERIODS)} tokens pass the model's {shape.context_length} positions, so that there "
            "is no probe; use a model with a longer context"
        )
    best: tuple[float, int] | None = None
    for candidate in fitting:
        accuracy = copy_accuracy(model, _probe(model, candidate, seed, start_ids), candidate, len(start_ids))
        best = max(best or (accuracy, candidate), (accuracy, candidate))
        if accuracy >= MIN_COPY_ACCURACY:
            break
    assert best is not None
    accuracy, period = best
    (echo, induction), (_, again) = (
        _echo_and_induction(model, _probe(model, period, of_seed, start_ids), period, len(start_ids))
        for of_seed in (seed, seed + 1)
    )
    return HeadScores(
        selection_order(induction, echo),
        {
            "kind": "RazorAttention order by induction and echo",
            "source": "https://arxiv.org/abs/2407.15891",
            "echo": echo.tolist(),
            "induction": induction.tolist(),
            "period": period,
            "repeats": REPEATS,
            "seed": seed,
            "start_ids": list(start_ids),
            "reduction": f"largest of groups of {shape.group_size} query heads",
            "evidence": {
                "largest": float(induction.max()),
                "largest_echo": float(echo.max()),
                "effective_heads": effective_heads(induction),
                "reliability": reliability(np.stack([induction, again])),
                "copy_accuracy": accuracy,
                "period": period,
            },
        },
    )


def _echo_and_induction(model: PreTrainedModel, ids: torch.Tensor, period: int, num_start: int) -> FloatArray:
    """Of every KV head, the largest of its query heads: [2, num_layers, num_kv_heads]."""
    shape = model_shape(model.config)
    observations = observe_pass(model, ids, Repeats(period, num_start))
    grouped = torch.stack([layer[0] for layer in observations], dim=1).view(2, shape.num_layers, shape.num_kv_heads, -1)
    return np.asarray(grouped.amax(dim=-1).double().cpu().numpy(), dtype=np.float64)


@torch.no_grad()
def copy_accuracy(model: PreTrainedModel, ids: torch.Tensor, period: int, num_start: int) -> float:
    """Share of the tokens from the second occurrence on, the first of it apart, that the model predicts greedily.

    ids: int64 [num_start + REPEATS * period]. Logits are computed some rows at a time.
    """
    states = model.base_model(input_ids=ids[None].to(model.device), use_cache=False).last_hidden_state[0]
    first, head = num_start + period, model.get_output_embeddings()
    predicted = torch.cat([head(rows).argmax(dim=-1) for rows in states[first:-1].split(ROWS)])
    return float((predicted.cpu() == ids[first + 1 :]).double().mean())


def _probe(model: PreTrainedModel, period: int, seed: int, start_ids: tuple[int, ...]) -> torch.Tensor:
    """start_ids, then `period` random tokens REPEATS times: int64 [len(start_ids) + REPEATS * period]."""
    vocabulary = int(model.config.get_text_config().vocab_size)
    generator = torch.Generator().manual_seed(seed)
    special = set(start_ids) | _special(model)
    usable = torch.tensor([token for token in range(vocabulary) if token not in special])
    if period <= len(usable):
        tokens = usable[torch.randperm(len(usable), generator=generator)[:period]]
    else:
        tokens = usable[torch.randint(len(usable), (period,), generator=generator)]
    return torch.cat([torch.tensor(start_ids, dtype=torch.int64), tokens.repeat(REPEATS)])


def _special(model: PreTrainedModel) -> set[int]:
    """Ids of no text: padding, start, end."""
    ids: set[int] = set()
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        value = getattr(model.config, name, None)
        ids |= set(value) if isinstance(value, (list, tuple)) else {value} if isinstance(value, int) else set()
    return ids
