"""The handshake between a cache's layers and the attention function.

An `update` of a layer is answered by exactly one attention call, in the same forward pass, of the same layer, with the
very keys and values that it returned. A model that does anything else with them (expands latent keys, repeats them,
attends twice, lends them to another layer) would be answered wrongly, or never compressed; it is refused here, before
a token comes of it. Costs a few comparisons of Python objects per layer and step.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch

from cokv.types import CokvError

TAG = "_cokv_offer"

# What models hand to an attention function beside tensors, and what does not change plain softmax attention. Seen over
# all causal language models of transformers 5.23; anything else that is not None is refused.
HARMLESS = frozenset(
    {
        "scaling",
        "softcap",  # checked below
        "s_aux",  # checked below
        "dropout",  # refused below where it is not 0
        "is_causal",
        "sliding_window",
        "position_ids",
        "cache_position",
        "use_cache",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "logits_to_keep",
        "return_dict",
        "num_items_in_batch",
    }
)


def in_autocast_dtype(tensor: torch.Tensor) -> torch.Tensor:
    """As attention would cast it under autocast, where RoPE leaves keys in float32 and values are in half precision."""
    device = tensor.device.type
    return tensor.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else tensor


class AttentionLayer(Protocol):
    """A cache layer that takes part in attention.

    Shapes: queries [batch, num_heads, t, head_dim], keys and values [batch, num_kv_heads, n, head_dim].
    """

    index: int  # of the layer in the model

    def attends(self) -> bool:
        """Whether this layer computes attention itself now (it holds more, or less, than the keys it returned)."""

    def check_mask(self, mask: torch.Tensor | None, t: int) -> None:
        """Called before `attend`, which knows no mask, of t new tokens: refuses one that this layer would not follow.

        mask: as for transformers' SDPA, [1 or batch, 1, t, n]; none where each token sees all before it.
        """

    def attend(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        scaling: float,
        sinks: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Output [batch, num_heads, t, head_dim]. sinks [num_heads]: logits without a token, see backend.py."""

    def observe(
        self, queries: torch.Tensor, mask: torch.Tensor | None, scaling: float, sinks: torch.Tensor | None = None
    ) -> None:
        """Called after ordinary attention over the returned keys: record queries, or compress."""


class Offer:
    """Keys and values that a layer has returned from `update`, until they are attended."""

    __slots__ = ("answered", "handshake", "layer", "new_tokens", "values")

    def __init__(self, handshake: Handshake, layer: AttentionLayer, new_tokens: int, values: torch.Tensor) -> None:
        self.handshake, self.layer, self.new_tokens, self.values = handshake, layer, new_tokens, values
        self.answered = False

    def accept(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, settings: dict[str, Any]
    ) -> AttentionLayer:
        """The layer, once it is sure that this call is the answer to its update."""
        layer, handshake = self.layer, self.handshake
        if self.answered or handshake.pending is not self:
            raise handshake.refusal(
                layer, "attends the keys of one cache update more than once, or those of another layer"
            )
        self.answered, handshake.pending = True, None
        if value is not self.values:
            raise handshake.refusal(layer, "changes values between the cache update and attention")
        if query.shape[1] % key.shape[1] or query.shape[1] != (handshake.num_heads or query.shape[1]):
            raise handshake.refusal(
                layer,
                f"attends with {query.shape[1]} query heads over {key.shape[1]} KV heads, its config says "
                f"{handshake.num_heads}",
            )
        if query.shape[2] != self.new_tokens or query.shape[-1] != key.shape[-1]:
            raise handshake.refusal(
                layer,
                f"attends with queries {list(query.shape)}, expected {self.new_tokens} tokens of {key.shape[-1]} "
                "channels, as its new keys have",
            )
        extra = sorted(name for name, value in settings.items() if value is not None and name not in HARMLESS)
        if settings.get("is_causal") is False:
            extra.append("is_causal=False")
        if settings.get("sliding_window") is not None:
            extra.append(f"a sliding window of {settings['sliding_window']} in a layer that its config calls full")
        if settings.get("softcap") != handshake.softcap:
            raise handshake.refusal(
                layer,
                f"attends with a logit cap of {settings.get('softcap')}, its config says "
                f"{handshake.softcap} (attn_logit_softcapping)",
            )
        sinks = settings.get("s_aux")
        if sinks is not None and (got := list(getattr(sinks, "shape", ()))) != [query.shape[1]]:
            raise handshake.refusal(
                layer, f"has attention sinks of shape {got}, expected [{query.shape[1]}], one per query head"
            )
        if extra:
            raise handshake.refusal(
                layer, f"is not plain softmax attention: its attention also takes {', '.join(extra)}"
            )
        return layer


class Handshake:
    """One per cache. `owner`: the model's class, for messages; num_heads: query heads, 0 where unknown; softcap: of its
    attention logits, see cokv/model/shape.py.
    """

    def __init__(self, owner: str = "this model", num_heads: int = 0, softcap: float | None = None) -> None:
        self.owner, self.num_heads, self.softcap = owner, num_heads, softcap
        self.pending: Offer | None = None

    def offer(
        self, layer: AttentionLayer, keys: torch.Tensor, values: torch.Tensor, new_tokens: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What `update` returns: a view of the keys that leads the attention function to the layer, and the values."""
        self.settle()
        view = keys.view(keys.shape)
        self.pending = Offer(self, layer, new_tokens, values)
        setattr(view, TAG, self.pending)
        return view, values

    def settle(self) -> None:
        """Every update so far has been answered."""
        if self.pending is not None:
            layer, self.pending = self.pending.layer, None
            raise self.refusal(
                layer,
                "never attends the keys that its cache returned: it changes them first (latent or repeated keys), its "
                "attention is not reached through transformers' attention interface, or the cache is used with a model "
                "that cokv.compress or cokv.attach was not called on",
            )

    def refusal(self, layer: AttentionLayer, why: str) -> CokvError:
        return CokvError(f"{self.owner}, layer {layer.index}: {why}; use a model with plain keys and values")

    def __deepcopy__(self, memo: dict[int, Any]) -> Handshake:
        return Handshake(self.owner, self.num_heads, self.softcap)

    def __getstate__(self) -> dict[str, Any]:
        return {"owner": self.owner, "num_heads": self.num_heads, "softcap": self.softcap, "pending": None}
