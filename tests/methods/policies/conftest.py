"""Eviction while decoding, written out: one dense pass in which each KV head's positions are an explicit set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import pytest
import torch
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface

Sets = list[list[list[set[int]]]]  # [layer][kv_head][step]: what a head holds after each token of the answer


class Rule(Protocol):
    """One method's bookkeeping in one layer: lists and loops, nothing shared with the library."""

    def step(self, weights: np.ndarray, held: list[set[int]], position: int) -> list[set[int]]:
        """weights [num_heads, position + 1] of the new query over what each KV head holds -> what they hold next."""
        ...


@torch.no_grad()
def simulate(
    model: PreTrainedModel,
    prompt: torch.Tensor,
    after: torch.Tensor,
    kept: list[list[set[int]]],
    make_rule: Callable[[list[np.ndarray], list[set[int]]], Rule],
) -> tuple[np.ndarray, Sets]:
    """Logits [len(after), vocab_size] at the tokens after the prompt, and the sets after each of them.

    A rule is made from the attention [num_heads, t + 1] of every prompt query and from what each KV head keeps.
    """
    sets: Sets = [[[] for _ in heads] for heads in kept]

    def attend(
        module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, None]:
        layer, n = module.layer_idx, len(prompt)
        q, k, v = (part[0].double().numpy() for part in (query, key, value))
        num_heads, total, _ = q.shape
        group = num_heads // k.shape[0]
        out = np.zeros_like(q)

        def row(t: int, held: list[set[int]]) -> np.ndarray:
            weights = np.zeros((num_heads, t + 1))
            for head in range(num_heads):
                attended = sorted(held[head // group])
                logits = np.array([q[head, t] @ k[head // group, j] for j in attended]) * kwargs["scaling"]
                if kwargs.get("softcap") is not None:
                    logits = kwargs["softcap"] * np.tanh(logits / kwargs["softcap"])
                sinks = [] if kwargs.get("s_aux") is None else [float(kwargs["s_aux"][head])]
                weights[head, attended] = np.exp(logits) / np.exp([*logits, *sinks]).sum()
                out[head, t] = weights[head, attended] @ v[head // group, attended]
            return weights

        everything = [row(t, [set(range(t + 1)) for _ in kept[layer]]) for t in range(n)]
        rule = make_rule(everything, kept[layer])
        held = [set(head) for head in kept[layer]]
        for t in range(n, total):
            held = [head | {t} for head in held]
            held = rule.step(row(t, held), held, t)
            for head, now in zip(sets[layer], held, strict=True):
                head.append(set(now))
        return torch.from_numpy(out).to(query.dtype)[None].transpose(1, 2).contiguous(), None

    name, before = "explicit_sets", model.config._attn_implementation
    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, lambda *args, **kwargs: None)
    model.config._attn_implementation = name
    try:
        logits = model(input_ids=torch.cat([prompt, after])[None], use_cache=False).logits[0]
    finally:
        model.config._attn_implementation = before
        AttentionInterface._global_mapping.pop(name)
        AttentionMaskInterface._global_mapping.pop(name)
    return logits[len(prompt) :].numpy(), sets


@pytest.fixture(scope="session")
def simulated() -> Callable[..., tuple[np.ndarray, Sets]]:
    return simulate
