"""Prompt in, Prefill out: the full KV cache of one prompt, the window's queries, and the first answer token's logits.

Done once per prompt; every selection on that prompt, of whatever method or coalition, is decoded from it. What else a
method needs of the prompt is observed on the way, and only when asked. Knows no method.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicSlidingWindowLayer

from cokv.cache.attention.attachment import ragged_attention
from cokv.cache.attention.handshake import in_autocast_dtype
from cokv.cache.compat import AnsweringCache, Layer, cache_argument
from cokv.cache.pieces import LayerPieces, check_pieces
from cokv.cache.replay import replay
from cokv.cache.sliding import SlidingLayer
from cokv.model.device import LaterChecks
from cokv.model.observe import LayerView, ModelParts, Observation, Observer, Replayer
from cokv.model.shape import Shape, model_shape
from cokv.types import CokvError


@dataclass(frozen=True, eq=False)
class PrefillLayer:
    """One full-attention layer after prefill. Keys and queries are post-RoPE, and post-norm where a model has one."""

    layer_idx: int  # in the model, sliding layers counted
    keys: torch.Tensor  # [num_kv_heads, seq_len, head_dim]
    values: torch.Tensor  # [num_kv_heads, seq_len, head_dim]
    window_queries: torch.Tensor  # [num_heads, min(window, seq_len), head_dim], of the last prompt tokens
    scaling: float  # of the attention logits
    observed: Mapping[Observer | Replayer, Observation | CokvError] = field(default_factory=dict)
    unread: int = 0  # tokens at the prompt's end that are not among these, and will be read like new ones
    checks: LaterChecks | None = None  # who asks later about what must not be; None: it is asked at once
    softcap: float | None = None  # of the attention logits, see Shape
    sinks: torch.Tensor | None = None  # [num_heads]: logits without a token, where the model has them

    def observation(self, observer: Observer | Replayer) -> Observation:
        """What an observer saw of this layer, or why it saw nothing."""
        observation = self.observed.get(observer)
        if observation is None:
            raise CokvError(
                f"needs {type(observer).__name__}, which this prefill did not look for; "
                "call prefill(..., observers=method.observers)"
            )
        if isinstance(observation, CokvError):
            raise CokvError(str(observation))
        return observation


@dataclass(frozen=True, eq=False)
class Prefill:
    """A prompt's full cache. `sliding` holds transformers' own layers for the layers outside the budget."""

    shape: Shape
    input_ids: torch.Tensor  # int64 [seq_len], on the CPU
    layers: list[PrefillLayer]  # full-attention layers, bottom first
    sliding: dict[int, DynamicSlidingWindowLayer]
    first_logits: torch.Tensor  # [vocab_size], of the token after the prompt
    tokenizer: Any = None  # the model's, where one was given

    @property
    def seq_len(self) -> int:
        return int(self.input_ids.shape[0])

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's K and V in one (layer, KV head)."""
        return 2 * self.shape.head_dim * self.layers[0].keys.element_size()

    @property
    def full_bytes(self) -> int:
        """Bytes of the full cache over all layers that have a budget."""
        return self.shape.num_layers * self.shape.num_kv_heads * self.seq_len * self.token_bytes


class _Recorder(Layer):
    """Keeps everything: K and V as they come, the queries of the last `window` tokens, and what observers see."""

    def __init__(
        self,
        index: int,
        window: int,
        observers: Iterable[Observer],
        input_ids: torch.Tensor,
        parts: ModelParts,
        softcap: float | None,
        in_pieces: bool = False,
    ) -> None:
        super().__init__(index)
        self.window, self.scaling, self.softcap = window, 0.0, softcap
        self.sinks: torch.Tensor | None = None
        self.observers, self.input_ids, self.parts = observers, input_ids, parts
        self.queries: torch.Tensor | None = None
        self.pieces = LayerPieces(window, observers) if in_pieces else None
        self.observed: dict[Observer | Replayer, Observation | CokvError] = {}

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        key_states, value_states = in_autocast_dtype(key_states), in_autocast_dtype(value_states)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
        else:
            assert self.pieces is not None, "a prompt is prefilled in one forward pass"
            self.keys = torch.cat([self.keys, key_states], dim=-2)
            self.values = torch.cat([self.values, value_states], dim=-2)
        self.tokens_seen += key_states.shape[-2]
        return self.offer(self.keys, self.values, key_states.shape[-2])

    def observe(
        self, queries: torch.Tensor, mask: torch.Tensor | None, scaling: float, sinks: torch.Tensor | None = None
    ) -> None:
        self.scaling, self.sinks = scaling, sinks

        def view(row: int, own: torch.Tensor) -> LayerView:
            ids, states = self.input_ids[: self.tokens_seen], (own, self.keys[0], self.values[0])
            return LayerView(self.index, ids, *states, scaling, self.parts, self.softcap, sinks)

        if self.pieces is not None:
            queries = self.pieces.read(queries, view)
        self.queries = queries[:, :, max(queries.shape[2] - self.window, 0) :].clone()
        if self.pieces is None:
            self.observed = observations(self.observers, view(0, queries[0]))
        elif self.tokens_seen == len(self.input_ids):
            self.observed = self.pieces.observed(0, view(0, queries[0]))


class _Recording(AnsweringCache):
    """The cache of one prefill."""

    def __init__(self, layers: list[Any], shape: Shape, parts: ModelParts) -> None:
        super().__init__(layers, shape.num_heads, shape.softcap)
        self.parts = parts

    def attention_begins(self, module: torch.nn.Module, hidden_states: torch.Tensor, kwargs: dict[str, Any]) -> None:
        self.parts.note_inputs(module, hidden_states, kwargs)


def observations(observers: Iterable[Observer], view: LayerView) -> dict[Observer | Replayer, Observation | CokvError]:
    """What each observer saw of a layer, or why it saw nothing."""
    observed: dict[Observer | Replayer, Observation | CokvError] = {}
    for observer in observers:
        try:
            observed[observer] = observer.observe(view)
        except CokvError as error:
            observed[observer] = error
    return observed


def check_prompt(input_ids: torch.Tensor, context_length: int, new_tokens: int = 0) -> None:
    """A prompt must be one non-empty row of ids that, with what is to be generated, the model has positions for."""
    if input_ids.ndim != 1 or input_ids.numel() == 0:
        raise CokvError(f"prompt ids have shape {list(input_ids.shape)}, expected one non-empty row [seq_len]")
    needed = input_ids.numel() + new_tokens
    if needed > context_length:
        raise CokvError(
            f"prompt of {input_ids.numel()} tokens plus {new_tokens} to generate is longer than the model's "
            f"{context_length} positions; shorten the prompt (`length` of the task) or use a model that has more"
        )


def check_heads(keys: torch.Tensor, values: torch.Tensor, shape: Shape, where: str) -> None:
    """keys, values [batch, num_kv_heads, n, head_dim], of the model that the shape says; `where` begins the message."""
    expected = (shape.num_kv_heads, shape.head_dim)
    for name, states in (("keys", keys), ("values", values)):
        if (states.shape[1], states.shape[3]) != expected:
            raise CokvError(
                f"{where}: {name} of {states.shape[1]} heads with {states.shape[3]} channels, expected "
                f"{expected[0]} with {expected[1]}, the same in every layer; use a model with plain K and V"
            )


@torch.no_grad()
def prefill(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    window: int = 32,
    observers: Iterable[Observer | Replayer] = (),
    tokenizer: Any = None,
    chunk_size: int | None = None,
) -> Prefill:
    """Runs the prompt (int64 [seq_len]) once with full attention. `window`: how many of its last queries to keep.

    `observers`: what else to look at, see observe.py; a replayer costs further passes. `tokenizer`: the model's, for
    observers, and rules while decoding, that must know what a token says. `chunk_size`: tokens read at a time, for
    prompts whose activations do not fit; observers that must see all queries at once are refused.
    """
    shape = model_shape(model.config)
    check_prompt(input_ids, shape.context_length)
    full = set(shape.full_layers)
    ids = input_ids.to(model.device)
    parts = ModelParts(model, tokenizer)
    requested = list(dict.fromkeys(observers))
    watching = [o for o in requested if not isinstance(o, Replayer)]
    if chunk_size is not None:
        if isinstance(chunk_size, bool) or not isinstance(chunk_size, int) or chunk_size < 1:
            raise CokvError(f"chunk_size is {chunk_size!r}, expected a positive number of tokens read at a time")
        check_pieces(watching)
    layers: list[Any] = [
        _Recorder(i, window, watching, ids, parts, shape.softcap, chunk_size is not None)
        if i in full
        else SlidingLayer(shape.sliding_window or 0, spare=1)
        for i in range(shape.num_hidden_layers)
    ]
    cache = _Recording(layers, shape, parts)
    with ragged_attention(model, inputs=any(getattr(observer, "needs_inputs", False) for observer in watching)):
        for piece in ids[None].split(chunk_size or ids.numel(), dim=1):
            logits = model(input_ids=piece, **cache_argument(cache), use_cache=True, logits_to_keep=1).logits
    parts.inputs.clear()
    sliding = {i: layers[i] for i in range(len(layers)) if i not in full}
    for i in shape.full_layers:
        if layers[i].queries is None:
            raise CokvError(
                f"layer {i} of {type(model).__name__} keeps no keys and values of its own; "
                "use a model whose layers all cache theirs"
            )
        check_heads(layers[i].keys, layers[i].values, shape, f"{type(model).__name__}, layer {i}")
    for replayer in (o for o in requested if isinstance(o, Replayer)):
        pairs = {i: (layers[i].keys, layers[i].values) for i in shape.full_layers}
        try:
            observation: Mapping[int, Observation | CokvError] = replay(
                model, ids, pairs, sliding, replayer, parts, shape
            )
        except CokvError as error:
            observation = dict.fromkeys(shape.full_layers, error)
        for i in shape.full_layers:
            layers[i].observed[replayer] = observation[i]
    return Prefill(
        shape=shape,
        input_ids=input_ids.cpu(),
        layers=[
            PrefillLayer(
                i,
                layer.keys[0],
                layer.values[0],
                layer.queries[0],
                layer.scaling,
                layer.observed,
                softcap=layer.softcap,
                sinks=layer.sinks,
            )
            for i, layer in ((i, layers[i]) for i in shape.full_layers)
        ],
        sliding=sliding,
        first_logits=logits[0, -1].float(),
        tokenizer=tokenizer,
    )
