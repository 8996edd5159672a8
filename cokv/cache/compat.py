"""The one place that knows transformers' less public sides, and how they changed from 5.2 (oldest supported) to 5.24.

5.2 passes `cache_position` where later versions pass the number of new tokens, and calls the capacity
`get_max_cache_shape`. Neither version can take an attention function back, and masks are only made for names in the
interface's class-wide mapping.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from packaging.version import Version
from transformers import AttentionInterface
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from cokv.cache.attention.handshake import Handshake
from cokv.types import CokvError


def token_count(query: int | torch.Tensor) -> int:
    """The number of new tokens, which older versions pass as their positions."""
    return query if isinstance(query, int) else int(query.shape[0])


class Layer(CacheLayerMixin):  # type: ignore[no-untyped-call]  # transformers' classes are partly untyped
    """A cache layer that reports how many tokens it has *seen*, not how many it stores: RoPE and masks stay right."""

    is_sliding = False
    is_compileable = False
    is_croppable = False
    keys: Any  # a tensor once there is one
    values: Any

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)  # type: ignore[no-untyped-call]

    def __init__(self, index: int = 0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.index = index  # in the model
        self.handshake = Handshake()  # a cache gives its layers one that they share
        self.tokens_seen = 0

    def offer(self, keys: torch.Tensor, values: torch.Tensor, new_tokens: int) -> Any:
        """What `update` returns: keys and values that must be attended next, and once."""
        return self.handshake.offer(self, keys, values, new_tokens)

    def observe(
        self, queries: torch.Tensor, mask: torch.Tensor | None, scaling: float, sinks: torch.Tensor | None = None
    ) -> None:
        raise AssertionError(f"{type(self).__name__} attends itself")

    def attend(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        scaling: float,
        sinks: torch.Tensor | None = None,
    ) -> torch.Tensor:
        raise AssertionError(f"{type(self).__name__} leaves attention to transformers")

    def attends(self) -> bool:
        return False

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True

    def check_mask(self, mask: torch.Tensor | None, t: int) -> None:
        """Nothing, where only this package runs the model, and passes no mask of its own."""

    def get_seq_length(self, *args: Any) -> int:
        return self.tokens_seen

    def get_mask_sizes(self, query: int | torch.Tensor) -> tuple[int, int]:
        return self.tokens_seen + token_count(query), 0

    def get_max_length(self) -> int:
        return -1

    def offload(self) -> None:
        raise CokvError(
            "a compressed cache cannot be offloaded layer by layer; its method `arkvale` keeps pages in CPU memory"
        )

    def crop(self, tokens_to_remove: int) -> None:
        raise CokvError(f"{type(self).__name__} cannot drop tokens it has read")

    def get_max_cache_shape(self) -> int:
        return -1


ATTENTION_FUNCTIONS = ALL_ATTENTION_FUNCTIONS
CACHE_NAMES = ("past_key_values", "cache")  # what models call their cache: before 5.24, and since
_CACHE_NAME = CACHE_NAMES[Version(transformers.__version__) >= Version("5.24.dev0")]


def cache_argument(cache: Any) -> dict[str, Any]:
    """The keyword argument that gives a model its cache; the older name warns where the newer one is known."""
    return {_CACHE_NAME: cache}


def register_attention(name: str, attention: Callable[..., Any], base: str = "sdpa") -> None:
    """Makes `name` an attention implementation, with the masks of `base`."""
    masks = AttentionMaskInterface()  # type: ignore[no-untyped-call]
    AttentionInterface.register(name, attention)
    if base in masks:
        AttentionMaskInterface.register(name, masks[base])


def unregister_attention(name: str) -> None:
    for interface in (AttentionInterface, AttentionMaskInterface):
        interface._global_mapping.pop(name, None)


@contextmanager
def attention_functions_kept() -> Iterator[None]:
    """Undoes what is done inside to transformers' table of attention functions."""
    before = dict(ALL_ATTENTION_FUNCTIONS._local_mapping)
    try:
        yield
    finally:
        ALL_ATTENTION_FUNCTIONS._local_mapping.clear()
        ALL_ATTENTION_FUNCTIONS._local_mapping.update(before)


class AnsweringCache(Cache):
    """A cache whose layers take part in attention, under one handshake."""

    def __init__(self, layers: list[Any], num_heads: int, softcap: float | None = None) -> None:
        super().__init__(layers=layers)  # type: ignore[no-untyped-call]
        self.handshake = Handshake(num_heads=num_heads, softcap=softcap)
        for layer in self.layers:
            if isinstance(layer, Layer):
                layer.handshake = self.handshake

    def forward_begins(self, owner: str, input_ids: torch.Tensor | None) -> None:
        """Called by a hook of the model. owner: its class; input_ids int64 [rows, t], None for embeddings."""
        self.handshake.owner, self.handshake.pending = owner, None

    def already_read(self, input_ids: torch.Tensor, positions: torch.Tensor | None = None) -> int:
        """How many of the first of these ids, int64 [rows, t], this cache has read and shall not read again.

        positions: of the ids, int64 [.., t], where the model is given them.
        """
        return 0

    def forward_ends(self) -> None:
        self.handshake.settle()

    def attention_begins(self, module: torch.nn.Module, hidden_states: torch.Tensor, kwargs: dict[str, Any]) -> None:
        """Called before each attention module, where its inputs are wanted."""
