"""Teacher forcing: the probability of a given answer when the model reads it on each row's cache. No decoding.

One forward pass reads the answer's tokens on all rows, which stay equally long and share the most. Greedy decoding
begins with the answer exactly when every token of it is the most probable one at its place, given those before it: by
induction these are the tokens that greedy decoding would have emitted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from cokv.cache.attention.attachment import ragged_attention
from cokv.cache.prefill import Prefill, check_prompt
from cokv.decode.batches import AnyWay, Row, batches
from cokv.decode.decode import Stop, without_stops
from cokv.decode.session import FirstToken, start_session
from cokv.game.plan import BoolArray
from cokv.types import CokvError, FloatArray


@dataclass(frozen=True, eq=False)
class ForcedAnswer:
    """Every token of the answer on every row: [rows, tokens]."""

    log_probability: FloatArray  # natural logarithm, of the plain softmax
    best: BoolArray  # whether greedy decoding would have chosen it, stop ids ruled out where they are


def check_answer(answer: Sequence[int], stop: Stop, vocab_size: int) -> None:
    """Raises CokvError for an answer that greedy decoding cannot emit."""
    inside = [token for token in answer[:-1] if token in stop.stop_ids]
    if not answer or len(answer) > stop.max_new_tokens or inside:
        raise CokvError(
            f"an answer of {len(answer)} tokens, {len(inside)} of them stop ids before its end; expected 1 to "
            f"{stop.max_new_tokens} tokens with at most the last one a stop id; shorten it, or raise max_new_tokens"
        )
    if not 0 <= min(answer) <= max(answer) < vocab_size:
        raise CokvError(
            f"an answer has token ids {min(answer)} to {max(answer)}, expected 0 to {vocab_size - 1}; "
            "use the model's own tokenizer"
        )


@torch.no_grad()
def teacher_force(
    model: PreTrainedModel,
    prefill: Prefill,
    rows: Iterable[Row],
    answer: Sequence[int],
    stop: Stop,
    way: AnyWay = "auto",
    max_bytes: int = 1 << 30,
    first_token: FirstToken = "prefill",
) -> ForcedAnswer:
    """Reads `answer` (token ids) on each row. The other arguments are those of `decode`."""
    vocab_size = prefill.first_logits.shape[-1]
    check_answer(answer, stop, vocab_size)
    check_prompt(prefill.input_ids, prefill.shape.context_length, len(answer))
    ids = torch.tensor(answer, dtype=torch.int64)
    by_place: dict[int, tuple[FloatArray, BoolArray]] = {}
    per_row = 12 * len(answer) * vocab_size  # logits, their float32 copy and log-softmax
    with ragged_attention(model):
        for mode, batch in batches(model, prefill, rows, way, len(answer), len(answer), max_bytes, per_row):
            count = len(batch.rows)
            with start_session(model, prefill, batch.rows, mode, len(answer), None, first_token) as (
                reader,
                first,
                nodes,
            ):
                parts = [_score_tokens(first[:, None], ids[:1], stop, 1, nodes)]
                if len(ids) > 1:
                    logits, nodes = reader.read(ids[:-1].expand(count, -1), every=True)
                    parts.append(_score_tokens(logits, ids[1:], stop, 2, nodes))
            log_probability, best = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))
            by_place |= {int(p): (log_probability[i], best[i]) for i, p in enumerate(batch.places)}
    empty = np.empty((0, len(answer)))
    return ForcedAnswer(
        np.stack([by_place[place][0] for place in range(len(by_place))]) if by_place else empty,
        np.stack([by_place[place][1] for place in range(len(by_place))]) if by_place else empty.astype(np.bool_),
    )


def _score_tokens(
    logits: torch.Tensor, ids: torch.Tensor, stop: Stop, number: int, nodes: torch.Tensor | None
) -> tuple[FloatArray, BoolArray]:
    """Log-probability and whether it is the best, [rows, t], of tokens ids [t] under logits [nodes, t, vocab_size].

    The first of them is the answer's token `number`, counted from 1.
    """
    ids = ids.to(logits.device)
    log_probability = logits.float().log_softmax(-1).gather(-1, ids.expand(len(logits), -1)[..., None])[..., 0]
    is_best_by_token = [
        without_stops(logits[:, i], stop, number + i).argmax(-1) == token for i, token in enumerate(ids)
    ]
    log_probability, is_best = log_probability.double().cpu(), torch.stack(is_best_by_token, dim=1).cpu()
    if nodes is not None:
        log_probability, is_best = log_probability[nodes], is_best[nodes]
    return log_probability.numpy(), is_best.numpy()
