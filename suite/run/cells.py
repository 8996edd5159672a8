"""The grid of an experiment: every method at every budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cokv.methods.method import Method
from cokv.methods.registry import get_method
from cokv.types import KVBudget
from suite.spec import Experiment


@dataclass(frozen=True)
class GridCell:
    """A method at a budget (None if the method takes none)."""

    method: Method
    kv_budget: KVBudget | None

    @property
    def nominal(self) -> int | str | None:
        """The budget as written in records."""
        return None if self.kv_budget is None else self.kv_budget.nominal


def grid_cells(experiment: Experiment) -> list[GridCell]:
    """Every (method, budget), and methods that take no budget once."""
    budgets = [KVBudget.parse(budget) for budget in experiment.kv_budgets]
    methods = [get_method(spec.name, spec.preset, **spec.params) for spec in experiment.methods]
    return [GridCell(m, budget) for m in methods for budget in (budgets if m.takes_budget else [None])]


def variant_facts(method: Method) -> dict[str, Any]:
    """What a table says of a method beside its scores: whether it is this project's own, and what differs from the
    paper's parameters, as [name, value here, value of the paper].
    """
    changed = [[name, here, paper] for name, (here, paper) in method.changed.items()]
    return {"method": method.name, "preset": method.variant, "ours": method.ours, "changed": changed}
