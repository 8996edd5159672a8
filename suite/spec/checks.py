"""The checks of the paper's claims: [checks]."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias, get_args

from pydantic import Field, field_validator

from suite.spec.part import Budget, Count, Part, each_once

CheckName: TypeAlias = Literal[
    "stability", "slices", "masking", "alpha", "window", "profiles", "bits", "utility", "first_token", "methods"
]
CHECKS: tuple[CheckName, ...] = get_args(CheckName)
Share = Annotated[float, Field(ge=0, lt=1)]


class ChecksSpec(Part):
    """Which checks run, and how large they are. Games are those of [game] unless a key here says otherwise.

    tasks: whose head scores are checked, and whose first `samples` test samples are answered; None: all. game_tasks: of
    these, the ones that further games are played on (slices, utility, first_token); None: the first. kv_budget: of
    every comparison of answers but `methods`, which reads the run's own records. coalitions_per_size: of each of the
    two runs; None: as in [game]. utility_per_size: the same for `utility` alone, whose task metric may be decoded at
    length. reference_per_size: of each of two runs over all sizes, against which slice sizes are
    judged; exact: evaluate all coalitions instead, for at most 20 heads. masked_shares, alpha_shares: of the heads.
    """

    run: tuple[CheckName, ...] = CHECKS
    tasks: tuple[str, ...] | None = None
    game_tasks: tuple[str, ...] | None = None
    samples: Count = 12
    kv_budget: Budget = 64
    coalitions_per_size: Count | None = None
    utility_per_size: Count | None = None
    reference_per_size: Count = 4
    exact: bool = False
    masked_shares: tuple[Annotated[float, Field(gt=0, le=0.5)], ...] = (0.1, 0.25, 1 / 3, 0.5)
    alpha_shares: tuple[Share, ...] = (0.0, 0.0625, 0.125, 0.25, 0.375, 0.5)
    windows: tuple[Count, ...] = (4, 8, 16, 32)
    seed: Annotated[int, Field(ge=0)] = 0

    @field_validator("run", "masked_shares", "alpha_shares", "windows", "tasks", "game_tasks")
    @classmethod
    def _distinct(cls, values: tuple[object, ...] | None) -> tuple[object, ...] | None:
        return None if values is None else each_once(values)
