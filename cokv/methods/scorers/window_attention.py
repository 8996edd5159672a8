"""Window attention: the attention of the last prompt tokens to each earlier one.

For the last w = window_size prompt tokens: softmax(q k^T * scaling) over all N keys, causal inside the w x w corner;
mean over the w queries and over the query heads that share the KV head; the window's own columns dropped; pooled
along the prompt with an odd kernel, so that neighbours of an attended token are kept with it. The window itself
scores +inf. Shared by SnapKV, PyramidKV, AdaKV and CoKV, which differ in how many tokens each head keeps.

SnapKV, arXiv 2404.14469; released in FasterDecoding/SnapKV, snapkv/monkeypatch/snapkv_utils.py. The mean over the
group before pooling is the grouped-query form of FFY0/AdaKV, adaptive_snapkv/monkeypatch/snapkv_utils.py
(gqa_support).
Differs: the released code multiplies in the model's dtype and rounds the probabilities to it before averaging; here
everything is float32 unless score_dtype = "model". It sums over the window instead of averaging, which gives the same
ranking.

Reads only the prompt's keys and window queries: memory grows as window_size * seq_len, never as seq_len squared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import torch
import torch.nn.functional as F

from cokv.methods.scorers.causal import window_attention
from cokv.methods.scorers.checks import require_odd_kernel, require_whole
from cokv.methods.scorers.window import Windowed
from cokv.types import CokvError

if TYPE_CHECKING:
    from cokv.cache.prefill import PrefillLayer

Pooling = Literal["max", "avg"]
Reduce = Literal["group_mean", "per_query_head"]
ScoreDtype = Literal["float32", "model"]


@dataclass(frozen=True)
class WindowAttention(Windowed):
    """Attention of the last queries, pooled along the prompt.

    window_size: last prompt tokens, whose queries count and which stay. kernel_size: tokens pooled over, odd; 1 for no
    pooling. score_dtype: dtype of logits and means, float32 or the model's.
    """

    reads: ClassVar[str] = "attention of the last window_size prompt queries"

    window_size: int = 32
    kernel_size: int = 7
    pooling: Pooling = "max"
    reduce: Reduce = "group_mean"  # "per_query_head" is refused where query heads share a KV head
    score_dtype: ScoreDtype = "float32"

    def __post_init__(self) -> None:
        require_whole(self, window_size=1, kernel_size=1)
        require_odd_kernel(self.kernel_size)
        for name, valid in (("pooling", Pooling), ("reduce", Reduce), ("score_dtype", ScoreDtype)):
            if getattr(self, name) not in get_args(valid):
                raise CokvError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(get_args(valid))}")

    def scores(self, layer: PrefillLayer) -> torch.Tensor:
        num_kv_heads, seq_len = layer.keys.shape[:2]
        window = self.reserved(seq_len)
        self.check_group(layer.window_queries.shape[0] // num_kv_heads)
        dtype = torch.float32 if self.score_dtype == "float32" else layer.keys.dtype
        means = [
            weights[..., : seq_len - window].mean(dim=2).mean(dim=1)
            for weights in window_attention(layer, window, dtype)
        ]
        scores = torch.full((num_kv_heads, seq_len), torch.inf, dtype=torch.float32, device=layer.keys.device)
        scores[:, : seq_len - window] = self._pool(torch.cat(means))
        return scores

    def check_group(self, group_size: int) -> None:
        """Refuses a model whose KV heads each serve `group_size` query heads, where the rule has no meaning on it."""
        if self.reduce == "per_query_head" and group_size > 1:
            raise CokvError(
                f"reduce='per_query_head' picks tokens for each query head alone, but {group_size} query heads share "
                "a KV head in this model and a selection keeps tokens per KV head; use reduce='group_mean'"
            )

    def _pool(self, scores: torch.Tensor) -> torch.Tensor:
        """[num_kv_heads, columns] -> the same shape, float32; averages include the zero padding, as released."""
        if scores.shape[1] == 0 or self.kernel_size == 1:
            return scores.float()
        pool = F.max_pool1d if self.pooling == "max" else F.avg_pool1d
        pooled = pool(scores.float(), self.kernel_size, stride=1, padding=self.kernel_size // 2)
        return pooled.to(scores.dtype).float()
