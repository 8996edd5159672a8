"""The arms of benchmarks/decode.py: every cache filled with the same prompt, and its steps."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from measuring import Step
from random_models import uneven_selection
from transformers import DynamicCache, PreTrainedModel, StaticCache

from cokv import probes
from cokv.cache.attention import choose
from cokv.cache.cache import RaggedCache
from cokv.cache.compat import cache_argument
from cokv.cache.policies.growth import Grow
from cokv.cache.prefill import Prefill
from cokv.cluster.machine import available_memory
from cokv.methods.registry import get_method
from cokv.model.shape import model_shape
from cokv.types import Selection

DYNAMIC, STATIC, WEIGHTS = "DynamicCache", "StaticCache, compiled", "weights"
MADE_UP = ("even", "uneven")


class Decoding:
    """One model, one prompt, one batch size: what makes each arm's cache, and its steps."""

    def __init__(self, model: PreTrainedModel, plain: PreTrainedModel, read: Prefill, batch: int) -> None:
        self.model, self.plain, self.read, self.batch = model, plain, read, batch
        self.bytes: dict[str, int] = {}  # of each arm's cache

    def step(self, model: Callable[..., Any], cache: Any, position: int) -> Step:
        """Reads one token per row and gives its logits; every call is the next token."""
        ids = torch.ones(self.batch, 1, dtype=torch.long, device=self.plain.device)
        positions = torch.full((self.batch, 1), position, device=self.plain.device)

        def go() -> None:
            model(input_ids=ids, position_ids=positions, **cache_argument(cache), use_cache=True, logits_to_keep=1)
            positions.add_(1)

        return go

    def rows(self, states: torch.Tensor) -> torch.Tensor:
        return states[None].expand(self.batch, -1, -1, -1).contiguous()

    def dynamic(self) -> Step:
        cache = DynamicCache(config=self.plain.config)
        for layer in self.read.layers:
            cache.update(self.rows(layer.keys), self.rows(layer.values), layer.layer_idx)
        self.bytes[DYNAMIC] = probes.storage_bytes(t for x in cache.layers for t in (x.keys, x.values))
        return self.step(self.plain, cache, self.read.seq_len)

    def weights(self) -> Step:
        return self.step(self.plain, DynamicCache(config=self.plain.config), 0)

    def static(self, steps: int, compiled: Callable[..., Any]) -> Step:
        tokens = self.read.seq_len
        cache = StaticCache(config=self.plain.config, max_cache_len=tokens + steps)
        places = {"cache_position": torch.arange(tokens, device=self.plain.device)}
        for layer in self.read.layers:
            cache.update(self.rows(layer.keys), self.rows(layer.values), layer.layer_idx, places)
        self.bytes[STATIC] = probes.storage_bytes(t for x in cache.layers for t in (x.keys, x.values))
        return self.step(compiled, cache, tokens)

    def ragged(self, name: str, kv_budget: int, attention: str = choose.AUTO) -> Callable[[], Step]:
        """attention: name of a backend. Raises CokvError where the method cannot meet the budget on this prompt."""
        read, shape = self.read, self.read.shape
        policy: Any = Grow()
        if name == "uneven":
            selection = uneven_selection(read, kv_budget)
        elif name == "even":
            selection = _even(read, kv_budget)
        else:
            method = get_method(name)
            budget = kv_budget if method.takes_budget else None
            selection = method.select(read, budget)
            policy = method.bound_policy(budget, read.seq_len, shape.num_layers, shape.num_kv_heads)

        attend, arm = choose.attend_of(attention), arm_name(name, attention)

        def prepare() -> Step:
            cache = RaggedCache.of(read, [selection] * self.batch, [policy] * self.batch, attend=attend)
            self.bytes[arm] = sum(row.bytes + row.host_bytes for row in cache.held())
            return self.step(self.model, cache, read.seq_len)

        return prepare

    def weights_read(self) -> Step:
        """Sums what a step reads of the model: all but the table of embeddings, unless the head is tied to it."""
        tied = self.plain.get_output_embeddings().weight
        skipped = self.plain.get_input_embeddings().weight
        read = [p for p in self.plain.parameters() if p is tied or p is not skipped]
        return lambda: [_plain_sum(part) for part in read]

    def bytes_read(self, size: int) -> Step:
        buffer = torch.ones(max(size // 4, 1), dtype=torch.float32, device=self.plain.device)
        return lambda: buffer.sum()


def arm_name(name: str, attention: str) -> str:
    return name if attention == choose.AUTO else f"{name} by {attention}"


def free_bytes(device: str) -> int:
    """Of the memory that caches lie in."""
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info(device)[0])
    return available_memory()


def backends(model: PreTrainedModel) -> list[str]:
    """Names of the attention backends that this machine has for this model's keys; not the slow reference."""
    head_dim = model_shape(model.config).head_dim
    fit = [b.name for b in choose.describe_backends() if b.available and b.name != "reference"]
    return [n for n in fit if choose.get_backend(n).refusal(model.device, model.dtype, head_dim) is None]


def _plain_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Of its memory as float32: in one pass, whatever its dtype."""
    return tensor.reshape(-1).view(torch.float32).sum() if tensor.numel() % 2 == 0 else tensor.sum()


def _even(read: Prefill, kv_budget: int) -> Selection:
    places = torch.linspace(0, read.seq_len - 1, min(kv_budget, read.seq_len)).long()
    shape = (read.shape.num_layers, read.shape.num_kv_heads)
    counts = torch.full(shape, len(places)).numpy()
    return Selection(places.repeat(shape[0] * shape[1]), counts, read.seq_len)


def made_once(prepare: Callable[[], Step]) -> Callable[[], Step]:
    """Prepared now and kept."""
    step = prepare()
    return lambda: step


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raises TimeoutError in the main thread."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
