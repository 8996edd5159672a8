"""What one decode step asks of a GPU, per layer, method and attention backend: operators, bytes and waits. Needs none.

    python benchmarks/launches.py --out benchmarks/results/launches.json

A layer of Llama-3-8B's shape is filled on the CPU by `cokv.compress`, its stores are moved to a CUDA device that is
not there (FakeTensorMode: shapes without numbers), and one step is run through `layer.attend`. Counted are

    launches  operators that compute; a view or an allocation is none. Some, such as logsumexp, are several kernels
    mib       MiB that these operators read and write, each counted by itself; attention reads the K and V that are held
    waits     numbers that the host asks of the device: a step that has any leaves the GPU idle

Kernels that cannot run here are stood in for by their shapes; a step that asks for a number that is only on the device
cannot go on, and is said to wait. The first step after the prompt may lay storage out anew, and is not the one counted.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from measuring import Record, Table
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM

import cokv
from cokv.cache.attention import choose, flash, sequences, triton_decode
from cokv.cache.layer import RaggedLayer

DEVICE = torch.device("cuda:0")
MODE = FakeTensorMode()
HEADS, KV_HEADS, DIM = 32, 8, 128
METHODS = ("full", "snapkv", "adakv", "streamingllm", "h2o", "tova", "cake", "scissorhands")
BACKENDS = ("auto", "buckets", "varlen", "flash", "triton")
NO_KERNEL = ("empty", "empty_like", "empty_strided", "new_empty", "detach", "lift_fresh", "_unsafe_view", "pin_memory")
ASKING = ("_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select", "_unique2", "unique_dim")
GATHERS = ("index", "index_select", "gather", "embedding")
SCATTERS = ("index_put", "index_put_", "_index_put_impl_", "index_copy_", "index_copy", "scatter_", "index_add")
ATTENTION = ("_varlen_attn", "_flash_attention_forward")
PROCESSORS = 132  # of the GPU that the Triton grid is made for: an H100


class Counter(TorchDispatchMode):
    """Counts what is dispatched to the device. held: bytes of K and V that attention reads."""

    def __init__(self, held: int) -> None:
        super().__init__()
        self.held, self.names, self.bytes, self.waits = held, [], 0, []  # type: ignore[var-annotated]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.partition(".")[0]
        inputs = [each for each in tree_leaves((args, kwargs or {})) if isinstance(each, torch.Tensor)]
        on_device = any(each.device.type == "cuda" for each in inputs)
        if on_device and (name in ASKING or _by_mask(name, args)):
            self.waits.append(name)
        out = func(*args, **(kwargs or {}))
        outputs = [each for each in tree_leaves(out) if isinstance(each, torch.Tensor)]
        if on_device and any(each.device.type == "cpu" for each in outputs):
            self.waits.append(f"{name} to the CPU")
        if any(each.device.type == "cuda" for each in outputs) and not func.is_view and name not in NO_KERNEL:
            self.names.append(name)
            self.bytes += self._moved(name, inputs, outputs)
        return out

    def _moved(self, name: str, inputs: list[torch.Tensor], outputs: list[torch.Tensor]) -> int:
        if name in ATTENTION:
            return self.held + _nbytes(inputs[0]) + _nbytes(outputs[0])
        if name in GATHERS:
            return 2 * sum(map(_nbytes, outputs))
        if name in SCATTERS:
            return 2 * _nbytes(inputs[-1])
        return sum(map(_nbytes, inputs)) + sum(map(_nbytes, outputs))


class Kernels:
    """In place of triton_kernels: counts launches, knows what they move."""

    def __init__(self, counter: Counter) -> None:
        self.counter = counter

    def __getattr__(self, name: str) -> Any:
        def launch(*arguments: Any, **constants: Any) -> None:
            self.counter.names.append(f"triton {name}")
            stored = {id(each) for each in arguments[1:3]} if name == "split" else set()  # keys and values
            tensors = {id(each): each for each in arguments if isinstance(each, torch.Tensor)}
            self.counter.bytes += sum(_nbytes(each) for i, each in tensors.items() if i not in stored)
            self.counter.bytes += self.counter.held if stored else 0

        class Grid:
            def __getitem__(self, grid: Any) -> Any:
                return launch

        return Grid()


def _nbytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _by_mask(name: str, args: Any) -> bool:
    return name in ("index", "index_put", "index_put_") and any(
        isinstance(each, torch.Tensor) and each.dtype == torch.bool for each in tree_leaves(args[1])
    )


class Asked(Exception):
    """The host asked the device for a number."""


def _asking(name: str) -> Any:
    of_host = getattr(torch.Tensor, name)

    def ask(tensor: torch.Tensor, *arguments: Any) -> Any:
        if tensor.device.type == "cuda":
            raise Asked(name)
        return of_host(tensor, *arguments)

    return patch.object(torch.Tensor, name, ask)


@contextmanager
def with_gpu(kernels: Any) -> Iterator[None]:
    """As if this machine had a GPU and the libraries for it, as far as our own code asks."""
    caches = choose.choose, choose.step_of, sequences.int32
    with ExitStack() as stack:
        stack.enter_context(patch.object(choose, "missing", lambda name: None))
        stack.enter_context(patch.object(triton_decode, "_kernels", lambda: kernels))
        stack.enter_context(patch.object(triton_decode, "_on", lambda device: nullcontext()))
        stack.enter_context(patch.object(triton_decode, "_processors", lambda device: PROCESSORS))
        stack.enter_context(patch.object(flash, "_forward", lambda: _flash_shapes))
        stack.enter_context(patch.object(torch.Tensor, "pin_memory", lambda tensor: tensor))
        for name in ("__bool__", "__int__", "__float__", "__index__", "item", "tolist", "numpy"):
            stack.enter_context(_asking(name))
        stack.enter_context(patch.object(torch.Tensor, "__getitem__", _getitem))
        stack.enter_context(patch.object(torch.Tensor, "__setitem__", _setitem))
        stack.enter_context(patch.object(torch.Tensor, "__invert__", lambda tensor: torch.ops.aten.bitwise_not(tensor)))
        for cached in caches:
            cached.cache_clear()
        yield
        for cached in caches:
            cached.cache_clear()


def _getitem(tensor: torch.Tensor, index: Any) -> torch.Tensor:
    """`tensor[index]` by operators: torch without CUDA refuses the brackets for a device that is not there."""
    indices = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in [each for each in indices if not isinstance(each, torch.Tensor)]:
        at = next(i for i, each in enumerate(indices) if each is Ellipsis)
        named = sum(each is not None for each in indices) - 1
        indices[at : at + 1] = [slice(None)] * (tensor.ndim - named)
    dim, by_tensor = 0, []
    for each in indices:
        if isinstance(each, int):
            tensor = tensor.select(dim, each)
            continue
        if each is None:
            tensor = tensor.unsqueeze(dim)
        elif isinstance(each, slice):
            tensor = torch.ops.aten.slice(tensor, dim, each.start, each.stop, each.step or 1)
        by_tensor.append(each if isinstance(each, torch.Tensor) else None)
        dim += 1
    found = any(each is not None for each in by_tensor)
    return torch.ops.aten.index(tensor, by_tensor) if found else tensor


def _setitem(tensor: torch.Tensor, index: Any, value: Any) -> None:
    indices = index if isinstance(index, tuple) else (index,)
    if all(isinstance(each, torch.Tensor) for each in indices):
        value = value if isinstance(value, torch.Tensor) else torch.full((), value, dtype=tensor.dtype, device=DEVICE)
        torch.ops.aten.index_put_(tensor, list(indices), value)
    elif isinstance(value, torch.Tensor):
        torch.ops.aten.copy_(_getitem(tensor, index), value)
    else:
        _getitem(tensor, index).fill_(value)


def _flash_shapes(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *more: Any, **settings: Any) -> Any:
    """flash-attn's forward, as torch's own operator."""
    used = settings["seqused_k"]
    return torch.ops.torch_attn._varlen_attn(q, k, v, more[0], more[1], 1, more[3], scale=more[5], seqused_k=used)


def moved(value: Any) -> Any:
    """A tensor on the device that is not there; lists and stores with theirs moved."""
    if isinstance(value, torch.Tensor):
        with MODE:
            return torch.empty(value.shape, dtype=value.dtype, device=DEVICE)
    if isinstance(value, torch.device):
        return DEVICE
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return type(value)(moved(each) for each in value)
    if type(value).__module__.startswith("cokv.cache.storage") and hasattr(value, "__dict__"):
        for name, each in vars(value).items():
            object.__setattr__(value, name, moved(each))
    return value


def filled(method: str, backend: str, rows: int, prompt_tokens: int, kv_budget: int) -> tuple[RaggedLayer, int]:
    """A layer that has read a prompt and a token on the CPU, and the bytes of K and V that it holds."""
    model = _model()
    ids = torch.randint(0, 100, (rows, prompt_tokens), generator=torch.Generator().manual_seed(0))
    chosen = cokv.get_method(method)
    small = {"window_size": min(32, kv_budget // 2)} if "window_size" in chosen.parameters else {}
    cache = cokv.compress(model, method, kv_budget if chosen.takes_budget else None, attention="reference", **small)
    with torch.no_grad():
        for new in (ids, ids[:, :1]):  # the first step may lay storage out anew
            model(new, past_key_values=cache)
    layer = cache.ragged_layers[0]
    assert layer.rows is not None
    held = cache.memory().tokens_held * 2 * DIM * 2
    attend = choose.attend if backend == choose.AUTO else choose._module(backend).attend
    layer.backend = type(layer.backend)(attend)
    for _, part in layer.parts:
        part.store.backend = layer.backend  # type: ignore[attr-defined]
    return layer, held


def _model() -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "vocab_size": 100}
    heads = {"num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": DIM}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads)).to(torch.bfloat16).eval()


def count(method: str, backend: str, rows: int, prompt_tokens: int, kv_budget: int, steps: int = 1) -> dict[str, Any]:
    """One step of one layer, the last of `steps`, with all their waits.

    A step that cannot go on without a number of the device's has no counts, but says so.
    """
    layer, held = filled(method, backend, rows, prompt_tokens, kv_budget)
    counter = Counter(held)
    assert layer.rows is not None
    layer.device = DEVICE
    layer.rows.device = DEVICE
    layer.rows.places = moved(layer.rows.places)
    for _, part in layer.parts:
        moved(part)
    with MODE:
        queries = torch.empty(rows, HEADS, 1, DIM, dtype=torch.bfloat16, device=DEVICE)
        keys, values = (torch.empty(rows, KV_HEADS, 1, DIM, dtype=torch.bfloat16, device=DEVICE) for _ in range(2))
        try:
            with with_gpu(Kernels(counter)), torch.no_grad(), counter:
                layer.attend(queries, keys, values, DIM**-0.5)  # makes what is made once for a layout of storage
                counter.waits = []
                for _ in range(steps):
                    counter.names, counter.bytes = [], 0
                    layer.attend(queries, keys, values, DIM**-0.5)
        except (DataDependentOutputException, DynamicOutputShapeException, Asked) as error:
            return {"waits": [*counter.waits, str(getattr(error, "func", error))], "stopped": True}
    return {
        "launches": len(counter.names),
        "mib": counter.bytes / 2**20,
        "times_held": counter.bytes / held,
        "waits": counter.waits,
        "operators": counter.names,
    }


def tables(record: Mapping[str, Any]) -> list[Table]:
    all_tables = []
    for results in by_shape(record["results"]).values():
        first = results[0]
        rows = []
        for each in results:
            stopped = each.get("stopped", False)
            figures = [str(each["launches"]), f"{each['mib']:.2f}", f"{each['times_held']:.2f}"]
            waits = ", ".join(each["waits"]) or "0"
            rows.append([f"{each['method']}, {each['backend']}", *(["-"] * 3 if stopped else figures), waits])
        title = f"{first['rows']} rows, prompt of {first['prompt_tokens']}, kv_budget {first['kv_budget']}"
        columns = ("method, attention", "launches", "MiB", "times what is held", "waits")
        all_tables.append(Table(title, columns, rows, "Per layer and step; full keeps the whole prompt."))
    return all_tables


def by_shape(results: Sequence[dict[str, Any]]) -> dict[tuple[int, ...], list[dict[str, Any]]]:
    shapes: dict[tuple[int, ...], list[dict[str, Any]]] = {}
    for each in results:
        shapes.setdefault((each["rows"], each["prompt_tokens"], each["kv_budget"]), []).append(each)
    return shapes


def main(arguments: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rows", type=int, default=1)
    options.add_argument("--prompt", type=int, default=1024)
    options.add_argument("--kv-budget", type=int, default=128)
    options.add_argument("--out", type=Path, help="a .json file, and the .md page beside it")
    args = options.parse_args(arguments)
    shape = {"num_heads": HEADS, "num_kv_heads": KV_HEADS, "head_dim": DIM, "dtype": "bfloat16"}
    record = Record("launches", arguments, args.out, shape=shape)
    for method in METHODS:
        for backend in BACKENDS:
            sizes = {"rows": args.rows, "prompt_tokens": args.prompt, "kv_budget": args.kv_budget}
            counted = count(method, backend, **sizes)
            record.add({"method": method, "backend": backend, **sizes, **counted}, show=False)
    for table in tables(record.content):
        table.show()


if __name__ == "__main__":
    main()
