"""Expected attention: the attention that future queries would pay to a token, if distributed like the prompt's.

ExpectedAttention, arXiv 2510.00636; released in NVIDIA/kvpress, presses/expected_attention_press.py. The prompt's
queries before RoPE, without those of the sinks, have mean m and covariance S. Rotated by the average rotation R of the
next `future` positions, they are modelled as a Gaussian, so that with the model's scaling c

    E[exp(c q.k)] = exp(c k.Rm + c^2/2 k.RSR^T k),

normalized over the tokens after the sinks, averaged over the query heads that share the KV head, plus `epsilon`, times
||v||. The first num_sinks tokens, and the newest `recent` ones, always stay.
Differs: queries before RoPE are recovered by inverting the model's rotation, so that no model needs its own code; all
in float32. `recent` is 0 in the released code.
Where a model's frequencies depend on the length (longrope, dynamic), the next positions all use the frequencies of the
last one, as released, whatever the prompt used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from cokv.methods.scorers.checks import require_number, require_slot, require_whole
from cokv.methods.scorers.window import Windowless
from cokv.model.observe import apply_rotary
from cokv.types import CokvError

if TYPE_CHECKING:
    from cokv.cache.prefill import PrefillLayer
    from cokv.model.observe import LayerView, Observation


@dataclass(frozen=True)
class FutureQueries:
    """Observer: mean [num_heads, head_dim] and covariance [num_heads, head_dim, head_dim] of future queries."""

    num_sinks: int
    future: int

    def observe(self, view: LayerView) -> Observation:
        if view.softcap is not None:
            raise CokvError(
                "expectedattention: the model caps its attention logits, for which there is no formula; use a method "
                "that reads attention itself, such as snapkv"
            )
        seq_len, head_dim = view.queries.shape[1:]
        first = self.num_sinks if seq_len > self.num_sinks else 0
        positions = torch.arange(first, seq_len + self.future, device=view.queries.device)
        past, ahead = positions.split([seq_len - first, self.future])
        cos, sin = view.parts.rotary(view.layer_idx, past)
        square = cos**2 + sin**2  # 1, or the square of the model's rotation scale
        plain = apply_rotary(view.queries[:, first:].float(), cos / square, -sin / square)
        mean = plain.mean(dim=1, keepdim=True)
        off = plain - mean
        covariance = off.transpose(1, 2) @ off / len(past)
        cos, sin = view.parts.rotary(view.layer_idx, ahead)
        rotation = apply_rotary(torch.eye(head_dim, device=cos.device), cos.mean(0), sin.mean(0))
        return (mean @ rotation)[:, 0], rotation.T @ covariance @ rotation


@dataclass(frozen=True)
class ExpectedAttention(Windowless):
    """Expected attention of future queries.

    num_sinks, recent: first and newest tokens that always stay. future: number of next positions to average over.
    covariance: include the covariance term. value_norm: multiply by ||v||. epsilon: added to the attention before that.
    """

    reads: ClassVar[str] = "mean and covariance of all prompt queries"

    num_sinks: int = 4
    future: int = 512
    covariance: bool = True
    value_norm: bool = True
    epsilon: float = 0.0
    recent: int = 0

    def __post_init__(self) -> None:
        require_whole(self, num_sinks=0, future=1, recent=0)
        require_number(self, "epsilon", "a number, 0 or more", lambda epsilon: epsilon >= 0)

    @property
    def observers(self) -> tuple[FutureQueries]:
        return (FutureQueries(self.num_sinks, self.future),)

    def reserved(self, seq_len: int) -> int:
        return min(self.num_sinks + self.recent, seq_len)

    def check_budget(self, kv_budget: int) -> None:
        kept = self.num_sinks + self.recent
        require_slot(kv_budget, kept, f"{self.num_sinks} sinks and {self.recent} newest tokens")

    def scores(self, layer: PrefillLayer) -> torch.Tensor:
        num_kv_heads, seq_len, head_dim = layer.keys.shape
        scores = torch.full((num_kv_heads, seq_len), torch.inf, device=layer.keys.device)
        if seq_len <= self.num_sinks:
            return scores
        mean, covariance = layer.observation(self.observers[0])
        keys = layer.keys[:, self.num_sinks :].float()
        logits = mean.view(num_kv_heads, -1, head_dim) @ keys.transpose(1, 2) * layer.scaling  # [heads, group, tokens]
        if self.covariance:
            spread = covariance.view(num_kv_heads, -1, head_dim, head_dim)
            for group in range(spread.shape[1]):
                logits[:, group] += ((keys @ spread[:, group]) * keys).sum(-1) * layer.scaling**2 / 2
        expected = logits.softmax(dim=-1).mean(dim=1)
        if self.value_norm:
            expected = (expected + self.epsilon) * layer.values[:, self.num_sinks :].float().norm(dim=-1)
        scores[:, self.num_sinks :] = expected
        scores[:, max(seq_len - self.recent, 0) :] = torch.inf
        return scores
