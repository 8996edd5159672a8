"""Checks that a scorer keeps the contract of cokv/methods/scorers, on small models: `cokv check-method`.

The models are ordinary transformers with random weights, prefilled as in a run. How *good* a scorer is, is not checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cokv.methods.conformance.checks import CHECKS, Broken
from cokv.methods.scorers import Scorer

__all__ = ["CHECKS", "Check", "check_scorer"]


@dataclass(frozen=True)
class Check:
    """The outcome of one check. `message`: what was checked, or why it failed."""

    name: str
    passed: bool
    message: str


def check_scorer(scorer: Scorer, only: Sequence[str] | None = None) -> list[Check]:
    """Runs all checks, or those named, in order. A scorer that raises fails the check that made it raise."""
    results = []
    for name, check in CHECKS.items():
        if only is not None and name not in only:
            continue
        try:
            results.append(Check(name, True, check(scorer)))
        except Broken as broken:
            results.append(Check(name, False, str(broken)))
        except Exception as error:  # any error of the user's code is a failure
            results.append(Check(name, False, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"))
    return results
