"""One layer's ragged cache: each (row, KV head) owns exactly the tokens it keeps.

Keeps the prompt until it has been attended, then hands it to stores (cokv/cache/storage) and lets them answer. Knows no
other layer, and no transformers cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from cokv.cache.attention import choose
from cokv.cache.attention.backend import Attend, Backend
from cokv.cache.attention.handshake import in_autocast_dtype
from cokv.cache.attention.masks import check_plain
from cokv.cache.compat import Layer
from cokv.cache.policies.base import Policy
from cokv.cache.policies.growth import Grow
from cokv.cache.prefill import PrefillLayer, check_heads
from cokv.cache.sliding import check_device
from cokv.cache.storage.mixed import MixedRows
from cokv.cache.storage.ragged import SLACK
from cokv.cache.storage.rows import Kept, MemoryUsage, Rows
from cokv.cache.storage.state import moved
from cokv.model.shape import Shape
from cokv.types import CokvError

AfterPrompt = Callable[["RaggedLayer", torch.Tensor, "torch.Tensor | None", float], None]


class RaggedLayer(Layer):
    """Rows of one layer, in stores of one or more kinds."""

    is_croppable = True  # where `crop` cannot do it, it says why

    def __init__(
        self,
        index: int = 0,
        shape: Shape | None = None,
        slack: int = SLACK,
        attend: Attend = choose.attend,
        after_prompt: AfterPrompt | None = None,
    ) -> None:
        """after_prompt: called with this layer, queries, mask and scaling once the prompt has been attended."""
        super().__init__(index)
        if slack < 1:
            raise CokvError(f"slack of {slack} slots per head; expected at least 1, the room for the next token")
        self.shape, self.slack, self.after_prompt = shape, slack, after_prompt
        self.backend = Backend(attend, shape.softcap if shape is not None else None)
        self.sinks: torch.Tensor | None = None  # of the model, while its prompt is being compressed
        self.rows: MixedRows | None = None  # once the prompt has been compressed
        self.token_kinds: torch.Tensor | None = None  # of the tokens that come next, where they are known
        self.starts = torch.zeros(0, dtype=torch.int64)  # where each row's prompt begins behind its padding
        self.prompt_len = 0  # tokens, padding included
        self.checks_masks = True  # a cache whose layers all get one mask asks but the first

    # ---- filling

    def fill(
        self,
        views: Sequence[PrefillLayer],
        kept: Kept,
        policies: Sequence[Policy] | None = None,
        starts: torch.Tensor | None = None,
    ) -> None:
        """Takes the kept positions (`kept[row][kv_head]`, ascending) out of the prompts: one for all rows, or one each.

        `policies`: one per row; all rows grow by default.
        """
        if not self.is_initialized:
            self.lazy_initialization(views[0].keys, views[0].values)
        policies = policies or [Grow()] * len(kept)
        assert len(policies) == len(kept) and len(views) in (1, len(kept)), (len(views), len(kept), len(policies))
        with torch.inference_mode(False), torch.no_grad():
            self.rows = MixedRows(views, kept, policies, self.slack, self.backend)
        self.starts = torch.zeros(len(kept), dtype=torch.int64) if starts is None else starts
        self.keys = self.values = None
        self.after_prompt = None  # it belongs to the cache, which two-way references would keep in memory

    @property
    def parts(self) -> list[tuple[torch.Tensor, Rows]]:
        """Rows int64, on the CPU, and the store that has them."""
        return [] if self.rows is None else self.rows.parts

    # ---- the cache protocol

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        key_states, value_states = in_autocast_dtype(key_states), in_autocast_dtype(value_states)
        self.tokens_seen += key_states.shape[-2]
        if self.rows is None:
            if self.shape is not None:
                check_heads(key_states, value_states, self.shape, f"{self.handshake.owner}, layer {self.index}")
            if self.keys is None:
                self.lazy_initialization(key_states, value_states)
                self.keys, self.values = key_states, value_states
            else:
                self.keys = torch.cat([self.keys, key_states], dim=-2)
                self.values = torch.cat([self.values, value_states], dim=-2)
            return self.offer(self.keys, self.values, key_states.shape[-2])
        return self.offer(key_states, value_states, key_states.shape[-2])

    def attends(self) -> bool:
        return self.rows is not None

    def observe(
        self, queries: torch.Tensor, mask: torch.Tensor | None, scaling: float, sinks: torch.Tensor | None = None
    ) -> None:
        """After the prompt's dense attention: select, and keep only that."""
        self.prompt_len = self.tokens_seen
        if self.after_prompt is not None:
            self.sinks = sinks
            self.after_prompt(self, queries, mask, scaling)
            self.sinks = None

    def check_mask(self, mask: torch.Tensor | None, t: int) -> None:
        if self.checks_masks:
            check_plain(mask, self.starts, t, self.tokens_seen)

    def attend(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        scaling: float,
        sinks: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Queries [rows, num_heads, t, head_dim] over the stored tokens and the t new ones (causal among these),
        which are then stored. sinks [num_heads]: logits without a token, see backend.py.
        """
        kinds, self.token_kinds = self.token_kinds, None
        new = [queries.shape[0], queries.shape[2]]
        if kinds is not None and list(kinds.shape) != new:
            raise CokvError(f"the model reads tokens {new}, but its input_ids have shape {list(kinds.shape)}")
        assert self.rows is not None
        if len(self.rows) != queries.shape[0]:
            raise CokvError(
                f"the cache holds {len(self.rows)} rows and the model reads {queries.shape[0]}; for beams or several "
                "answers to a prompt that has been read, call cache.batch_repeat_interleave(n) first"
            )
        check_device(self.device, queries.device)
        self.rows.tell(kinds)
        if queries.dtype != self.dtype:  # only the prompt was read under autocast, or only what follows
            queries, keys, values = (x.to(self.dtype) for x in (queries, keys, values))
        return self.rows.attend(queries, keys, values, scaling, sinks)

    def crop(self, tokens_to_remove: int) -> None:
        """Drops the newest tokens, as assisted decoding does: minus their number, or the length to keep."""
        count = self.tokens_to_drop(tokens_to_remove)
        if count == 0:
            return
        if self.rows is None and self.keys is not None:
            self.keys, self.values = self.keys[..., :-count, :], self.values[..., :-count, :]
        else:
            self.check_crop(count)
            assert self.rows is not None
            with torch.inference_mode(False), torch.no_grad():
                self.rows.crop(count)
        self.tokens_seen -= count

    def tokens_to_drop(self, argument: int) -> int:
        """transformers passes minus the number of tokens to drop; older ones a positive length to keep."""
        return max(self.tokens_seen - argument, 0) if argument > 0 else min(-argument, self.tokens_seen)

    def check_crop(self, count: int) -> None:
        """Refuses to drop the newest `count` tokens where they reach into the prompt, or others have been evicted."""
        if self.rows is None:
            return
        if count > self.tokens_seen - self.prompt_len:
            raise CokvError(
                f"crop: {count} tokens reach into the prompt of {self.prompt_len} tokens, which has been compressed "
                "with them; for assisted or prompt-lookup decoding read the prompt first, with cache.prefill(input_ids)"
            )
        if not self.rows.can_crop:
            raise CokvError(
                "crop: a cache that packs tokens or evicted some while decoding cannot give back what it dropped; "
                "use one that only grows (such as snapkv or full) for assisted and prompt-lookup decoding"
            )

    # ---- rows

    def _select(self, rows: torch.Tensor, copies: bool) -> None:
        assert self.rows is not None
        rows = rows.cpu()
        with torch.inference_mode(False), torch.no_grad():
            self.rows.select(rows, copies)
        self.starts = self.starts[rows]

    def reorder_cache(self, rows: torch.Tensor) -> None:
        """Beam search and the like: row i becomes a copy of old row rows[i]."""
        if self.rows is not None:
            self._select(rows, copies=True)
        else:
            super().reorder_cache(rows)  # type: ignore[arg-type]

    def keep_rows(self, rows: torch.Tensor) -> None:
        """Forgets the other rows without moving storage: for rows that have ended."""
        self._select(rows, copies=False)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self.reorder_cache(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        rows = self.keys.shape[0] if self.rows is None else len(self.rows)
        self.reorder_cache(torch.arange(rows).repeat_interleave(repeats))

    def reset(self) -> None:
        checks, handshake = self.checks_masks, self.handshake
        self.__init__(self.index, self.shape, self.slack, self.backend.attend, self.after_prompt)  # type: ignore[misc]
        self.checks_masks, self.handshake = checks, handshake

    def to(self, device: torch.device) -> None:
        """Moves what lies with the model; the same tokens are held."""
        if not self.is_initialized:
            return
        self.device = device
        if self.rows is None:
            self.keys, self.values = self.keys.to(device), self.values.to(device)
        else:
            moved(self.rows, device)

    # ---- what it holds

    def held(self) -> list[MemoryUsage]:
        """Per row."""
        return [] if self.rows is None else self.rows.held()

    @property
    def attention(self) -> str:
        """Name of the backend that attends what is kept; "auto" where it is to be chosen and nothing is known yet."""
        name = choose.name_of(self.backend.attend)
        if name != choose.AUTO or not self.is_initialized:
            return name
        width = self.shape.head_dim if self.shape is not None else 0
        weights = any(getattr(store, "wants_weights", False) for _, store in self.parts)
        return choose.choose(self.device, self.dtype, width, self.backend.softcap, weights)

    @property
    def stored_tokens(self) -> int:
        """KV slots in use, over all rows and heads."""
        if self.rows is not None:
            return sum(usage.slots for usage in self.held())
        return 0 if self.keys is None else self.keys[..., 0].numel()

    @property
    def storage_bytes(self) -> int:
        """Bytes of storage on the device, slack included."""
        if self.rows is not None:
            return self.rows.storage_bytes
        return 0 if self.keys is None else sum(t.untyped_storage().nbytes() for t in (self.keys, self.values))
