"""The attention of each KV head while an answer is copied from a needle, by place.

A step emits one token of the answer; its query is that of the token before it, and the token it emits has a place in
the needle. Offsets count from that place: positive ones lie behind it, later in the text. Shares, from 0 to 1, are
means over the answer's steps, the query heads of a KV head, and the needles.

Does not know what a method keeps, nor whether what is looked at is needed: needed_places.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cokv.cache.prefill import prefill
from cokv.methods.scorers.causal import view_attention
from cokv.model.loading import LoadedModel
from cokv.model.observe import LayerView, Observation
from cokv.profiles.answered_prompts import Needle, full_cache_answer, observe_pass

REACH = 16  # offsets -REACH..REACH
BESIDE = 3  # tokens on each side that a max-pool of kernel 7 adds
SINKS = 4
RECENT = 32
PARTS = ("near", "first", "last", "rest")
Row = dict[str, Any]


@dataclass(frozen=True)
class AttentionByPlace:
    """Observer of a prompt and its answer without the last token. Of each KV head, mean over some queries:

    by offset [num_kv_heads, 2 * REACH + 1]; by distance back from the query [num_kv_heads, RECENT]; the sum on the
    needle's sentence [num_kv_heads, 1]; and PARTS [num_kv_heads, 4], which sum to 1: within REACH of the place, else
    among the first SINKS tokens, else among the last RECENT up to the query, else anywhere.

    queries: their positions, ascending. places: where each one's offset 0 is. sentence: start and end of the needle.
    """

    queries: tuple[int, ...]
    places: tuple[int, ...]
    sentence: tuple[int, int]

    def observe(self, view: LayerView) -> Observation:
        heads = view.keys.shape[0]
        sums = [torch.zeros(heads, size) for size in (2 * REACH + 1, RECENT, 1, len(PARTS))]
        by_offset, by_distance, sentence, parts = sums
        for head, row, weights in view_attention(view, self.queries[0]):
            shares = weights.mean(dim=0).cpu() / len(self.queries)  # [rows, columns]
            for query, place in zip(self.queries, self.places, strict=True):
                if not row <= query < row + len(shares):
                    continue
                attention = shares[query - row, : query + 1]
                low, high = max(place - REACH, 0), min(place + REACH, query) + 1
                by_offset[head, low - place + REACH : high - place + REACH] += attention[low:high]
                last = attention[-RECENT:].flip(0)
                by_distance[head, : len(last)] += last
                sentence[head] += attention[slice(*self.sentence)].sum()
                parts[head] += torch.stack([attention[inside].sum() for inside in _parts(query, place)])
        return tuple(sums)


def _parts(query: int, place: int) -> list[torch.Tensor]:
    """Which of the positions 0..query belong to each of PARTS, every position to one: bool [query + 1] each."""
    positions, left = torch.arange(query + 1), torch.ones(query + 1, dtype=torch.bool)
    masks = []
    for inside in ((positions - place).abs() <= REACH, positions < SINKS, positions > query - RECENT, left):
        masks.append(inside & left)
        left = left & ~inside
    return masks


@dataclass(frozen=True, eq=False)
class CopiedAnswer:
    """A needle that is answered right, with the tokens of the answer's value and their places in the needle."""

    needle: Needle
    tokens: list[int]
    places: list[int]


def copied_answer(loaded: LoadedModel, needle: Needle) -> CopiedAnswer | None:
    """None where the full cache answers wrong, or in other tokens than stand in the needle."""
    ids, count = needle.prompt.read, needle.answer_tokens
    answer = full_cache_answer(loaded.model, prefill(loaded.model, ids, 1), needle.prompt)
    tokens = answer[:count]
    for place in range(needle.start, needle.end - len(tokens) + 1):
        if needle.right(answer) and ids[place : place + len(tokens)].tolist() == tokens:
            return CopiedAnswer(needle, tokens, list(range(place, place + len(tokens))))
    return None


def attention_rows(loaded: LoadedModel, answers: Sequence[CopiedAnswer], behind: int | None = None) -> list[Row]:
    """One row per KV head, layer by layer, ready for JSON.

    The queries are those of the answer's steps; with `behind`, those of the prompt's tokens that far behind the places.
    """
    by_answer = [_look(loaded, answer, behind) for answer in answers]
    by_offset, by_distance, sentence, parts = (torch.stack(kind).mean(dim=0) for kind in zip(*by_answer, strict=True))
    rows = []
    for layer in range(by_offset.shape[0]):
        for head in range(by_offset.shape[1]):
            offsets, distances = by_offset[layer, head], by_distance[layer, head]
            rows.append(
                {
                    "layer": layer,
                    "kv_head": head,
                    "emitted_token": float(offsets[REACH]),
                    "within_3": float(offsets[REACH - BESIDE : REACH + BESIDE + 1].sum()),
                    "needle_sentence": float(sentence[layer, head]),
                    "peak": {"offset": int(offsets.argmax()) - REACH, "share": float(offsets.max())},
                    "peak_back": {"distance": int(distances.argmax()), "share": float(distances.max())},
                    "parts": dict(zip(PARTS, parts[layer, head].tolist(), strict=True)),
                    "by_offset": offsets.tolist(),
                    "by_distance": distances.tolist(),
                }
            )
    return rows


def _look(loaded: LoadedModel, answer: CopiedAnswer, behind: int | None) -> list[torch.Tensor]:
    """What AttentionByPlace sees, float64 [num_layers, num_kv_heads, ...] each."""
    ids, places, needle = answer.needle.prompt.read, answer.places, answer.needle
    last = ids.numel() - 1  # its query emits the first token
    queries = [last + step if behind is None else place + behind for step, place in enumerate(places)]
    observer = AttentionByPlace(tuple(queries), tuple(places), (needle.start, needle.end))
    layers = observe_pass(loaded.model, torch.cat([ids, ids[places[:-1]]]), observer)
    return [torch.stack(kind).double() for kind in zip(*layers, strict=True)]
