"""One row of the grid: a method at a budget, and what it asks of a prefill and of decoding."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from cokv.cache.policies import Policy
from cokv.methods.method import Method
from cokv.methods.policies.by_name import BY_NAME, policy_named
from cokv.methods.registry import get_method
from cokv.model.loading import Shape
from cokv.types import CokvError, HeadScores
from suite.spec import Experiment


@dataclass(frozen=True)
class Cell:
    """A method at a budget (None where the method takes none)."""

    method: Method
    kv_budget: int | None

    def policy(self, shape: Shape | None = None, scores: HeadScores | None = None) -> Policy:
        """What happens while decoding. `scores`: for bits that follow them."""
        heads = None if shape is None else (shape.num_layers, shape.num_kv_heads)
        try:
            return policy_named(self.method.policy, self.kv_budget, self.method.parameters, heads, scores)
        except CokvError as error:
            raise CokvError(f"{self.method.name}: {error}") from None


def cells(experiment: Experiment) -> list[Cell]:
    """Every (method, budget); methods that take no budget once."""
    made = []
    for spec in experiment.methods:
        method = get_method(spec.name, spec.preset, **spec.params)
        budgets: tuple[int | None, ...] = experiment.kv_budgets if takes_budget(method) else (None,)
        made += [Cell(method, budget) for budget in budgets]
    return made


def takes_budget(method: Method) -> bool:
    """Whether there is a cell for each kv_budget, or one for all: the full cache, quantized or not."""
    return method.scorer is not None or BY_NAME[method.policy].sized


def prefill_requirements(cells: Iterable[Cell]) -> tuple[int, list[Any]]:
    """The window of queries and the observers that one prefill needs for these cells, their policies' included."""
    window = 1
    observers: list[Any] = []
    for cell in cells:
        parts: list[Any] = [cell.method]
        with suppress(CokvError):  # said where the policy is asked for
            parts.append(cell.policy())
        for part in parts:
            window = max(window, getattr(part, "window_size", 0))
            observers += getattr(part, "observers", ())
    return window, observers
