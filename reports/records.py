"""One record = one (sample, method, kv_budget): what it must hold, and which records belong together.

A missing score is missing: it is null and carries its reason. Sentinels (-1, NaN) are refused, so that no mean can ever
swallow one.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from reports.errors import ReportError
from reports.kv_budget import EXPECTED, budget_order, is_budget

Record = Mapping[str, Any]
BYTE_FIELDS = ("kept_tokens", "kept_bytes", "slack_bytes", "full_bytes")
FULL = "full"


@dataclass(frozen=True, order=True)
class Variant:
    """What one row of a table is: a method, how it was set, and the two protocol choices that move every score."""

    method: str
    preset: str
    query_aware: bool
    first_token: str

    def fields(self) -> dict[str, Any]:
        return asdict(self)


def variant_of(row: Record) -> Variant:
    """The variant of a record, or of any row of the metrics."""
    return Variant(row["method"], row["preset"], row["query_aware"], row["first_token"])


def sample_key(record: Record) -> tuple[int, str]:
    return (record["seed"], record["sample_id"])


def record_key(record: Record) -> tuple[Any, ...]:
    """Identity of a record; a run holds each at most once."""
    return (
        record["benchmark"],
        record["task"],
        variant_of(record),
        budget_order(record["kv_budget"]),
        *sample_key(record),
    )


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def check_record(record: object, source: str) -> None:
    """Raise ReportError unless `record` can be aggregated. `where` names the place, for the message."""
    if not isinstance(record, Mapping):
        raise ReportError(f"{source}: expected one JSON object per record, got {type(record).__name__}")
    for name in ("benchmark", "task", "sample_id", "method", "preset", "first_token"):
        if not isinstance(record.get(name), str) or not record[name]:
            raise ReportError(f"{source}: field {name!r} must be a non-empty string, got {record.get(name)!r}")
    if not isinstance(record.get("query_aware"), bool):
        raise ReportError(f"{source}: field 'query_aware' must be true or false, got {record.get('query_aware')!r}")
    if not _is_int(record.get("seed")):
        raise ReportError(f"{source}: field 'seed' must be an integer, got {record.get('seed')!r}")
    if "kv_budget" not in record:
        raise ReportError(f"{source}: field 'kv_budget' is missing; expected {EXPECTED}")
    budget, slots = record["kv_budget"], record.get("kv_slots")
    if not is_budget(budget):
        raise ReportError(f"{source}: field 'kv_budget' must be {EXPECTED}, got {budget!r}")
    if slots is not None and (not _is_int(slots) or slots < 0):
        raise ReportError(f"{source}: field 'kv_slots' must be an integer >= 0, or null, got {slots!r}")
    score, reason = record.get("score"), record.get("infeasible") or record.get("unsupported")
    if score is None:
        if not isinstance(reason, str) or not reason:
            raise ReportError(
                f"{source}: score is null, so field 'infeasible' (of a budget) or 'unsupported' (of a model) must "
                f"say why, got {reason!r}"
            )
        return
    if not is_number(score) or not 0 <= score <= 100:
        raise ReportError(f"{source}: score must be a percentage in 0..100, or null with a reason, got {score!r}")
    if reason is not None:
        raise ReportError(
            f"{source}: a record with a score cannot be infeasible or unsupported, got score {score!r} and {reason!r}"
        )
    if isinstance(budget, str) and slots is None:
        raise ReportError(f"{source}: kv_budget is a share, {budget!r}, so field 'kv_slots' must say how many slots")
    facts = record.get("facts")
    if facts is not None and not (isinstance(facts, Mapping) and all(map(is_number, facts.values()))):
        raise ReportError(f"{source}: field 'facts' must be an object of numbers, got {facts!r}")
    for name in (*BYTE_FIELDS, "prompt_tokens"):
        if record.get(name) is not None and (not is_number(record[name]) or record[name] < 0):
            raise ReportError(f"{source}: field {name!r} must be a number >= 0, got {record[name]!r}")


def sorted_records(records: Iterable[Record]) -> list[Record]:
    """Checked, each identity once, in the one order everything here uses."""
    listed = list(records)
    for number, record in enumerate(listed, start=1):
        check_record(record, f"record {number}")
    listed.sort(key=record_key)
    for first, second in pairwise(listed):
        if record_key(first) == record_key(second):
            raise ReportError(
                f"sample {first['sample_id']!r} of {first['benchmark']}/{first['task']} is recorded twice for method "
                f"{first['method']!r} at kv_budget {first['kv_budget']}; expected once: remove one of the lines"
            )
    return listed


def digest(records: Iterable[Record]) -> str:
    """Fingerprint of everything `aggregate` reads; ties a metrics file to its records."""
    names = (
        *("benchmark", "task", "method", "preset", "query_aware", "first_token", "kv_budget", "seed", "sample_id"),
        *("score", "infeasible", "prompt_tokens", *BYTE_FIELDS),
    )
    state = hashlib.sha256()
    for record in sorted_records(records):
        share = isinstance(record["kv_budget"], str)  # a number of slots says itself how many
        kept = {name: record.get(name) for name in (*names, *(["kv_slots"] if share else []))}
        kept |= {"facts": record["facts"]} if record.get("facts") else {}
        state.update(json.dumps(kept, sort_keys=True).encode() + b"\n")
    return state.hexdigest()[:16]
