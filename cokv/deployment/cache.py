"""The cache of one model by one method: what a user of `cokv.compress` holds.

Adds to RaggedCache what needs the model or the ids that were read: reading a prompt first or in pieces, files, graphs.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from hashlib import sha256
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from cokv import __version__
from cokv.cache.attention import choose
from cokv.cache.attention.attachment import text_part
from cokv.cache.cache import RaggedCache
from cokv.cache.files import write_cache
from cokv.cache.layer import RaggedLayer
from cokv.cache.loaded import Loaded
from cokv.cache.pieces import check_pieces
from cokv.cache.policies.base import Policy
from cokv.cache.prefill import prefill
from cokv.cache.storage.rows import MemoryUsage
from cokv.cache.tokens_read import TokensRead
from cokv.decode.batches import Row
from cokv.decode.graphed import GraphedStep
from cokv.decode.rerun import expect_last, holding_last, without_last
from cokv.deployment.compression import MethodCompression
from cokv.deployment.memory import CacheMemory
from cokv.model.identity import model_identity
from cokv.types import CokvError, Selection


class CompressedCache(RaggedCache):
    """What `compress` returns. `memory()` says what it holds; `reset()` makes it ready for another prompt; `save()`
    writes it to a file, which `cokv.load_cache` reads; `to()` moves it to another device.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        compression: MethodCompression | Loaded,
        tokenizer: Any = None,
        attention: str = choose.AUTO,
    ) -> None:
        super().__init__(
            model.config, compression, attend=choose.attend_of(attention), model=model, tokenizer=tokenizer
        )
        self.compression = compression
        self.tokens = TokensRead()
        self.holds_prompt = False  # since it was read by `prefill` or from a file the model has not read on

    def forward_begins(self, owner: str, input_ids: torch.Tensor | None) -> None:
        if self.compression.further_passes and self._prompt_unread:
            assert isinstance(self.compression, MethodCompression)
            raise CokvError(
                f"{self.compression.method.name}: reads the prompt a second time, which model.generate does not do; "
                "call cache.prefill(input_ids) first, then generate with the same input_ids"
            )
        super().forward_begins(owner, input_ids)
        self.holds_prompt = False
        self.tokens.read(self.get_seq_length(), input_ids)

    def already_read(self, input_ids: torch.Tensor, positions: torch.Tensor | None = None) -> int:
        """The prompt of `prefill`, where the next forward pass is handed all of it, as assisted decoding does."""
        read = self.get_seq_length()
        known = self.tokens.first(read) if self.holds_prompt else None
        if known is None or known.shape[0] != input_ids.shape[0] or read >= input_ids.shape[1]:
            return 0
        if positions is not None and int(positions[..., 0].min()) > 1:
            return 0  # a text that begins as the prompt does, but comes after it; padding has position 0 or 1
        return read if torch.equal(input_ids[:, :read], known.to(input_ids.device)) else 0

    @property
    def input_ids(self) -> torch.Tensor | None:
        """The tokens read so far, int64 [rows, tokens], padding included; after `prefill` its whole prompt. None where
        the model was given embeddings.
        """
        return self.tokens.first(self.tokens.known if self.holds_prompt else self.get_seq_length())

    @property
    def attention_mask(self) -> torch.Tensor | None:
        """0 where `input_ids` are padding, else 1: int64 [rows, tokens]."""
        ids = self.input_ids
        if ids is None or self._prompt_unread:
            return None
        starts = self.ragged_layers[0].starts.to(ids.device)
        return (torch.arange(ids.shape[1], device=ids.device) >= starts[:, None]).long()

    def save(self, path: str | os.PathLike[str], input_ids: bool = True) -> None:
        """Writes all that this cache holds to a safetensors file: a compressed context that can be shipped.

        `cokv.load_cache` goes on from it, bit for bit on the same device, with this model only, whose weights are
        identified by a digest. input_ids: whether the tokens read are written too, so that a question can be joined to
        them; without, the file has their number and sha256. Raises CokvError where no prompt has been read, or the
        file cannot be written; a file of that name is then what it was.
        """
        assert self.prompt is not None
        model = self.prompt.model()
        if self._prompt_unread:
            raise CokvError(
                "save: this cache has read no prompt; run the model on one, or call cache.prefill(input_ids)"
            )
        ids, identity = self.input_ids, model_identity(model, text_part(model))
        versions = {"cokv": __version__, "torch": str(torch.__version__), "transformers": transformers.__version__}
        facts = {
            "model": asdict(identity),
            "method": self.compression.facts(),
            "tokens": {
                "rows": len(self.held()),
                "read": self.get_seq_length(),
                "prompt": self.ragged_layers[0].prompt_len,
                "ids": None if ids is None else list(ids.shape),
                "sha256": None if ids is None else sha256(ids.cpu().contiguous().numpy().tobytes()).hexdigest(),
            },
            "memory": asdict(self.memory()),
            "attention": choose.name_of(self.ragged_layers[0].backend.attend),
            "versions": versions,
        }
        write_cache(path, self, facts, {} if ids is None or not input_ids else {"input_ids": ids.int().cpu()})

    # ---- rows

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        super().reorder_cache(beam_idx)  # type: ignore[arg-type]  # transformers names a class of integers
        self.tokens.select(beam_idx)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        super().batch_select_indices(indices)
        self.tokens.select(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        if self.tokens.room is not None:
            self.tokens.select(torch.arange(len(self.tokens.room)).repeat_interleave(repeats))

    def keep_rows(self, rows: torch.Tensor) -> None:
        super().keep_rows(rows)
        self.tokens.select(rows)

    def crop(self, tokens_to_remove: int) -> None:
        super().crop(tokens_to_remove)
        self.holds_prompt = False

    def reset(self) -> None:
        if isinstance(self.compression, Loaded):
            raise CokvError(self.compression.no_prompt)
        super().reset()
        self.tokens, self.holds_prompt = TokensRead(), False

    def expect_prompt(self, seq_len: int) -> None:
        """Says how long the next prompt is, padding included, so that it may come in several forward passes.

        For `model.generate(..., prefill_chunk_size=n)`: the cache compresses when it has read seq_len tokens, and keeps
        what it would have kept of one pass. Until then all layers are dense. Without this the first forward pass is the
        prompt. Raises CokvError for a method that must see all queries at once, and where a prompt has been read.
        """
        assert self.prompt is not None
        if isinstance(seq_len, bool) or not isinstance(seq_len, int) or seq_len < 1:
            raise CokvError(f"expect_prompt: seq_len is {seq_len!r}, expected the prompt's number of tokens")
        if self.get_seq_length():
            raise CokvError("expect_prompt: this cache has read a prompt already; call cache.reset() first")
        self._check_pieces()
        self.prompt.seq_len = seq_len

    def _check_pieces(self) -> None:
        assert self.prompt is not None
        try:
            check_pieces(self.prompt.compression.observers)
        except CokvError as error:
            raise CokvError(f"{self.prompt.checks.who}: {error}") from None

    def prefill(self, input_ids: torch.Tensor, chunk_size: int | None = None) -> None:
        """Reads and compresses a prompt, int64 [rows, seq_len], each row without padding, before `model.generate`.

        All tokens count when the method chooses; the last one is then left to be read again on the compressed cache,
        so that `model.generate` with the same ids, or with more behind them, goes on from here. Makes the further
        passes of methods that need them, and is what assisted decoding needs.

        chunk_size: tokens read at a time, for prompts whose activations do not fit in memory. What is kept is the same;
        a method that must see all queries at once is refused. All layers are dense until the whole prompt is read.
        """
        assert self.prompt is not None
        model = self.prompt.model()
        if input_ids.ndim == 1:
            input_ids = input_ids[None]
        if self.get_seq_length():
            raise CokvError("cache.prefill: this cache has read a prompt already; call cache.reset() first")
        if input_ids.ndim != 2 or input_ids.shape[1] < 2:
            raise CokvError(f"cache.prefill: ids have shape {list(input_ids.shape)}, expected [rows, 2 or more tokens]")
        assert isinstance(self.compression, MethodCompression), "a loaded cache has read its prompt"
        method, rows = self.compression.method, []
        if chunk_size is not None:
            self._check_pieces()
        for ids in input_ids:
            read = prefill(model, ids, self.compression.window, method.observers, self.prompt.tokenizer, chunk_size)
            selection = method.select(read, self.compression.kv_budget, self.compression.profile)
            policy = self.compression.policy(read.seq_len)
            whole = holding_last([Row(selection, policy)])[0]
            assert isinstance(whole, Selection)
            rows.append((without_last(read), whole, policy))
        self._take(rows)
        self.tokens.read(0, input_ids)
        self.holds_prompt = True

    def _take(self, rows: list[tuple[Any, Selection, Policy]]) -> None:
        """Fills every layer: (prompt without its last token, selection, policy) of each row."""
        shape = self.compression.shape
        for place, layer in enumerate(self.ragged_layers):
            views = [read.layers[place] for read, _, _ in rows]
            kept = [[whole.head(place, h) for h in range(shape.num_kv_heads)] for _, whole, _ in rows]
            layer.fill(views, kept, [policy.at_layer(place, shape.num_layers) for _, _, policy in rows])
            layer.tokens_seen = layer.prompt_len = rows[0][0].seq_len
        for index, sliding in rows[0][0].sliding.items():
            layers = [read.sliding[index] for read, _, _ in rows]
            sliding.keys = torch.cat([layer.keys for layer in layers])
            sliding.values = torch.cat([layer.values for layer in layers])
            self.layers[index] = sliding
        expect_last(self)
        self._know_kinds([policy for _, _, policy in rows], self.prompt.tokenizer if self.prompt else None)

    def graphed(self) -> GraphedStep:
        """A step of this cache's model as one CUDA graph, for a loop of one's own; see cokv/decode/graphed.py.

        The prompt must have been read. `model.generate` cannot be served: it calls the model itself.
        """
        assert self.prompt is not None
        return GraphedStep(self.prompt.model(), self)

    def memory(self) -> CacheMemory:
        """What the cache holds now, over all rows and all layers with a budget."""
        layers = self.ragged_layers
        read = sum(self._tokens_read(layer) for layer in layers)
        token = 2 * self.compression.shape.head_dim * (layers[0].dtype.itemsize if layers[0].is_initialized else 0)
        if self._prompt_unread:  # dense still, or empty: nothing has been compressed
            usage = MemoryUsage(self.stored_tokens, self.stored_tokens * token)
        else:
            usage = sum(self.held(), MemoryUsage(0, 0))
        slack = self.storage_bytes - usage.bytes
        return CacheMemory(read, usage.slots, read * token, usage.bytes, slack, usage.host_bytes)

    def _tokens_read(self, layer: RaggedLayer) -> int:
        """Tokens times KV heads, padding left out: what a full cache would hold of this layer."""
        if not layer.tokens_seen:
            return 0
        rows = len(layer.rows) if layer.rows is not None else layer.keys.shape[0]
        padding = int(layer.starts.sum()) if layer.rows is not None else 0
        return (rows * layer.tokens_seen - padding) * self.compression.shape.num_kv_heads
