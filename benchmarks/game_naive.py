"""The loop that released codes run: every prompt is read again for every coalition, one coalition at a time.

Transformers' own `generate`, cache and attention. Once the prompt is read, heads outside the coalition no longer see it
but for its last tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from game_worlds import GameWorld
from transformers import DynamicCache, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from cokv.cache.compat import register_attention, unregister_attention
from cokv.game.plan import BoolArray
from cokv.game.utility import GamePrompt
from cokv.model.shape import model_shape
from cokv.types import FloatArray


@contextmanager
def masked_generation(model: PreTrainedModel) -> Iterator[dict[int, torch.Tensor]]:
    """Transformers' own attention, but for tokens after the prompt, which see it through the yielded masks.

    By layer: bool [num_heads, seq_len].
    """
    masks: dict[int, torch.Tensor] = {}

    def attend(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **kwargs: Any) -> Any:
        t, total = query.shape[2], key.shape[2]
        if total > t and masks:
            visible = torch.ones(1, query.shape[1], t, total, dtype=torch.bool, device=query.device).tril(total - t)
            mask = masks[module.layer_idx]
            visible[..., : mask.shape[1]] &= mask[:, None]
            attention_mask = visible
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)

    name, before = "benchmark_masked", model.config._attn_implementation
    register_attention(name, attend)
    model.set_attn_implementation(name)
    try:
        yield masks
    finally:
        model.set_attn_implementation(before)
        unregister_attention(name)


@torch.no_grad()
def naive(world: GameWorld, coalitions: BoolArray, utility: str) -> FloatArray:
    """Utilities [coalitions, prompts]: every prompt is read again for every coalition."""
    model, shape = world.model, model_shape(world.model.config)
    utilities = np.empty((len(coalitions), len(world.prompts)))
    with masked_generation(model) as masks:
        for (row, column), _ in np.ndenumerate(utilities):
            prompt, ids = world.prompts[column], world.ids[column].to(model.device)[None]
            members = torch.from_numpy(coalitions[row].reshape(shape.num_layers, shape.num_kv_heads))
            window = torch.arange(ids.shape[1]) >= ids.shape[1] - world.window_size
            visible = (members[..., None] | window).repeat_interleave(shape.group_size, 1).to(model.device)
            masks |= dict(zip(shape.full_layers, visible, strict=True))
            judge = _generated if utility == "metric" else _probability
            utilities[row, column] = judge(model, ids, prompt)
    return utilities


def _generated(model: Any, ids: torch.Tensor, prompt: GamePrompt) -> float:
    tokens = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=prompt.stop.max_new_tokens,
        eos_token_id=list(prompt.stop.stop_ids) or None,
        pad_token_id=0,
        do_sample=False,
    )
    return prompt.judge(tokens[0, ids.shape[1] :].tolist())


def _probability(model: Any, ids: torch.Tensor, prompt: GamePrompt) -> float:
    cache = DynamicCache(config=model.config)
    answer = torch.tensor(prompt.answer, device=ids.device)
    logits = [model(input_ids=ids, past_key_values=cache, logits_to_keep=1).logits[0]]
    if len(answer) > 1:
        logits.append(model(input_ids=answer[None, :-1], past_key_values=cache).logits[0])
    chosen = torch.cat(logits).float().softmax(-1).gather(-1, answer[:, None])
    return float(chosen.double().mean())
