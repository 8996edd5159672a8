"""The arms of the latency stage, and the row of the measurements' table that each becomes.

An arm's times come turn by turn; nothing is averaged before the end.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cokv import probes

DYNAMIC, RAGGED = "dynamic_cache", "ragged"
PrefillNeeds = tuple[int, tuple[Any, ...]]  # window of queries, observers
FULL_CACHE_NEEDS: PrefillNeeds = (1, ())


@dataclass(eq=False)
class MeasuredArm:
    """A method on one runtime: how its cache is made, and what was seen of it, one number per turn."""

    method: str
    preset: str
    runtime: str
    build: Callable[[], Any]  # the cache of all rows, holding the prompt
    compress: Callable[[], object] | None = None  # chooses what stays of a prompt that is read, and fills one row
    needs: PrefillNeeds = FULL_CACHE_NEEDS  # of a prefill for this method alone
    kv_budget: Any = None  # as asked for; None of a method that takes none
    kv_slots: int | None = None
    cache_bytes: int | None = None
    peak_bytes: dict[str, int] | None = None  # of the first turn that counts
    decode_seconds: list[float] = field(default_factory=list)  # of all steps
    between_seconds: list[float] = field(default_factory=list)  # of each step of each turn
    compress_seconds: list[float] = field(default_factory=list)
    joules: list[float] = field(default_factory=list)

    @property
    def key(self) -> str:
        return "/".join((self.method, self.preset, self.runtime))

    def took(self, result: probes.Result, between: Sequence[float], compressing: float) -> None:
        """A turn that counts."""
        self.decode_seconds.append(result["seconds"])
        self.between_seconds += between
        self.compress_seconds.append(compressing)
        if "energy_joules" in result:
            self.joules.append(result["energy_joules"])
        if self.peak_bytes is None:
            names = {"rss_peak_bytes": "rss", "cuda_peak_bytes": "cuda"}
            self.peak_bytes = {short: int(result[name]) for name, short in names.items() if name in result}


def table_row(
    arm: MeasuredArm,
    seconds: dict[str, list[float]],
    prefill_seconds: Sequence[float],
    prompt_tokens: int,
    new_tokens: int,
    batch: int,
) -> dict[str, Any]:
    """seconds: of all arms by key, turn by turn. prefill_seconds: of a prefill with what this arm needs, likewise.

    The first token is the prompt's: read, chosen from and stored for one row; `between_tokens_ms` is one step of all
    rows, from one token to the next. Energy is the device's, over all turns, per token of each row.
    """
    first = [read + chosen for read, chosen in zip(prefill_seconds, arm.compress_seconds, strict=True)]
    times = sorted(arm.decode_seconds)
    row: dict[str, Any] = {
        "method": arm.method,
        "preset": arm.preset,
        "runtime": arm.runtime,
        "kv_budget": arm.kv_budget,
        "kv_slots": arm.kv_slots,
        "batch": batch,
        "prompt_tokens": prompt_tokens,
        "generated_tokens": new_tokens,
        "decode_ms_per_token": 1000 * times[len(times) // 2] / new_tokens,
        "prefill_ms": 1000 * statistics.median(prefill_seconds),
        "first_token_ms": _milliseconds(first),
        "between_tokens_ms": _milliseconds(arm.between_seconds),
        "cache_bytes": arm.cache_bytes,
        "peak_bytes": arm.peak_bytes or {},
    }
    if len(arm.joules) == len(times) and sum(arm.joules) > 0:  # a counter that has not moved has measured nothing
        row["energy_mj_per_token"] = 1000 * sum(arm.joules) / (len(times) * new_tokens * batch)
    full = {DYNAMIC: DYNAMIC, "ragged_full": RAGGED}
    ratios = {name: probes.ratio_summary(seconds, arm.key, baseline(runtime)) for name, runtime in full.items()}
    return {**row, "ratio_to": ratios}


def baseline(runtime: str) -> str:
    """The key of a full cache."""
    return f"full/normalized/{runtime}"


def _milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    return {
        "median": 1000 * statistics.median(seconds),
        "min": 1000 * min(seconds),
        "max": 1000 * max(seconds),
    }
