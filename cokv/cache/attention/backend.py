"""How a layer attends stored tokens: an implementation, and the cap that its model puts on logits.

Stores call it and know no more of it. A sink, where a model has them, is no part of it: it has no key, and joins the
softmax once all parts of an attention have been merged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

Attend = Callable[..., tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Backend:
    """`attend`: see reference.attend."""

    attend: Attend
    softcap: float | None = None

    def __call__(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        starts: torch.Tensor,
        lengths: torch.Tensor,
        scaling: float,
        at_most: Sequence[int] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self.attend(queries, keys, values, starts, lengths, scaling, at_most, self.softcap)


def softcap_of(backend: Attend) -> float | None:
    """The cap of its logits; a plain function has none."""
    return backend.softcap if isinstance(backend, Backend) else None


def implementation(backend: Attend) -> Attend:
    """What answers in the end."""
    return backend.attend if isinstance(backend, Backend) else backend


def with_sinks(out: torch.Tensor, lse: torch.Tensor, sinks: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention with one more logit per query head that has no value: out [segments, group_size, head_dim] and lse
    [segments, group_size] over all tokens, sinks [num_heads]. Segments are row-major: row * num_kv_heads + kv_head.
    """
    if sinks is None:
        return out, lse
    segments, group = lse.shape
    by_segment = sinks.to(lse.dtype).view(-1, group).repeat(segments * group // len(sinks), 1)
    return (out * (lse - by_segment).sigmoid()[..., None]).to(out.dtype), torch.logaddexp(lse, by_segment)
