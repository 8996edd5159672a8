"""What stability.json and measurements.json must look like before anything is read from them.

Every number may be absent (it was not measured); one that is present must be finite.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from reports.errors import ReportError
from reports.kv_budget import EXPECTED, is_budget
from reports.records import is_number

SUMMARY = ("median", "min", "max")
NUMBERS = ("kv_slots", "batch", "prompt_tokens", "generated_tokens", "cache_bytes")
TIMES = ("prefill_ms", "first_token_ms", "between_tokens_ms", "decode_ms_per_token", "energy_mj_per_token")


def check_stability(value: Mapping[str, Any], source: str) -> None:
    players: list[Any] = [value.get(name) for name in ("num_players", "num_layers", "num_kv_heads")]
    if not all(isinstance(number, int) and number > 0 for number in players):
        raise ReportError(f"{source}: num_players, num_layers and num_kv_heads must be integers >= 1, got {players}")
    for task, entry in _mapping(value, "tasks", source).items():
        place = f"{source}: task {task!r}"
        if not isinstance(entry, Mapping):
            raise ReportError(f"{place}: expected an object, got {type(entry).__name__}")
        for run in entry.get("runs") or []:
            if not _is_matrix(run, players[1], players[2]):
                raise ReportError(f"{place}: every run must be {players[1]} x {players[2]} finite numbers")
        if entry.get("mae") is not None and (not entry.get("runs") or entry.get("threshold") is None):
            raise ReportError(f"{place}: a mae needs its runs and its threshold beside it")
        _check_numbers(entry, ("mae", "threshold", "spearman", "split_half", "prompt_reliability"), place)
        if entry.get("interval") and not _is_matrix(entry["interval"], players[0], 2):
            raise ReportError(f"{place}: interval must be a pair of numbers for each of the {players[0]} players")
        for row in entry.get("head_removal") or []:
            if (
                not isinstance(row, Mapping)
                or not isinstance(row.get("cut"), str)
                or not isinstance(row.get("heads"), int)
            ):
                raise ReportError(
                    f"{place}: every head_removal needs a cut (text) and heads (integer), got {row!r:.80}"
                )
            _check_numbers(row, ("score", "low", "high", "full_score"), place)


def check_measurements(value: Mapping[str, Any], source: str) -> None:
    rows = value.get("decode", [])
    if not isinstance(rows, list):
        raise ReportError(f"{source}: decode must be a list, got {type(rows).__name__}")
    for number, row in enumerate(rows, start=1):
        place = f"{source}: decode entry {number}"
        if not isinstance(row, Mapping) or not isinstance(row.get("method"), str):
            raise ReportError(f"{place}: expected an object with a method, got {row!r:.80}")
        if not is_budget(row.get("kv_budget")):
            raise ReportError(f"{place}: kv_budget must be {EXPECTED}, got {row['kv_budget']!r:.80}")
        _check_numbers(row, NUMBERS, place)
        _check_times(row, TIMES, place)
        for part, check in (("ratio_to", _check_times), ("peak_bytes", _check_numbers)):
            if part in row:
                inner = _mapping(row, part, place)
                check(inner, inner, f"{place}, {part}")


def _mapping(value: Mapping[str, Any], name: str, source: str) -> Mapping[str, Any]:
    inner = value.get(name)
    if not isinstance(inner, Mapping):
        raise ReportError(f"{source}: {name} must be an object, got {type(inner).__name__}")
    return inner


def _is_matrix(value: object, rows: int, columns: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == rows
        and all(isinstance(row, list) and len(row) == columns and all(map(is_number, row)) for row in value)
    )


def _check_numbers(row: Mapping[str, Any], names: Iterable[str], source: str) -> None:
    for name in names:
        if row.get(name) is not None and not is_number(row[name]):
            raise ReportError(f"{source}: {name} must be a finite number or absent, got {row[name]!r:.80}")


def _check_times(row: Mapping[str, Any], names: Iterable[str], source: str) -> None:
    """Numbers, or the median, min and max of several runs."""
    for name in names:
        value = row.get(name)
        if not (isinstance(value, Mapping) and all(is_number(value.get(part)) for part in SUMMARY)):
            _check_numbers(row, [name], source)
