"""The head game: [game]."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from cokv.decode.session import FirstToken
from cokv.game.draws import Draws
from cokv.game.players import Players
from cokv.game.utility import Utility
from suite.spec.part import Count, Part, each_once


class GameSpec(Part):
    """Head scores by Sliced Shapley values, one game per task, on validation prompts that no test sample shares.

    `prompts` to `first_token` define the game (cokv.game.utility), the other fields how coalitions are drawn and used.
    """

    prompts: Count = 8
    window_size: Count = 8
    utility: Utility = "metric"
    players: Players = "kv_head"
    first_token: FirstToken = "prefill"
    slice_sizes: tuple[Count, ...]
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
    def _distinct(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        return each_once(values)

    @model_validator(mode="after")
    def _aggregation_fits_estimator(self) -> GameSpec:
        if self.estimator != "sliced" and self.aggregation != "paper":
            raise ValueError(
                f"aggregation {self.aggregation!r} works with estimator 'sliced' only, not with {self.estimator!r}"
            )
        return self
