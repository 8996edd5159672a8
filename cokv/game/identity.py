"""What a game is, as JSON: one spelling, one hash, and what differs between two of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from cokv.types import JSON, CokvError


def canonical(value: object) -> str:
    """JSON with one spelling."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def digest(value: object) -> str:
    """sha256 of the canonical JSON, its first 16 digits."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:16]


def require_same(subject: str, identity: Mapping[str, JSON], source: str, other: Mapping[str, JSON]) -> None:
    """Refuses two identities that differ, naming at most three of the keys."""
    left, right = _flat(identity), _flat(other)
    differing = sorted(key for key in left.keys() | right.keys() if left.get(key) != right.get(key))
    if differing:
        facts = [f"{key} is {left.get(key, 'absent')}, in {source} {right.get(key, 'absent')}" for key in differing[:3]]
        omitted = f"; and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise CokvError(f"{subject}: another game ({'; '.join(facts)}{omitted}), expected the same; use another file")


def _flat(value: JSON | Mapping[str, JSON], prefix: str = "") -> dict[str, str]:
    """{"a": {"b": 1}} -> {"a.b": "1"}, for messages."""
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, list):
        items = [(str(i), item) for i, item in enumerate(value)]
    else:
        return {prefix: json.dumps(value, ensure_ascii=False)}
    return {k: v for key, item in items for k, v in _flat(item, f"{prefix}.{key}" if prefix else str(key)).items()}
