"""What a reader of a run sees beside its answers: each sample's prompt, and which prompt tokens every cell kept.

`prompts.jsonl` has a line per sample. `kept_tokens.jsonl` has lines for the first samples of each task: the prompt's
tokens as text and, for every cell, layer and KV head, the kept positions, which are those after prefill, before
anything is evicted while decoding. No answer depends on these files, and no code that makes answers reads them. What is
missing in them is missing: a sample answered by an older version has no prompt.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch

from cokv.decode.head_mask import HeadMask
from cokv.model.loading import LoadedModel
from cokv.types import Selection
from suite.run.answers import Compressed
from suite.run.cells import GridCell
from suite.run.folder import RunFolder
from suite.run.stored_answers import Sample, sample_of
from suite.tasks.prompt import Prompt

PROMPTS, KEPT = "prompts.jsonl", "kept_tokens.jsonl"
SAMPLE = ("benchmark", "task", "seed", "sample_id")
CELL = ("method", "preset", "kv_budget", "cell")
UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what a tokenizer writes for bytes that are no whole character

Record: TypeAlias = dict[str, Any]
Cell: TypeAlias = tuple[Any, ...]  # values of CELL


@dataclass(frozen=True)
class Shown:
    """One sample's lines. kept: None where its kept tokens are not to be stored."""

    prompt: Record
    kept: Record | None = None


def shown(
    loaded: LoadedModel,
    prompt: Prompt,
    results: Mapping[GridCell, Compressed],
    digests: Mapping[GridCell, str],
    with_kept: bool,
) -> Shown:
    """digests: of each cell's identity, as its record has it."""
    sample = {"benchmark": prompt.benchmark, "task": prompt.task, "seed": prompt.seed, "sample_id": prompt.sample_id}
    line = {**sample, "text": _text(loaded, prompt.context_ids.tolist())}
    if prompt.question_ids is not None:
        line["question"] = _text(loaded, prompt.question_ids.tolist())
    rows = {cell: result.row.selection for cell, result in results.items() if result.row is not None}
    if not with_kept or not rows:
        return Shown(line)
    cells = [dict(zip(CELL, (c.method.name, c.method.variant, c.nominal, digests[c]), strict=True)) for c in rows]
    selections = [_selection(kept, loaded.shape.num_kv_heads) for kept in rows.values()]
    return Shown(
        line, {**sample, "tokens": token_texts(loaded, prompt.context_ids), "cells": cells, **packed(selections)}
    )


def _selection(kept: Selection | HeadMask, num_kv_heads: int) -> Selection:
    return kept if isinstance(kept, Selection) else kept.selection(num_kv_heads)


def packed(selections: list[Selection]) -> Record:
    """Rows of one prompt, each distinct set of positions once.

    patterns: bits [distinct sets, seq_len], a row padded to whole bytes, the lowest bit first; which: little-endian
    uint32 [cells, num_layers, num_kv_heads], rows of `patterns`. Both as base64 of zlib.
    """
    first = selections[0]
    numbers: dict[bytes, int] = {}
    which = np.empty((len(selections), first.num_layers * first.num_kv_heads), dtype="<u4")
    for place, selection in enumerate(selections):
        rows = np.packbits(selection.mask().flatten(0, 1).numpy(), axis=1, bitorder="little")
        which[place] = [numbers.setdefault(row.tobytes(), len(numbers)) for row in rows]
    return {
        "seq_len": first.seq_len,
        "num_layers": first.num_layers,
        "num_kv_heads": first.num_kv_heads,
        "patterns": _base64(b"".join(numbers)),
        "which": _base64(which.tobytes()),
    }


def _base64(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, 6)).decode("ascii")


def _text(loaded: LoadedModel, ids: list[int]) -> str:
    text = loaded.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    assert isinstance(text, str), "one prompt at a time"
    return text


def token_texts(loaded: LoadedModel, ids: torch.Tensor) -> list[str]:
    """The text that each token of ids, int64 [seq_len], adds to those before it.

    Of a character that several tokens make, the last one has it and the others are empty.
    """
    listed, texts = ids.tolist(), []
    start = done = 0  # tokens from start on are decoded together, those before done are in texts
    for end in range(1, len(listed) + 1):
        before, text = _text(loaded, listed[start:done]), _text(loaded, listed[start:end])
        if text.endswith(UNFINISHED) and end < len(listed):
            texts.append("")
            continue
        texts.append(text[len(before) :])
        start, done = done, end
    return texts


@contextmanager
def shower(folder: RunFolder) -> Iterator[Callable[[Shown], None]]:
    """A function that stores what the folder does not hold yet."""
    prompts = {sample_of(line) for line in folder.lines(PROMPTS, SAMPLE)}
    kept = {(sample_of(line), _key(cell)) for line in folder.lines(KEPT, (*SAMPLE, "cells")) for cell in line["cells"]}
    with ExitStack() as stack:
        appenders: dict[str, Callable[[list[Record]], None]] = {}

        def append(name: str, line: Record) -> None:
            if name not in appenders:  # a run without lines has no file
                appenders[name] = stack.enter_context(folder.appender(name))
            appenders[name]([line])

        def store(new: Shown) -> None:
            sample: Sample = sample_of(new.prompt)
            if sample not in prompts:
                append(PROMPTS, new.prompt)
                prompts.add(sample)
            if new.kept is not None and any((sample, _key(cell)) not in kept for cell in new.kept["cells"]):
                append(KEPT, new.kept)
                kept.update((sample, _key(cell)) for cell in new.kept["cells"])

        yield store


def _key(cell: Record) -> Cell:
    return tuple(cell.get(name) for name in CELL)
