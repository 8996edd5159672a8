"""One thing to look at, and what was seen. A check that fails, or hangs, is a line of its own and hides no other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

LIMIT = 60.0  # seconds; what takes longer hangs, even where packages load from a slow disk


class State(StrEnum):
    """ok: there, and usable. absent: not there, and only some work needs it. warning: it works, and less well than it
    could. problem: the default experiment cannot run. failed: the check itself did not end well, so nothing is known.
    """

    OK = "ok"
    ABSENT = "absent"
    WARNING = "warning"
    PROBLEM = "problem"
    FAILED = "failed"


@dataclass(frozen=True)
class Finding:
    """What was seen. remedy: what to do where something is missing, commands where there are any, one per line.
    facts: of JSON.
    """

    state: State
    detail: str
    remedy: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """limit: seconds after which it is given up. early: begins before all others and runs beside them, as one that
    waits for the network; it may import nothing that others do."""

    group: str
    name: str
    look: Callable[[], Finding]
    limit: float = LIMIT
    early: bool = False


def look(check: Check) -> Finding:
    """What a check sees."""
    return begin(check)()


def begin(check: Check) -> Callable[[], Finding]:
    """Begins a check, in a thread that nobody waits for longer than its limit; call the result for the finding."""
    seen: list[Finding] = []

    def run() -> None:
        try:
            seen.append(check.look())
        except BaseException as error:  # a broken package may raise anything, even SystemExit
            reason = " ".join(str(error).split())[:200]
            seen.append(Finding(State.FAILED, f"could not be looked at: {type(error).__name__}: {reason}"))

    thread = threading.Thread(target=run, daemon=True, name=f"doctor: {check.name}")
    thread.start()

    def wait() -> Finding:
        thread.join(check.limit)
        return seen[0] if seen else Finding(State.FAILED, f"gave no answer in {check.limit:g} seconds")

    return wait
