"""The Triton kernels through Triton's interpreter, beside the reference: run as a program, prints a line of JSON.

The interpreter of triton 3.6 has two holes, filled here: numpy from 2.4 on makes no number of an array of one number,
and products of bfloat16 are not computed (they are documented as unsupported; a GPU multiplies them exactly too).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported

import numpy as np
import torch
import triton.language as tl
from segments import storage
from triton.runtime import interpreter

from cokv.cache.attention import reference, triton_decode
from cokv.cache.attention.weights import weights

TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}
patch_tensor, dot = interpreter._patch_lang_tensor, interpreter.InterpreterBuilder.create_dot


def patched_tensor(tensor: Any, scope: Any) -> None:
    patch_tensor(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))


def patched_dot(self: Any, a: Any, b: Any, *more: Any) -> Any:
    a, b = (self.cast_impl(x, tl.float32) if x.dtype.scalar == tl.bfloat16 else x for x in (a, b))
    return dot(self, a, b, *more)


interpreter._patch_lang_tensor, interpreter.InterpreterBuilder.create_dot = patched_tensor, patched_dot


def far(got: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference; infinite where one is infinite or NaN and the other is not."""
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return float("inf")
    difference = (got.double() - expected.double()).abs()
    return float(torch.where(got == expected, 0.0, difference).nan_to_num(torch.inf).max())


def attended(lengths: list[int], group: int, dim: int, dtype: torch.dtype, softcap: float | None = None) -> float:
    inputs = storage(lengths, group, dim, dtype)
    expected, got = (b.attend(*inputs, 0.3, softcap=softcap) for b in (reference, triton_decode))
    known = triton_decode.attend(*inputs, 0.3, [n + 3 for n in lengths], softcap)
    return max(far(a, b) for pair in (got, known) for a, b in zip(pair, expected, strict=True))


def stepped(
    lengths: list[int], dtype: torch.dtype, kind: str = "", columns: int | None = None, group: int = 2
) -> float:
    """The step beside append, attention and weights one after the other. kind: "places" that another token had,
    "holes" that a token had left.
    """
    dim = 16
    queries, keys, values, starts, counts = storage(lengths, group, dim, dtype)
    new_keys, new_values = (torch.randn(len(lengths), dim).to(dtype) for _ in range(2))
    places = torch.minimum(counts, torch.tensor([1, 0, 3] * len(lengths))[: len(lengths)]) if kind else None
    grows = places == counts if kind == "places" and places is not None else None
    written, written_values = keys.clone(), values.clone()
    if kind == "holes":  # all get longer, so the slot behind the last holds a token
        written[starts + counts], written_values[starts + counts] = 0.5, 0.5
        keys[starts + counts], values[starts + counts] = 0.5, 0.5
    slots = starts + (counts if places is None else places)
    written[slots], written_values[slots] = new_keys, new_values
    longer = counts + (1 if grows is None else grows)
    expected = reference.attend(queries, written, written_values, starts, longer, 0.3)
    filled = None if columns is None else torch.full((len(lengths), group, columns), torch.nan)
    stored, counted = (queries, keys, values, starts), counts.clone()
    out, lse = triton_decode.step(
        *stored, counted, 0.3, new_keys, new_values, places, grows, weights=filled, at_most=lengths
    )
    pairs = [(out, expected[0]), (lse, expected[1])]
    same = [(keys.nan_to_num(), written.nan_to_num()), (values.nan_to_num(), written_values.nan_to_num())]
    if filled is not None and columns is not None:
        short = longer <= columns
        wanted = weights(queries, written, starts, longer, expected[1], 0.3, columns)
        pairs.append((filled[short], wanted[short]))
    if not all(torch.equal(a, b) for a, b in [*same, (counted, longer)]):
        return float("inf")
    return max(far(a, b) for a, b in pairs)


def cases() -> Iterator[tuple[str, torch.dtype, Callable[[], float]]]:
    uneven = [0, 1, 5, 70, 130, 64]
    for dtype in TOLERANCE:
        name = str(dtype).removeprefix("torch.")
        yield f"uneven and empty segments, {name}", dtype, lambda dtype=dtype: attended(uneven, 4, 16, dtype)
        yield f"a step's token on the way, {name}", dtype, lambda dtype=dtype: stepped([0, 3, 64, 70], dtype)
    wide = torch.float32
    yield "MHA, a width that is no power of two", wide, lambda: attended([3, 0, 9], 1, 24, wide)
    yield "MQA, more rows than a program has", wide, lambda: attended([5, 66], 70, 8, wide)
    yield "a cap on logits", wide, lambda: attended(uneven, 2, 16, wide, softcap=1.5)
    yield "every segment empty", wide, lambda: attended([0, 0], 2, 16, wide)
    yield "tokens that take another's place", wide, lambda: stepped([0, 3, 70, 4], wide, "places")
    yield "tokens that fill a hole", wide, lambda: stepped([0, 3, 70, 4], wide, "holes")
    yield "more rows than a program has, and a new token", wide, lambda: stepped([0, 3, 70], wide, group=70)
    yield "weights for those who evict by them", wide, lambda: stepped([0, 5, 70, 2], wide, columns=72)
    yield "weights of short segments only", torch.bfloat16, lambda: stepped([3, 65], torch.bfloat16, "holes", 8)


def generated() -> str:
    """A compressed cache of the user's, by Triton and by the reference: the same tokens, padded rows included."""
    from transformers import LlamaConfig, LlamaForCausalLM

    import cokv

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3}
    model = LlamaForCausalLM(LlamaConfig(**sizes, **heads)).eval()
    ids = torch.randint(3, 64, (2, 40))
    seen = torch.ones_like(ids)
    seen[0, :7] = 0
    window = {"adakv": {"window_size": 4}}
    for method in ("adakv", "streamingllm", "h2o"):
        answers = {}
        for attention in ("reference", "triton"):
            cache = cokv.compress(model, method, kv_budget=12, attention=attention, **window.get(method, {}))
            answers[attention] = model.generate(
                ids, attention_mask=seen, past_key_values=cache, max_new_tokens=6, do_sample=False, pad_token_id=0
            )
            assert cache.attention == [attention] * 2, cache.attention
        if not torch.equal(*answers.values()):
            return f"{method}: {answers}"
    return ""


def main() -> None:
    triton_decode.CHUNKS = (64, 64)  # so that small segments have several parts
    np.seterr(divide="ignore", invalid="ignore")
    results = {name: {"far": case(), "allowed": TOLERANCE[dtype]} for name, dtype, case in cases()}
    print(json.dumps({"kernels": results, "generated": generated()}))


if __name__ == "__main__":
    main()
    sys.exit(0)
