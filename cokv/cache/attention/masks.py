"""What attention masks say of rows: where a prompt begins behind its padding, and whether all that follows is plain.

Masks are those that transformers gives an attention function: [1 or rows, 1 or num_heads, t, n] of t new tokens over
all n, bool (true: seen) or a number that is added to the logits (zero: seen); for a flash attention [rows, n], true
where a token is no padding.
"""

from __future__ import annotations

import torch

from cokv.model.device import read
from cokv.types import CokvError

AT_ONCE = 1 << 24  # mask entries that are compared at a time


def _visible(mask: torch.Tensor) -> torch.Tensor:
    return mask if mask.dtype == torch.bool else mask == 0


def prompt_starts(mask: torch.Tensor | None, rows: int, seq_len: int) -> torch.Tensor:
    """Where each row's prompt begins behind its padding, from what its last query sees: int64 [rows], on the CPU.

    Waits for the device once, and not at all without a mask, which is what prompts without padding come with.
    """
    if mask is None:
        return torch.zeros(rows, dtype=torch.int64)
    if mask.ndim == 4 and mask.shape[1] != 1:
        raise CokvError("it makes an attention mask of its own for each head; expected a causal mask for all heads")
    visible = (mask != 0 if mask.ndim == 2 else _visible(mask[:, 0, -1])).expand(rows, -1)
    starts = visible.int().argmax(-1)
    wrong = visible.sum(-1) != seq_len - starts
    starts, wrong = torch.tensor(read(torch.stack([starts, wrong.to(starts.dtype)])))  # together: one wait
    if bool(wrong.any()):
        raise CokvError(
            "the attention mask hides tokens after the first one that it shows; expected a causal mask, with padding "
            "before the prompt only"
        )
    return starts


def check_plain(mask: torch.Tensor | None, starts: torch.Tensor, t: int, n: int) -> None:
    """Each of the t newest of n tokens must see all before it, from its row's prompt on, and itself; starts [rows].

    Waits for the device once, and not at all without a mask, which is what unpadded steps of one token come with.
    """
    if mask is None:
        return
    rows = len(starts)
    if mask.ndim == 2:  # of a flash attention: which of all n tokens are no padding
        mask = mask[:, None, None, -n:].bool().expand(-1, -1, t, -1)
        mask = mask & torch.ones(t, n, dtype=torch.bool, device=mask.device).tril(n - t)
    if mask.shape[0] not in (1, rows) or mask.shape[2:] != (t, n):
        raise CokvError(
            f"the attention mask has shape {list(mask.shape)}, expected [{rows}, 1, {t}, {n}]: {t} new tokens of {n}; "
            "pass a mask [rows, tokens] over all that was read"
        )
    columns = torch.arange(n, device=mask.device)
    prompt = columns >= starts.to(mask.device)[:, None, None, None]
    wrong = torch.zeros(rows, dtype=torch.bool, device=mask.device)
    block = max(AT_ONCE // max(rows * mask.shape[1] * n, 1), 1)
    for first in range(0, t, block):
        part = _visible(mask[:, :, first : first + block])
        causal = columns <= torch.arange(n - t + first, n - t + first + part.shape[2], device=mask.device)[:, None]
        wrong |= ((part != causal) & prompt).flatten(1).any(1)
    if bool(wrong.any()):
        raise CokvError(
            f"the attention mask of rows {wrong.nonzero()[:, 0].tolist()} hides tokens that a compressed cache holds, "
            "or shows later ones; expected padding before the prompt only, so read later turns without padding, row by "
            "row where their lengths differ"
        )
