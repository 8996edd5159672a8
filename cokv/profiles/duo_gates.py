"""DuoAttention's gates, trained: which KV heads need the whole prompt, and which only sinks and recent tokens.

DuoAttention, arXiv 2410.10819; released in mit-han-lab/duo-attention, duo_attn/train.py. Every KV head has a gate a:

    out = a * full attention + (1 - a) * attention to `sinks` first and `recent` newest tokens

The model is frozen; the gates, 1 at first, are trained so that the last hidden states at an answer's tokens stay those
of full attention (mean squared difference), plus `weight` times the mean gate. AdamW without decay, the rate
rising over the first fifth of the steps and falling over the last; before each step the gates are clipped to 0..1.

Evidence: the share of the answers' tokens that the model predicts with full attention, since gates learn nothing of
retrieval from passkeys that the model does not retrieve; and, with the gates rounded so that the half of the heads with
the highest ones stay whole and the others stream, the loss against keeping all, beside the losses of random halves and
of streaming in every head.

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
from cokv.methods.profile_rules import effective_heads
from cokv.model.shape import Shape, model_shape
from cokv.profiles.answered_prompts import require_prompts
from cokv.types import JSON, CokvError, FloatArray, HeadScores

NAME = "cokv_gates"
BLOCK = 128  # queries of streaming attention at a time
RANDOM_HALVES = 20
EQUAL_LOSS = 0.01  # of the loss of streaming everywhere: within it, halves lose alike
JUDGED_PROMPTS = 4


@dataclass(frozen=True, eq=False)
class AnsweredPrompt:
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

    sinks, recent: tokens that streaming attention sees, a query's own among the recent. steps: of the optimizer, one
    prompt each. rate: the highest learning rate. weight: of the mean gate in the loss. seed: of the prompts' order.
    """

    sinks: int = 64
    recent: int = 256
    steps: int = 2000
    rate: float = 0.02
    weight: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        for name, minimum in (("sinks", 0), ("recent", 1), ("steps", 1), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
                raise CokvError(f"{name} is {value!r}, expected a whole number of at least {minimum}")
        for name in ("rate", "weight"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise CokvError(f"{name} is {value!r}, expected a number above 0")


def train_gates(
    model: PreTrainedModel, prompts: Sequence[AnsweredPrompt], training: Training | None = None
) -> HeadScores:
    """Gates of all KV heads, in 0..1, trained on the prompts in random order, all of them again and again."""
    training = training or Training()
    require_prompts(prompts, "passkey prompts")
    shape = model_shape(model.config)
    for prompt in prompts:
        check_prompt(prompt.input_ids, shape.context_length)
    visible = training.sinks + training.recent
    if all(prompt.start <= visible for prompt in prompts):
        raise CokvError(
            f"no prompt is longer than {visible} tokens, sinks and recent ones together, so that nothing would be "
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
    judged = [prompt for prompt in prompts if prompt.start > visible][:JUDGED_PROMPTS]
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
            "evidence": {
                "largest": float(values.max()),
                "effective_heads": effective_heads(values),
                **_evidence(model, judged, values, shape, training),
            },
        },
    )


@torch.no_grad()
def _evidence(
    model: PreTrainedModel,
    judged: Sequence[AnsweredPrompt],
    values: FloatArray,
    shape: Shape,
    training: Training,
) -> dict[str, JSON]:
    """Losses of the best half of the heads by gate, of random halves and of none, on at least one prompt."""
    targets = [_answer_states(model, prompt) for prompt in judged]

    def loss(whole: torch.Tensor) -> float:
        """whole: bool [heads]"""
        gates = whole.view(values.shape).to(device=model.device, dtype=torch.float32)
        with _gated(model, gates, shape, training):
            return float(
                np.mean(
                    [
                        F.mse_loss(_answer_states(model, p), target).item()
                        for p, target in zip(judged, targets, strict=True)
                    ]
                )
            )

    heads = values.size
    half = torch.zeros(heads, dtype=torch.bool)
    half[torch.from_numpy(np.argsort(-values, axis=None, kind="stable")[: max(heads // 2, 1)].copy())] = True
    generator = torch.Generator().manual_seed(training.seed)
    draws = {tuple(half[torch.randperm(heads, generator=generator)].tolist()) for _ in range(RANDOM_HALVES)}
    others = [loss(torch.tensor(draw)) for draw in sorted(draws - {tuple(half.tolist())})]
    by_gate = loss(half)
    of_none = loss(torch.zeros_like(half))
    facts: dict[str, JSON] = {
        "answers_predicted": float(np.mean([_predicted(model, prompt) for prompt in judged])),
        "loss_of_half_by_gate": by_gate,
        "loss_of_none": of_none,
    }
    if others:
        better = sum(other < by_gate - EQUAL_LOSS * of_none for other in others)
        facts |= {"loss_of_random_halves": float(np.mean(others)), "random_halves": len(others)}
        facts["random_halves_better"] = better
    return facts


def _predicted(model: PreTrainedModel, prompt: AnsweredPrompt) -> float:
    """Share of the answer's tokens that the model predicts greedily behind the tokens before them."""
    out = model.base_model(input_ids=prompt.input_ids[None].to(model.device), use_cache=False)
    logits = model.get_output_embeddings()(out.last_hidden_state[0, prompt.start - 1 : -1])
    return float((logits.argmax(dim=-1).cpu() == prompt.input_ids[prompt.start :]).double().mean())


def rate_share(step: int, steps: int) -> float:
    """Share of the rate at a step: rises over the first fifth of the steps, falls over the last, at least a tenth."""
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
        near = max(min(sinks, start), start - recent + 1)  # first key that is not one of the sinks
        places = torch.cat([torch.arange(min(sinks, near)), torch.arange(near, end)]).to(keys.device)
        rows = torch.arange(start, end, device=keys.device)[:, None]
        mask = (places <= rows) & ((places < sinks) | (rows - places < recent))
        pieces.append(
            F.scaled_dot_product_attention(
                queries[:, :, start:end],
                keys[:, :, places],
                values[:, :, places],
                attn_mask=mask,
                scale=scaling,
                enable_gqa=queries.shape[1] != keys.shape[1],
            )
        )
    return torch.cat(pieces, dim=2)


def _order(prompts: int, training: Training) -> Iterator[int]:
    """The prompt of each step: all of them, shuffled, again and again."""
    generator = np.random.default_rng(training.seed)
    left: list[int] = []
    for _ in range(training.steps):
        left = left or generator.permutation(prompts).tolist()
        yield left.pop()


def _answer_states(model: PreTrainedModel, prompt: AnsweredPrompt) -> torch.Tensor:
    """Last hidden states at the answer's tokens, float32 [tokens, hidden_size]."""
    out = model.base_model(input_ids=prompt.input_ids[None].to(model.device), use_cache=False)
    states: torch.Tensor = out.last_hidden_state[0, prompt.start :].float()
    return states


@contextmanager
def _gated(model: PreTrainedModel, gates: torch.Tensor, shape: Shape, training: Training) -> Iterator[None]:
    """Within it, full-attention layers mix full and streaming attention by gates [num_layers, num_kv_heads]."""
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

    implementation = model.config._attn_implementation
    register_attention(NAME, attend)
    try:
        model.set_attn_implementation(NAME)
        yield
    finally:
        model.set_attn_implementation(implementation)
        unregister_attention(NAME)
