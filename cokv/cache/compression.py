"""A prompt compressed inside the forward pass that reads it: what chooses, and what is known until it has chosen.

A layer that can choose by itself is compressed as soon as it has attended the prompt, so that one layer at a time is
dense. Where the choice needs all layers, they stay dense until the last one has been attended.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch

from cokv.cache.attention.masks import prompt_starts
from cokv.cache.pieces import LayerPieces
from cokv.cache.policies.base import Policy
from cokv.cache.policies.growth import Grow
from cokv.cache.prefill import PrefillLayer, observations
from cokv.model.device import LaterChecks
from cokv.model.observe import LayerView, ModelParts, Observer
from cokv.types import CokvError, Selection

if TYPE_CHECKING:
    from cokv.cache.layer import RaggedLayer


class Compression(Protocol):
    """Chooses what stays of a prompt, and what happens afterwards. Picklable, so that a cache is."""

    @property
    def window(self) -> int:
        """How many of the last prompt queries it needs."""

    @property
    def observers(self) -> Sequence[Observer]:
        """What it needs observed of each layer."""

    @property
    def layer_local(self) -> bool:
        """Whether a layer's positions follow from that layer alone."""

    @property
    def positions_are_sound(self) -> bool:
        """Whether `positions` are right by how they are made; others are checked on the host, a wait per layer."""

    def positions(self, layers: Sequence[PrefillLayer], place: int | None) -> list[list[torch.Tensor]]:
        """Kept positions [layer][kv_head], ascending: of all layers, or of full-attention layer `place` alone."""

    def policy(self, seq_len: int) -> Policy:
        """After a prompt of seq_len tokens."""


LayerSelect = Callable[[PrefillLayer], Sequence[torch.Tensor]]


def every_position(layer: PrefillLayer) -> list[torch.Tensor]:
    heads, seq_len, _ = layer.keys.shape
    return [torch.arange(seq_len, device=layer.keys.device)] * heads


@dataclass(frozen=True)
class SelectEachLayer:
    """Any function from a layer to kept positions, and one policy for all prompts."""

    select: LayerSelect = every_position
    window: int = 32
    after: Policy = field(default_factory=Grow)
    layer_local = True

    @property
    def positions_are_sound(self) -> bool:
        return self.select is every_position

    @property
    def observers(self) -> tuple[Any, ...]:
        return self.after.observers

    def positions(self, layers: Sequence[PrefillLayer], place: int | None) -> list[list[torch.Tensor]]:
        return [list(self.select(layer)) for layer in layers]

    def policy(self, seq_len: int) -> Policy:
        return self.after


class PromptReader:
    """What a cache that compresses itself knows until its prompt has been read, and what it does then."""

    def __init__(self, compression: Compression, model: Any = None, tokenizer: Any = None) -> None:
        self.compression, self.tokenizer = compression, tokenizer
        self._model = weakref.ref(model) if model is not None else None
        self.input_ids: torch.Tensor | None = None  # int64 [rows, t], of the forward pass that is running
        self.waiting: dict[int, list[PrefillLayer]] = {}  # by place, where all layers are needed
        self.parts: ModelParts | None = None
        self.needs_inputs = any(getattr(observer, "needs_inputs", False) for observer in compression.observers)
        self.checks = LaterChecks(getattr(compression, "name", ""))  # of all layers, asked when the last is done
        self._starts: tuple[torch.Tensor | None, torch.Tensor] | None = None  # of a mask, for all layers that get it
        self.seq_len: int | None = None  # of a prompt that comes in pieces, padding included
        self.pieces: dict[int, LayerPieces] = {}  # by place, while it does

    def model(self) -> Any:
        """The model this cache was made for, as long as it is there."""
        model = self._model() if self._model else None
        if model is None:
            raise CokvError("this cache has lost its model (it was pickled, or the model is gone); compress again")
        return model

    def model_parts(self) -> ModelParts:
        if self.parts is None:
            self.parts = ModelParts(self._model() if self._model else None, self.tokenizer)
        return self.parts

    def attended(
        self,
        layers: Sequence[RaggedLayer],
        place: int,
        queries: torch.Tensor,
        mask: torch.Tensor | None,
        scaling: float,
    ) -> None:
        """Full-attention layer number `place` has attended the prompt: compresses it, or all of them once all have."""
        layer, rows = layers[place], layers[place].keys.shape[0]
        pieces, read = self._pieces_of(layer, place), layer.keys.shape[2]
        if self.seq_len is not None and read > self.seq_len:
            raise CokvError(f"the prompt has {read} tokens or more, expect_prompt({self.seq_len}) said {self.seq_len}")
        whole = self.seq_len is None or read == self.seq_len
        if whole or (pieces is not None and pieces.adding):
            layer.starts = self._prompt_starts(layer, mask)
        starts = layer.starts.tolist()
        if pieces is not None:

            def view(row: int, own: torch.Tensor) -> LayerView:
                return self._layer_view(layer, row, starts[row], own, scaling)

            queries = pieces.read(queries, view if pieces.adding else None)
            if not whole:
                return
        views = [self._view(layer, row, start, queries, scaling, pieces) for row, start in enumerate(starts)]
        self.pieces.pop(place, None)
        if self.compression.layer_local:
            self._fill(layers, place, views, [self.compression.positions([view], place)[0] for view in views])
            if place == len(layers) - 1:
                self.checks.ask()
            return
        self.waiting[place] = views
        if len(self.waiting) < len(layers):
            return
        by_row = [[self.waiting[each][row] for each in range(len(layers))] for row in range(rows)]
        kept = [self.compression.positions(row, None) for row in by_row]
        for each in range(len(layers)):
            self._fill(layers, each, self.waiting.pop(each), [row[each] for row in kept])

    def _prompt_starts(self, layer: RaggedLayer, mask: torch.Tensor | None) -> torch.Tensor:
        """Where rows begin. All layers of a pass mostly get one mask, which is looked at once."""
        if self._starts is None or mask is None or self._starts[0] is not mask:
            try:
                self._starts = mask, prompt_starts(mask, layer.keys.shape[0], layer.keys.shape[2])
            except CokvError as error:
                raise layer.handshake.refusal(layer, str(error)) from None
        return self._starts[1]

    def _pieces_of(self, layer: RaggedLayer, place: int) -> LayerPieces | None:
        """Of a prompt that comes in pieces."""
        if self.seq_len is None or (layer.keys.shape[2] == self.seq_len and place not in self.pieces):
            return None
        return self.pieces.setdefault(place, LayerPieces(self.compression.window, self.compression.observers))

    def forward_begins(self, input_ids: torch.Tensor | None) -> None:
        if self.pieces and input_ids is not None and self.input_ids is not None:
            input_ids = torch.cat([self.input_ids, input_ids], dim=1)
        self.input_ids, self._starts = input_ids, None

    def forward_ends(self) -> None:
        self._starts = None
        if self.parts is not None:
            self.parts.inputs.clear()

    def reset(self) -> None:
        """What a prompt that failed half-way has left."""
        self.waiting.clear()
        self.pieces.clear()
        self.checks.pending.clear()
        self.seq_len = None
        self.forward_begins(None)

    def _layer_view(self, layer: RaggedLayer, row: int, start: int, queries: torch.Tensor, scaling: float) -> LayerView:
        """One row's prompt, its padding cut off; queries [num_heads, t, head_dim], the row's last ones."""
        keys, values = layer.keys[row, :, start:], layer.values[row, :, start:]
        ids = None if self.input_ids is None else self.input_ids[row, start:]
        own = queries[:, max(queries.shape[1] - keys.shape[1], 0) :]
        cap = layer.backend.softcap
        return LayerView(layer.index, ids, own, keys, values, scaling, self.model_parts(), cap, layer.sinks)

    def _view(
        self,
        layer: RaggedLayer,
        row: int,
        start: int,
        queries: torch.Tensor,
        scaling: float,
        pieces: LayerPieces | None,
    ) -> PrefillLayer:
        """One row's prompt, with what is observed of it."""
        view = self._layer_view(layer, row, start, queries[row], scaling)
        keys, values, own = view.keys, view.values, view.queries
        last = own[:, max(own.shape[1] - self.compression.window, 0) :]
        observed = pieces.observed(row, view) if pieces else observations(self.compression.observers, view)
        if not self.compression.layer_local:
            last = last.clone()  # a view would hold all queries until the last layer is done
        checks, cap = self.checks if self.compression.layer_local else None, layer.backend.softcap
        return PrefillLayer(layer.index, keys, values, last, scaling, observed, 0, checks, cap, layer.sinks)

    def _fill(
        self,
        layers: Sequence[RaggedLayer],
        place: int,
        views: list[PrefillLayer],
        kept: Sequence[Sequence[torch.Tensor]],
    ) -> None:
        layer, heads = layers[place], views[0].keys.shape[0]
        policies, checked = [], []
        for view, positions in zip(views, kept, strict=True):
            seq_len = view.keys.shape[1]
            if len(positions) != heads:
                raise CokvError(
                    f"select gave positions for {len(positions)} heads, expected {heads}, one tensor per KV head"
                )
            if not getattr(self.compression, "positions_are_sound", False):
                selection = Selection.from_heads([list(positions)], seq_len)  # says what is wrong with positions
                positions = [selection.head(0, head) for head in range(heads)]
            checked.append(positions)
            policies.append(self.compression.policy(seq_len).at_layer(place, len(layers)))
        layer.fill(views, checked, policies, layer.starts)

    def __deepcopy__(self, memo: dict[int, Any]) -> PromptReader:
        """For the same model, which is not copied."""
        twin = PromptReader(self.compression, self._model() if self._model else None, self.tokenizer)
        twin.waiting, twin.pieces = copy.deepcopy((self.waiting, self.pieces), memo)
        twin.seq_len = self.seq_len
        return twin

    def __getstate__(self) -> dict[str, Any]:
        """Without the model: a cache that has read its prompt needs none."""
        return {**vars(self), "_model": None, "parts": None, "input_ids": None, "_starts": None}
