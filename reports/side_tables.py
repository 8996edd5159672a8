"""The tables beside the scores: stability of the head scores, head removal, decode latency and memory.

What a run could not measure is absent from its files and a dash here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from reports.kv_budget import budget_order
from reports.labels import Labels
from reports.table import MISSING, Entry, Table, group_starts
from reports.tables import budget_entry, interval_text

Row = Mapping[str, Any]
CUTS = ("top", "bottom", "random")
RUNTIMES = {"dynamic_cache": "DynamicCache", "ragged": "ragged", "shared": "shared"}


def head_scores(entry: Row) -> npt.NDArray[np.float64]:
    """Mean over the independent runs: [num_layers, num_kv_heads]."""
    return np.asarray(np.mean(np.array(entry["runs"], dtype=np.float64), axis=0))


def stability_table(stability: Row) -> Table | None:
    """Agreement of two independent estimates of the head scores, per task."""
    body = []
    for task, entry in sorted(stability["tasks"].items()):
        if entry.get("mae") is None:
            continue
        scores = head_scores(entry)
        width = [high - low for low, high in entry["interval"]] if entry.get("interval") else []
        body.append(
            (
                Entry(task),
                Entry(f"{entry['mae']:.4f}"),
                Entry(f"{entry['threshold']:.4f}"),
                Entry("yes" if entry["mae"] < entry["threshold"] else "no"),
                Entry(f"{scores.std():.4f}"),
                *(
                    Entry(f"{entry[name]:.2f}") if entry.get(name) is not None else Entry()
                    for name in ("spearman", "split_half", "prompt_reliability")
                ),
                Entry(f"{np.median(width):.4f}") if width else Entry(),
            )
        )
    if not body:
        return None
    sizes = ", ".join(str(size) for size in stability.get("slice_sizes", []))
    players = f"{stability['num_layers']} layers x {stability['num_kv_heads']} KV heads"
    notes = [
        f"{stability['num_players']} players ({players}); utility: {stability.get('utility', 'not stated')}; coalition "
        f"sizes: {sizes or 'not stated'}; coalitions per size and run: "
        f"{stability.get('coalitions_per_size', 'not stated')}.",
        "MAE: mean absolute difference of the two runs, against the stop rule MAE < 1/n. Spread: standard deviation "
        "over the players; where it is near or below the MAE, the rule says little and the rank correlation more. "
        "Interval width: the median over heads of their bootstrap intervals over draws.",
    ]
    notes.append(
        "Reliability: correlation of both runs together with as many new coalitions on the same prompts; over prompts: "
        "with new coalitions on as many new prompts"
        + (", absent for a game of one prompt" * (stability.get("prompts") == 1))
        + "."
    )
    columns = ("Task", "MAE", "1/n", "MAE < 1/n", "Spread", "Spearman", "Reliability", "Over prompts", "Interval width")
    return Table("stability", "Stability of the head scores between two runs", columns, tuple(body), tuple(notes))


def removal_rows(stability: Row) -> list[tuple[str, Row]]:
    """(task, point) of every head-removal measurement, in table order."""
    points = [(task, row) for task, entry in stability["tasks"].items() for row in entry.get("head_removal") or []]
    order = {cut: place for place, cut in enumerate(CUTS)}
    return sorted(points, key=lambda item: (item[0], order.get(item[1]["cut"], len(order)), item[1]["heads"]))


def removal_table(stability: Row) -> Table | None:
    """What is left of the score when the top or bottom heads keep only the window."""
    rows = removal_rows(stability)
    if not rows:
        return None
    body = []
    for task, row in rows:
        full = row.get("full_score")
        share = Entry(f"{100 * row['score'] / full:.1f}%") if full and row.get("score") is not None else Entry()
        score = Entry(f"{row['score']:.1f}", interval_text(row)) if row.get("score") is not None else Entry()
        cut = Entry(f"{row['cut']} {row['heads']} of {stability['num_players']}")
        body.append((Entry(task), cut, score, Entry(f"{full:.1f}") if full is not None else Entry(), share))
    notes = (
        "Heads ordered by their score; a removed head keeps only the last window of the prompt. Score in percent.",
    )
    columns = ("Task", "Heads removed", "Score", "Full cache", "Share of full")
    return Table(
        "head_removal",
        "Scores after removing heads",
        columns,
        tuple(body),
        notes,
        group_starts([task for task, _ in rows]),
        left=2,
    )


_DECODE: tuple[tuple[str, Callable[[Row], str | None]], ...] = (
    ("Batch", lambda row: _plain(row.get("batch"))),
    ("Prompt tokens", lambda row: _plain(row.get("prompt_tokens"))),
    ("New tokens", lambda row: _plain(row.get("generated_tokens"))),
    ("Prefill ms", lambda row: _ratio(row.get("prefill_ms"), 1)),
    ("First token ms", lambda row: _ratio(row.get("first_token_ms"), 1)),
    ("Between tokens ms", lambda row: _ratio(row.get("between_tokens_ms"), 2)),
    ("Decode ms/token", lambda row: _ratio(row.get("decode_ms_per_token"), 2)),
    ("Time / DynamicCache", lambda row: _ratio(row.get("ratio_to", {}).get("dynamic_cache"), 2)),
    ("Time / ours at full", lambda row: _ratio(row.get("ratio_to", {}).get("ragged_full"), 2)),
    ("Cache MiB", lambda row: _mib(row.get("cache_bytes"))),
    ("Peak RSS MiB", lambda row: _mib(row.get("peak_bytes", {}).get("rss"))),
    ("Peak CUDA MiB", lambda row: _mib(row.get("peak_bytes", {}).get("cuda"))),
    ("Energy mJ/token", lambda row: _ratio(row.get("energy_mj_per_token"), 1)),
)


def decode_table(measurements: Row, labels: Labels) -> Table | None:
    """Decode time and memory against two baselines: transformers' DynamicCache, and our runtime with the full cache.

    Columns that nothing in this run could measure are left out, and named below the table.
    """
    rows = sorted(measurements.get("decode") or [], key=_decode_order)
    if not rows:
        return None
    texts = [[form(row) for _, form in _DECODE] for row in rows]
    kept = [place for place in range(len(_DECODE)) if any(text[place] is not None for text in texts)]
    body = []
    for row, text in zip(rows, texts, strict=True):
        runtime = RUNTIMES.get(row.get("runtime", ""), row.get("runtime") or MISSING)
        name = labels.preset_name(row["method"], row.get("preset", "normalized"))
        leading = (Entry(name), Entry(runtime), budget_entry(row))
        body.append((*leading, *(Entry(text[place] or MISSING) for place in kept)))
    notes = [
        "Medians. Ratios: this row's decode time over the baseline's, below 1 is faster. Weights are not in the cache."
    ]
    absent = [name for place, (name, _) in enumerate(_DECODE) if place not in kept]
    if absent:
        notes.append(f"Not measured on this machine: {', '.join(absent)}.")
    notes += [
        f"No row for {labels.preset_name(left['method'], left.get('preset', 'normalized'))}: {left['why']}."
        for left in measurements.get("left_out") or []
    ]
    columns = ("Method", "Runtime", "KV budget", *(_DECODE[place][0] for place in kept))
    return Table(
        "decode",
        "Decode latency and memory",
        columns,
        tuple(body),
        tuple(notes),
        group_starts([_decode_order(row)[:2] for row in rows]),
        left=3,
    )


def _decode_order(row: Row) -> tuple[Any, ...]:
    setting = (row.get("batch") or 0, row.get("prompt_tokens") or 0)
    return (*setting, row.get("runtime") != "dynamic_cache", budget_order(row.get("kv_budget")), row["method"])


def _plain(value: int | None) -> str | None:
    return None if value is None else f"{value:,}"


def _mib(value: float | None) -> str | None:
    return None if value is None else f"{value / 2**20:,.2f}"


def _ratio(value: float | Row | Sequence[float] | None, digits: int) -> str | None:
    """A number, or the {"median", "min", "max"} of interleaved repeats."""
    if value is None:
        return None
    if isinstance(value, Mapping):
        return f"{value['median']:.{digits}f} [{value['min']:.{digits}f}, {value['max']:.{digits}f}]"
    assert isinstance(value, int | float)
    return f"{value:,.{digits}f}"
