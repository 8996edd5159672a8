"""What an answer needs of the places that heads look at.

How the value comes to stand there: what those places' own queries attend to. Whether an answer is right without them,
and without the value's own places. Which of them methods keep for each step of the answer, with and without pooling
along the prompt, and whether their answers are right; settings are those of experiments/embedded.toml.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch

from cokv.cache.prefill import Prefill, prefill
from cokv.decode.batches import Row
from cokv.decode.decode import decode
from cokv.decode.session import FirstToken
from cokv.methods.method import NORMALIZED, Method
from cokv.methods.registry import get_method
from cokv.model.loading import LoadedModel
from cokv.types import KVBudget, Selection
from suite.embedded.answer_attention import REACH, CopiedAnswer, attention_rows

BUDGET = 64  # KV slots per head
FIRST_TOKEN: FirstToken = "compressed"  # every token of an answer comes from what is kept
METHODS = (  # each without pooling along the prompt, then with it
    get_method("snapkv", "unpooled", window_size=8),
    get_method("snapkv", window_size=8),
    *(get_method(name, preset) for name in ("h2o", "tova") for preset in (NORMALIZED, "pooled")),
)


def right_without(
    loaded: LoadedModel, answers: Sequence[CopiedAnswer], offset: int, layers: Collection[int]
) -> dict[str, Any]:
    """How many answers are right where all KV heads of some layers lack the places `offset` behind the emitted tokens,
    and keep everything else.
    """
    right = 0
    for answer in answers:
        read = prefill(loaded.model, answer.needle.prompt.read, 1)
        keep = torch.ones(read.shape.num_layers, read.shape.num_kv_heads, read.seq_len, dtype=torch.bool)
        places = [place for place in _shifted(answer, offset) if place < read.seq_len]
        for layer in layers:
            keep[layer, :, places] = False
        right += _right(loaded, answer, read, Row(Selection.from_mask(keep)))
    return {"offset": offset, "layers": sorted(layers), "right": right, "answers": len(answers)}


def method_keeps(
    loaded: LoadedModel, answers: Sequence[CopiedAnswer], offset: int, heads: Sequence[tuple[int, int]], method: Method
) -> dict[str, Any]:
    """The share of `heads` (layer, KV head) that keep the place `offset` behind the token of each step when the prompt
    has been read, mean over answers; and how many of the method's answers are right.
    """
    kept, right, shape = [], 0, loaded.shape
    for answer in answers:
        read = prefill(loaded.model, answer.needle.prompt.read, method.window_size, method.observers, loaded.tokenizer)
        selection = method.select(read, BUDGET)
        policy = method.bound_policy(KVBudget.parse(BUDGET), read.seq_len, shape.num_layers, shape.num_kv_heads, None)
        held = [np.isin(_shifted(answer, offset), selection.head(*head).numpy()) for head in heads]
        kept.append(np.mean(held, axis=0))
        right += _right(loaded, answer, read, Row(selection, policy))
    steps = min(map(len, kept))  # answers may differ in length
    by_step = np.mean([shares[:steps] for shares in kept], axis=0)
    return {**method.spec(), "kept_by_step": by_step.tolist(), "right": right, "answers": len(answers)}


def writing_heads(loaded: LoadedModel, answers: Sequence[CopiedAnswer], offset: int) -> list[dict[str, Any]]:
    """Heads whose queries at the places `offset` behind attend mostly to the emitted token and the one before it."""
    rows = [
        {"layer": row["layer"], "kv_head": row["kv_head"], "share": sum(row["by_offset"][REACH - 1 : REACH + 1])}
        for row in attention_rows(loaded, answers, offset)
    ]
    return [row for row in rows if row["share"] > 0.5]


def needed_places(
    loaded: LoadedModel, answers: Sequence[CopiedAnswer], reading: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """All of it, for the rows of the heads that read the needle, at the offset where the strongest of them looks."""
    offset = max(reading, key=lambda row: row["peak"]["share"])["peak"]["offset"]
    heads = [(row["layer"], row["kv_head"]) for row in reading if row["peak"]["offset"] == offset]
    layers, everywhere = {layer for layer, _ in heads}, set(range(loaded.shape.num_layers))
    without = [(0, everywhere), (offset, layers)] + [(offset, everywhere - layers)] * (layers != everywhere)
    return {
        "heads": heads,
        "offset": offset,
        "written_by": writing_heads(loaded, answers, offset) if offset > 0 else [],
        "without": [right_without(loaded, answers, *places) for places in without],
        "kv_budget": BUDGET,
        "first_token": FIRST_TOKEN,
        "methods": [method_keeps(loaded, answers, offset, heads, method) for method in METHODS],
    }


def sentences(needed: dict[str, Any]) -> list[str]:
    """For the terminal. "Read places" are those at the offset where the heads look."""
    lines = [f"read places: {needed['offset']:+d} from the emitted tokens, by {len(needed['heads'])} KV heads"]
    for row in needed["written_by"]:
        lines.append(
            f"layer {row['layer']}, KV head {row['kv_head']}: {100 * row['share']:.1f} % of the attention from the "
            "read places is on the emitted token and the one before it"
        )
    for row in needed["without"]:
        places = "read places" if row["offset"] else "emitted tokens' own places"
        layers = f"layer{'s' * (len(row['layers']) > 1)} {', '.join(map(str, row['layers']))}"
        lines.append(f"without the {places} in {layers}: {row['right']} of {row['answers']} right")
    for row in needed["methods"]:
        shares = ", ".join(f"{100 * share:.0f}" for share in row["kept_by_step"])
        lines.append(
            f"{row['method']} ({row['preset']}), {needed['kv_budget']} slots: {row['right']} of {row['answers']} "
            f"right; keeps {shares} % of the read places of steps 1, 2, ..."
        )
    return lines


def _shifted(answer: CopiedAnswer, offset: int) -> list[int]:
    return [place + offset for place in answer.places]


def _right(loaded: LoadedModel, answer: CopiedAnswer, read: Prefill, row: Row) -> bool:
    prompt = answer.needle.prompt
    return answer.needle.right(decode(loaded.model, read, [row], prompt.stop, first_token=FIRST_TOKEN)[0].tokens)
