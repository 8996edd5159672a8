"""Does a scorer keep the contract of cokv/scorers? Each check tries it on small models and says what it found.

The models are real ones, so that window queries, observers and tokens come as they do in a run. What a scorer is
*worth* is not asked here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cokv.methods.conformance.checks import CHECKS, Broken
from cokv.methods.scorers import Scorer

__all__ = ["CHECKS", "Check", "check_scorer"]


@dataclass(frozen=True)
class Check:
    """One check of a scorer, and what it observed."""

    name: str
    passed: bool
    said: str


def check_scorer(scorer: Scorer, only: Sequence[str] | None = None) -> list[Check]:
    """All checks, or those named, in order. A scorer that raises fails the check that made it raise."""
    done = []
    for name, check in CHECKS.items():
        if only is not None and name not in only:
            continue
        try:
            done.append(Check(name, True, check(scorer)))
        except Broken as found:
            done.append(Check(name, False, str(found)))
        except Exception as error:  # any mistake of the user's code is a finding
            done.append(Check(name, False, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"))
    return done
