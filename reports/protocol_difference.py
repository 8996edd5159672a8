"""One field in which a run's protocol and a published one differ, and how two values of a field are compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reports.reported.sources import NOT_STATED


@dataclass(frozen=True)
class Difference:
    """One field of the protocol. here, there: as text; where: what states it there. known: whether both are known."""

    field: str
    here: str
    there: str
    where: str = ""
    known: bool = True


_WORDS = {
    "chat": {True: "in a chat template", False: "without a chat template"},
    "newline_stop": {True: "ends at a newline", False: "does not end at a newline"},
    "query_aware": {True: "question seen when tokens are chosen", False: "question not seen when tokens are chosen"},
}


def _words(name: str, value: Any) -> str:
    return _WORDS[name][value] if name in _WORDS and isinstance(value, bool) else str(value)


def compare(name: str, here: Any, there: Any, where: str) -> list[Difference]:
    """Nothing where both are the same; None is a value that one of them does not say, and equals nothing."""
    if there is None:
        return [Difference(name, "not known" if here is None else _words(name, here), NOT_STATED, where, known=False)]
    if here is None:
        return [Difference(name, "not known", _words(name, there), where, known=False)]
    return [] if here == there else [Difference(name, _words(name, here), _words(name, there), where)]


def part(value: Any, *names: str) -> Mapping[str, Any]:
    """A table inside the spec; an empty one where there is none."""
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}
