"""LU-KV's curves of kept shares, from the attention that each token of profiling prompts gets in the answer.

LU-KV, arXiv 2602.08585; released in baidu-baige/LU-KV, evaluation/curve_data/step1_*.py and step2_compute_curve.py. Of
each profiling prompt, answered greedily by the full cache:

    importance of token j   max over the queries after the prompt of ||A_j v_j W_O||_2, the largest of the query heads
                            that share the KV head
    curve of a head         the importance retained by k slots, tokens in the order in which a scorer keeps them
    shares                  hulls of all curves, the total spent greedily by slope (cokv/methods/allocators/marginal.py)

and the shares are averaged over prompts. Curves belong to a model and to a scorer, with its settings. Tokens that the
scorer always keeps (a window, sinks) are every head's first slots.

Differs: the released code divides ||v_j W_O|| by its sum over a layer, which `per_layer` does too, and decodes with a
temperature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from cokv.cache.prefill import prefill
from cokv.methods.allocators.marginal import keep_ratios
from cokv.methods.profile_rules import QUARTER
from cokv.methods.scorers import Scorer
from cokv.methods.scorers.blocks import at_once
from cokv.methods.scorers.causal import view_attention
from cokv.model.observe import LayerView, Observation
from cokv.profiles.answered_prompts import ProfilingPrompt, full_cache_answer, observe_pass, require_prompts
from cokv.profiles.evidence import reliability
from cokv.profiles.lukv_file import RatioCurves
from cokv.types import FloatArray


@dataclass(frozen=True)
class FutureImportance:
    """Observer of a prompt of `seq_len` tokens and its answer: its tokens' importance [num_kv_heads, seq_len]."""

    seq_len: int
    per_layer: bool = False

    def observe(self, view: LayerView) -> Observation:
        num_kv_heads = view.keys.shape[0]
        norms = self._norms(view)
        importance = torch.zeros(num_kv_heads, self.seq_len, device=view.keys.device)
        for head, _, weights in view_attention(view, self.seq_len):
            largest = weights[..., : self.seq_len].amax(dim=1)  # over steps: [group_size, seq_len]
            torch.maximum(importance[head], (largest * norms[head]).amax(dim=0), out=importance[head])
        return (importance,)

    def _norms(self, view: LayerView) -> torch.Tensor:
        """||v W_O||_2 of the prompt's tokens: [num_kv_heads, group_size, seq_len]."""
        num_heads, head_dim = view.queries.shape[0], view.queries.shape[2]
        num_kv_heads = view.keys.shape[0]
        weight = view.parts.output_weight(view.layer_idx, num_heads, head_dim).float()
        by_kv_head = weight.view(num_kv_heads, -1, head_dim, weight.shape[-1])
        step = at_once(num_heads * weight.shape[-1], weight.device)
        pieces = [
            (view.values[:, None, at : min(at + step, self.seq_len)].float() @ by_kv_head).norm(dim=-1)
            for at in range(0, self.seq_len, step)
        ]
        norms = torch.cat(pieces, dim=-1)
        return norms / norms.sum() if self.per_layer else norms


def in_kept_order(importance: FloatArray, scores: FloatArray, reserved: int) -> FloatArray:
    """Importance [..., seq_len] in the order in which a scorer keeps tokens, the first `reserved` above all others."""
    order = np.argsort(-scores, axis=-1, kind="stable")
    ordered = np.take_along_axis(importance, order, axis=-1)
    ordered[..., :reserved] = 2 * importance.max() + 1
    return ordered


def lukv_curves(
    model: PreTrainedModel,
    prompts: Sequence[ProfilingPrompt],
    scorer: Scorer,
    tokenizer: Any = None,
    per_layer: bool = False,
) -> RatioCurves:
    """Mean shares over the prompts. tokenizer: the model's, for scorers whose observers need it."""
    require_prompts(prompts, "profiling prompts")
    ratios = []
    for prompt in prompts:
        prefilled = prefill(
            model, prompt.input_ids, max(scorer.window_size, 1), getattr(scorer, "observers", ()), tokenizer
        )
        scores = torch.stack([scorer.scores(layer) for layer in prefilled.layers]).double().cpu().numpy()
        tokens = full_cache_answer(model, prefilled, prompt)
        answer_ids = torch.tensor(tokens[:-1] or tokens, dtype=torch.int64)  # a single token is read itself
        observations = observe_pass(
            model, torch.cat([prompt.read, answer_ids]), FutureImportance(prefilled.seq_len, per_layer)
        )
        importance = torch.stack([layer[0] for layer in observations]).double().cpu().numpy()
        ratios.append(keep_ratios(in_kept_order(importance, scores, scorer.reserved(prefilled.seq_len))))
    return RatioCurves(
        np.mean(ratios, axis=0),
        {
            "kind": "LU-KV keep-ratio curves",
            "source": "https://arxiv.org/abs/2602.08585",
            "prompts": len(prompts),
            "evidence": {
                "spread_at_a_quarter": float(np.ptp(np.mean(ratios, axis=0)[QUARTER])),
                "reliability": reliability(np.stack(ratios)[:, QUARTER]),
            },
            "longest": max(prompt.input_ids.numel() for prompt in prompts),
            "scorer": {"name": type(scorer).__name__, **asdict(scorer)},  # type: ignore[call-overload]
            "per_layer": per_layer,
        },
    )
