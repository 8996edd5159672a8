"""A run's samples for the page: an index with every score, and the long texts in chunks that are opened when needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from reports.kv_budget import Budget, budget_order, budget_text
from reports.labels import Labels, is_full
from reports.page.embed import compressed, json_text
from reports.page.stored import Line, SampleKey, kept_of, prompts_of, sample_key
from reports.records import Variant, variant_of
from reports.rundir import Run

CHUNK = 1_500_000  # characters of a chunk's JSON, at least one sample
CellKey: TypeAlias = tuple[Variant, Budget]
Record: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Samples:
    """index: what the page holds at once; chunks: base64 of gzip of JSON, in the order of the index."""

    index: dict[str, Any]
    chunks: list[str]


def samples_of(run: Run) -> Samples:
    """Samples in the order of the records; cells in the order of tables."""
    cells = _cells(run.records, run.labels)
    places = {cell: place for place, cell in enumerate(cells)}
    by_sample: dict[SampleKey, list[Record]] = {}
    for record in run.records:
        by_sample.setdefault(sample_key(record), []).append(record)
    prompts, kept = prompts_of(run.path), kept_of(run.path)
    scores: list[list[float | None]] = [[None] * len(by_sample) for _ in cells]
    for number, members in enumerate(by_sample.values()):
        for member in members:
            scores[places[_cell(member)]][number] = None if member["score"] is None else round(member["score"], 2)
    details = (_detail(records, places, prompts.get(key), kept.get(key, [])) for key, records in by_sample.items())
    chunks, of_sample, shown = _chunks(details)
    index = {
        "full": next((place for cell, place in places.items() if is_full(cell[0])), None),
        "cells": [_cell_facts(cell, run.labels) for cell in cells],
        **{name: [key[place] for key in by_sample] for place, name in enumerate(("benchmark", "task", "seed", "id"))},
        "tokens": [records[0].get("prompt_tokens") for records in by_sample.values()],
        "shown": shown,
        "chunk": of_sample,
        "scores": scores,
        "prompts": sum(key in prompts for key in by_sample),
    }
    return Samples(index, chunks)


def _cell(record: Record) -> CellKey:
    return variant_of(record), record["kv_budget"]


def _cells(records: Sequence[Record], labels: Labels) -> list[CellKey]:
    return sorted(
        {_cell(record) for record in records}, key=lambda cell: (labels.order(cell[0]), budget_order(cell[1]))
    )


def _cell_facts(cell: CellKey, labels: Labels) -> dict[str, Any]:
    variant, budget = cell
    return {"method": labels.name(variant), "budget": budget_text(budget)}


def _detail(
    records: Sequence[Record], places: Mapping[CellKey, int], prompt: Line | None, kept: Sequence[Line]
) -> dict[str, Any]:
    """Everything of one sample that the index leaves out."""
    detail: dict[str, Any] = {
        "references": [str(text) for text in records[0].get("references") or []],
        "notes": [str(note) for note in records[0].get("notes") or []],
        "answers": [_answer(record, places) for record in sorted(records, key=lambda r: places[_cell(r)])],
    }
    if prompt is not None:
        detail["prompt"] = prompt["text"]
        detail |= {"question": prompt["question"]} if "question" in prompt else {}
    stored = {(r["method"], r["preset"], r["kv_budget"], r["cell"]): places[_cell(r)] for r in records if "cell" in r}
    parts = [part for line in kept if (part := _kept(line, stored))]
    if parts:
        detail |= {"tokens": kept[-1]["tokens"], "kept": parts}
    return detail


def _answer(record: Record, places: Mapping[CellKey, int]) -> list[Any]:
    """Cell, text, why there is none, answer tokens, slots of the budget, kept tokens over all heads."""
    why = record.get("infeasible") or record.get("unsupported")
    prediction = record.get("prediction")
    return [
        places[_cell(record)],
        None if prediction is None else str(prediction),
        None if why is None else str(why),
        record.get("generated_tokens"),
        record.get("kv_slots"),
        record.get("kept_tokens"),
    ]


def _kept(line: Line, stored: Mapping[tuple[Any, ...], int]) -> dict[str, Any] | None:
    """A line of kept_tokens.jsonl with the cells that the run still asks for; null stands for the others."""
    names = ("method", "preset", "kv_budget", "cell")
    cells = [stored.get(tuple(cell.get(name) for name in names)) for cell in line["cells"]]
    if all(cell is None for cell in cells):
        return None
    shape = {name: line[name] for name in ("seq_len", "num_layers", "num_kv_heads", "patterns", "which")}
    return {**shape, "cells": cells}


def _chunks(details: Iterator[dict[str, Any]]) -> tuple[list[str], list[list[int]], list[int]]:
    """Chunks; of each sample its chunk and its place there, and whether it has kept tokens (0 or 1)."""
    chunks: list[str] = []
    places: list[list[int]] = []
    shown: list[int] = []
    waiting: list[dict[str, Any]] = []
    size = 0
    for detail in details:
        length = len(json_text(detail))
        if waiting and size + length > CHUNK:
            chunks.append(compressed(waiting))
            waiting, size = [], 0
        places.append([len(chunks), len(waiting)])
        shown.append(int("kept" in detail))
        waiting.append(detail)
        size += length
    if waiting:
        chunks.append(compressed(waiting))
    return chunks, places, shown
