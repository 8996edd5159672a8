"""DuoAttention's gates, trained: which KV heads need the whole prompt, and which only sinks and the newest tokens.

DuoAttention, arXiv 2410.10819; released in mit-han-lab/duo-attention, duo_attn/train.py. Every KV head has a gate a:

    out = a * full attention + (1 - a) * attention to `sinks` first and `recent` newest tokens

The model is frozen; the gates, 1 at first, are trained so that the last hidden states at an answer's tokens stay what
they are with full attention (mean squared difference), plus `weight` times the mean gate. AdamW without decay, the rate
rising over the first fifth of the steps and falling over the last; before each step the gates are clipped to 0..1.

Differs: the released code draws passkeys in books of up to 32,000 tokens for 2,000 steps; prompts are the caller's. The
hidden states of full attention are computed once per prompt, and streaming attention block by block: memory is O(N)
per head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from cokv.cache.compat import register_attention, unregister_attention
from cokv.cache.prefill import check_prompt
from cokv.model.shape import Shape, model_shape
from cokv.profiles.answered_prompts import at_least_one
from cokv.types import CokvError, HeadScores

NAME = "cokv_gates"
BLOCK = 128  # queries of streaming attention taken together


@dataclass(frozen=True, eq=False)
class Answered:
    """A prompt with its right answer, int64 [seq_len], and where the answer starts."""

    input_ids: torch.Tensor
    start: int

    def __post_init__(self) -> None:
        if not 0 < self.start < self.input_ids.numel():
            raise CokvError(
                f"an answer from position {self.start} of {self.input_ids.numel()} tokens; expected at least one token "
                "before it and one of its own"
            )


@dataclass(frozen=True)
class Training:
    """How the gates are trained.

    sinks, recent: tokens that streaming attention sees, a query's own among the recent. steps: prompts taken, one each.
    rate: the optimizer's, at its highest. weight: of the mean gate in the loss. seed: of the order of the prompts.
    """

    sinks: int = 64
    recent: int = 256
    steps: int = 2000
    rate: float = 0.02
    weight: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("sinks", 0), ("recent", 1), ("steps", 1), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise CokvError(f"{name} is {value!r}, expected a whole number of at least {least}")
        for name in ("rate", "weight"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise CokvError(f"{name} is {value!r}, expected a number above 0")


def train_gates(model: PreTrainedModel, prompts: Sequence[Answered], training: Training | None = None) -> HeadScores:
    """Gates of all KV heads, in 0..1. Prompts are taken in a random order, again and again."""
    training = training or Training()
    at_least_one(prompts, "passkey prompts")
    shape = model_shape(model.config)
    for prompt in prompts:
        check_prompt(prompt.input_ids, shape.context_length)
    least = training.sinks + training.recent
    if all(prompt.start <= least for prompt in prompts):
        raise CokvError(
            f"no prompt is longer than {least} tokens, sinks and recent ones together, so that nothing would be "
            "learnt; use longer prompts"
        )
    gates = torch.ones(shape.num_layers, shape.num_kv_heads, device=model.device, requires_grad=True)
    optimizer = torch.optim.AdamW([gates], lr=training.rate, weight_decay=0)
    targets: dict[int, torch.Tensor] = {}
    losses = []
    order = _order(len(prompts), training)
    # Of a frozen model the gates alone have gradients; the caller's flags are left as they are.
    flags = [parameter.requires_grad for parameter in model.parameters()]
    model.requires_grad_(False)
    try:
        for step, place in enumerate(order):
            prompt = prompts[place]
            if place not in targets:
                with torch.no_grad():
                    targets[place] = _answer_states(model, prompt)
            with torch.no_grad():
                gates.clamp_(0, 1)
            with torch.enable_grad(), _gated(model, gates, shape, training):
                distilled = F.mse_loss(_answer_states(model, prompt), targets[place])
            loss = distilled + training.weight * gates.abs().mean()
            optimizer.zero_grad()
            loss.backward()
            for group in optimizer.param_groups:
                group["lr"] = training.rate * rate_share(step, training.steps)
            optimizer.step()
            losses.append(float(distilled.detach()))
    finally:
        for parameter, flag in zip(model.parameters(), flags, strict=True):
            parameter.requires_grad_(flag)
    values = gates.detach().clamp(0, 1).double().cpu().numpy()
    tail = max(1, training.steps // 10)
    return HeadScores(
        values,
        {
            "kind": "DuoAttention gate, clipped to 0..1",
            "source": "https://arxiv.org/abs/2410.10819",
            **asdict(training),
            "prompts": len(prompts),
            "longest": max(prompt.input_ids.numel() for prompt in prompts),
            "distillation_loss": {"first": losses[0], "last": float(np.mean(losses[-tail:]))},
        },
    )


def rate_share(step: int, steps: int) -> float:
    """Of the rate at a step: up over the first fifth of the steps, down over the last, a tenth at least."""
    fifth = max(steps // 5, 1)
    return min(1.0, max((step + 1) / fifth, 0.1), max((steps - step) / fifth, 0.1))


def streaming_attention(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float, sinks: int, recent: int
) -> torch.Tensor:
    """Causal attention to the first `sinks` tokens and the newest `recent`, a query's own included.

    queries [batch, num_heads, seq_len, head_dim]; keys, values [batch, num_kv_heads, seq_len, head_dim].
    """
    seq_len, pieces = queries.shape[2], []
    for start in range(0, seq_len, BLOCK):
        end = min(start + BLOCK, seq_len)
        near = max(min(sinks, start), start - recent + 1)  # the first key that is no sink by its place in the piece
        places = torch.cat([torch.arange(min(sinks, near)), torch.arange(near, end)]).to(keys.device)
        rows = torch.arange(start, end, device=keys.device)[:, None]
        seen = (places <= rows) & ((places < sinks) | (rows - places < recent))
        pieces.append(
            F.scaled_dot_product_attention(
                queries[:, :, start:end],
                keys[:, :, places],
                values[:, :, places],
                attn_mask=seen,
                scale=scaling,
                enable_gqa=queries.shape[1] != keys.shape[1],
            )
        )
    return torch.cat(pieces, dim=2)


def _order(prompts: int, training: Training) -> Iterator[int]:
    """Which prompt each step takes: all of them, shuffled, again and again."""
    generator = np.random.default_rng(training.seed)
    left: list[int] = []
    for _ in range(training.steps):
        left = left or generator.permutation(prompts).tolist()
        yield left.pop()


def _answer_states(model: PreTrainedModel, prompt: Answered) -> torch.Tensor:
    """Last hidden states at the answer's tokens, float32 [tokens, hidden_size]."""
    out = model.base_model(input_ids=prompt.input_ids[None].to(model.device), use_cache=False)
    states: torch.Tensor = out.last_hidden_state[0, prompt.start :].float()
    return states


@contextmanager
def _gated(model: PreTrainedModel, gates: torch.Tensor, shape: Shape, training: Training) -> Iterator[None]:
    """Inside, the model's full-attention layers mix full and streaming attention by the gates [num_layers, heads]."""
    places = {layer: place for place, layer in enumerate(shape.full_layers)}

    def attend(
        module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, None]:
        if module.layer_idx not in places:
            return sdpa_attention_forward(module, query, key, value, mask, **kwargs)[0], None
        if kwargs.get("softcap") is not None or kwargs.get("s_aux") is not None:
            raise CokvError(
                "this model caps its attention logits or has attention sinks of its own; expected softmax attention"
            )
        scaling = kwargs.get("scaling") or query.shape[-1] ** -0.5
        grouped = query.shape[1] != key.shape[1]
        full = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=grouped)
        near = streaming_attention(query, key, value, scaling, training.sinks, training.recent)
        gate = gates[places[module.layer_idx]].repeat_interleave(shape.group_size)[:, None, None].to(full.dtype)
        return (gate * full + (1 - gate) * near).transpose(1, 2).contiguous(), None

    before = model.config._attn_implementation
    register_attention(NAME, attend, "sdpa")
    try:
        model.set_attn_implementation(NAME)
        yield
    finally:
        model.set_attn_implementation(before)
        unregister_attention(NAME)
