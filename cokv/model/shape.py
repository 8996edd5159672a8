"""The numbers of a model that caches and budgets need, read from its config; what cannot be held is refused here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cokv.types import CokvError

KINDS = {"full_attention", "sliding_attention"}


@dataclass(frozen=True)
class Shape:
    """The numbers of a model that the engine and the budgets need."""

    num_hidden_layers: int
    full_layers: tuple[int, ...]  # indices of full-attention layers: the layers that have a budget
    sliding_window: int | None
    num_heads: int
    num_kv_heads: int
    head_dim: int
    context_length: int  # positions; of a config that names no limit, the largest int32
    softcap: float | None = None  # attention logits x become softcap * tanh(x / softcap), as in Gemma 2

    @property
    def num_layers(self) -> int:
        """Layers that take part in the budget."""
        return len(self.full_layers)

    @property
    def group_size(self) -> int:
        return self.num_heads // self.num_kv_heads

    @property
    def notes(self) -> tuple[str, ...]:
        """What a record must say about this model."""
        sliding = self.num_hidden_layers - self.num_layers
        if not sliding:
            return ()
        return (
            f"{sliding} sliding-window layers of {self.sliding_window} tokens keep their own cache, outside the budget",
        )


def model_shape(config: Any) -> Shape:
    """Reads a transformers config. Refuses what a ragged cache cannot hold: linear, chunked or latent attention, layers
    that share K and V or differ in shape, and models all of whose layers are sliding.
    """
    config = config.get_text_config(decoder=True)
    count, heads = (_number(config, name) for name in ("num_hidden_layers", "num_attention_heads"))
    for name, what in REFUSED.items():
        if _optional(config, name):
            raise CokvError(f"it has {what} ({name} is {_optional(config, name)!r}), which is not supported")
    for name in LOOPS:
        if (_optional(config, name) or 1) > 1:
            raise CokvError(f"it runs layers more than once ({name} is {_optional(config, name)}), not supported")
    window = _optional(config, "sliding_window")
    types = _optional(config, "layer_types")
    if types is None:
        types = ["sliding_attention" if window is not None else "full_attention"] * count
    if unknown := sorted({str(kind) for kind in types} - KINDS):
        raise CokvError(f"it has layers of type {', '.join(unknown)}; expected only {', '.join(sorted(KINDS))}")
    full = tuple(i for i, kind in enumerate(types) if kind == "full_attention")
    if not full:
        raise CokvError(
            f"all {count} layers of this model use a sliding window of {window} tokens: there is no KV cache to budget"
        )
    kv_heads = 1 if _optional(config, "multi_query") else _optional(config, "num_key_value_heads") or heads
    return Shape(
        num_hidden_layers=count,
        full_layers=full,
        sliding_window=window if len(full) < count else None,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=_optional(config, "head_dim") or _number(config, "hidden_size") // heads,
        context_length=_optional(config, "max_position_embeddings") or UNLIMITED,
        softcap=_optional(config, "attn_logit_softcapping"),
    )


UNLIMITED = (1 << 31) - 1
REFUSED = {
    "kv_lora_rank": "latent keys and values",
    "num_kv_shared_layers": "layers that use the keys and values of others",
    "cross_attention_layers": "cross-attention layers",
}
LOOPS = ("n_recurrent_loops", "loop_num_passes")  # how often: each time with keys and values of its own


def _optional(config: Any, name: str) -> Any:
    """None where the config has no such value. One that differs from layer to layer is refused."""
    try:
        return getattr(config, name, None)
    except Exception as error:  # transformers raises errors of several kinds for values per layer
        raise CokvError(f"its layers differ in {name} ({type(error).__name__}); expected one value for all") from None


def _number(config: Any, name: str) -> int:
    value = _optional(config, name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise CokvError(f"its config has no single {name} (got {value!r}); expected a decoder with attention layers")
    return value
