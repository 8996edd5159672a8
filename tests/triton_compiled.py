"""Compiles the Triton kernels for GPUs of capability 8.0 and 9.0, without one: a program, prints a line of JSON.

Shows that the kernels are valid beyond what the interpreter checks, and fit into shared memory. Needs triton, no torch.
"""

from __future__ import annotations

import json
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from cokv.cache.attention import triton_kernels

OUTER = {"parts": "*fp32", "parts_lse": "*fp32", "lse": "*fp32", "logits": "*fp32", "weights": "*fp32"}
SIZES = dict.fromkeys(["rows", "columns", "key_width", "value_width", "splits"], "i32")
PLACES = {**dict.fromkeys(["starts", "lengths", "places", "new_lengths"], "*i64"), "grows": "*u8"}
NUMBERS = {"scaling": "fp32", "softcap": "fp32"}


def compiled(kernel: Any, dtype: str, capability: int, stages: int, constants: dict[str, Any]) -> dict[str, int]:
    tensors = dict.fromkeys(["queries", "keys", "values", "new_keys", "new_values", "out"], f"*{dtype}")
    types = {**tensors, **OUTER, **SIZES, **PLACES, **NUMBERS, **dict.fromkeys(constants, "constexpr")}
    names = kernel.arg_names
    source = ASTSource(
        fn=kernel,
        signature={name: types[name] for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
    )
    binary = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_stages": stages})
    return {"cubin_bytes": len(binary.asm["cubin"]), "shared_bytes": binary.metadata.shared}


def main() -> None:
    everything = dict.fromkeys(["APPEND", "PLACES", "GROWS", "CAPPED", "LOGITS"], True)
    results = {}
    for dtype, capability, width, block, stages in (("bf16", 90, 128, 64, 3), ("fp32", 80, 256, 16, 2)):
        sizes = {"CHUNK": 256, "BLOCK": block, "ROWS": 16, "KEY_WIDTH": width, "VALUE_WIDTH": width}
        constants = {**sizes, **everything, "WHOLE": False, "WIDE": dtype == "fp32"}
        results[f"split {dtype}"] = compiled(triton_kernels.split, dtype, capability, stages, constants)
    merging = {
        "CHUNK": 256,
        "BLOCK": 64,
        "ROWS": 16,
        "VALUE_WIDTH": 128,
        "APPEND": True,
        "GROWS": True,
        "WEIGHTS": True,
    }
    results["merge"] = compiled(triton_kernels.merge, "bf16", 90, 3, merging)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
