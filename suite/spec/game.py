"""The head game: [game]."""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from cokv.decode.session import FirstToken
from cokv.game.draws import Draws
from cokv.game.players import Players
from cokv.game.utility import Utility
from suite.spec.part import Count, Part, each_once


def _size(value: int | str) -> int | str:
    """A number of players, or a share of them written as a fraction."""
    expected = 'expected a number of players, or a share of them between 0 and 1 such as "1/4"'
    if isinstance(value, int):
        if not 1 <= value < 1 << 31:
            raise ValueError(f"got {value}, {expected}")
        return value
    try:
        share = Fraction(value)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"got {value!r}, {expected}") from None
    if not 0 < share < 1:
        raise ValueError(f"got {value!r}, {expected}")
    return str(share)


Size = Annotated[int | str, AfterValidator(_size)]


class GameSpec(Part):
    """Head scores by Sliced Shapley values, one game per task, on validation prompts that no test sample shares.

    `prompts` to `first_token` define the game (cokv.game.utility), the other fields how coalitions are drawn and used.
    tasks: which tasks have a game of their own, by default all; the others use the mean over these, or a profile that
    [profiles] names. slice_sizes: numbers of players, or shares of them ("1/4"), which fit any model.
    """

    tasks: tuple[str, ...] | None = None
    prompts: Count = 8
    window_size: Count = 8
    utility: Utility = "metric"
    players: Players = "kv_head"
    first_token: FirstToken = "prefill"
    slice_sizes: tuple[Size, ...]
    coalitions_per_size: Count
    estimator: Literal["sliced", "adjusted"] = "sliced"
    draws: Draws = "independent"
    aggregation: Literal["paper", "official"] = "paper"
    seed: Annotated[int, Field(ge=0)] = 0
    block_size: Count = 96  # coalitions evaluated and recorded together
    removal_samples: Count = 16
    removal_share: Annotated[float, Field(gt=0, le=0.5)] = 0.25

    @field_validator("slice_sizes")
    @classmethod
    def _distinct(cls, values: tuple[Size, ...]) -> tuple[Size, ...]:
        return each_once(values)

    @field_validator("tasks")
    @classmethod
    def _distinct_tasks(cls, values: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if values is None else each_once(values)

    def sizes_of(self, num_players: int) -> tuple[int, ...]:
        """The slice sizes as numbers of players, shares rounded to the nearest."""
        return tuple(
            size if isinstance(size, int) else round(Fraction(size) * num_players) for size in self.slice_sizes
        )

    @model_validator(mode="after")
    def _aggregation_fits_estimator(self) -> GameSpec:
        if self.estimator != "sliced" and self.aggregation != "paper":
            raise ValueError(
                f"aggregation {self.aggregation!r} works with estimator 'sliced' only, not with {self.estimator!r}"
            )
        return self
