"""The published values that an experiment's [paper] section names, counted."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import dataclass

from suite.spec import Experiment, PaperSpec, ReportedSpec


@dataclass(frozen=True)
class PublishedCount:
    """How many values a paper prints for a model and a method, by the paper's own word for the budget."""

    paper: str
    model: str
    benchmark: str
    method: str
    budgets: dict[str, int]


def published_counts(experiment: Experiment) -> list[PublishedCount]:
    """In the order of [paper] `reported`, then of the table; values that two entries name are counted once."""
    values = list(dict.fromkeys(value for entry in _reported(experiment) for value in entry.values()))
    groups: dict[tuple[str, str, str, str], Counter[str]] = {}
    for value in values:
        key = (value.paper, value.model, value.benchmark, value.method)
        groups.setdefault(key, Counter())[value.budget] += 1
    return [PublishedCount(*key, dict(budgets)) for key, budgets in groups.items()]


def commands(experiment: Experiment) -> list[str]:
    """The command that shows each entry's values. A part of a model's name matches, so it may show more than these."""
    shown: dict[str, None] = {}
    for entry in _reported(experiment):
        options = [("--paper", entry.paper), ("--model", entry.model), ("--benchmark", entry.benchmark)]
        words = [word for option, value in options if value is not None for word in (option, shlex.quote(value))]
        shown[" ".join(["cokv reported", *words])] = None
    return list(shown)


def _reported(experiment: Experiment) -> tuple[ReportedSpec, ...]:
    paper: PaperSpec | None = experiment.paper
    return () if paper is None else paper.reported
