"""What every check gets: the experiment, the model, the head scores to check; and what it returns: rows."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from cokv.model.loading import LoadedModel
from cokv.types import HeadScores
from longbench.tasks import get_task as longbench_task
from suite.heads.games import all_test_prompts, game_spec
from suite.spec import ChecksSpec, Experiment, GameSpec
from suite.tasks.benchmarks import task_names
from suite.tasks.prompt import Prompt

Row: TypeAlias = dict[str, Any]

RULER_CATEGORIES = {"niah": "retrieval", "vt": "multi-hop tracing", "cwe": "aggregation", "fwe": "aggregation"}


@dataclass(frozen=True, eq=False)
class Context:
    """The inputs of all checks. scores: the run's pooled SSV by task. records: the run's predictions."""

    experiment: Experiment
    loaded: LoadedModel
    scores: Mapping[str, HeadScores]
    records: Sequence[Mapping[str, Any]] = field(default=())

    @property
    def spec(self) -> ChecksSpec:
        assert self.experiment.checks is not None
        return self.experiment.checks

    @property
    def game(self) -> GameSpec:
        """[game] with the number of coalitions of [checks]."""
        changes = {"coalitions_per_size": self.spec.coalitions_per_size}
        return game_spec(self.experiment).model_copy(update={k: v for k, v in changes.items() if v is not None})

    def game_of(self, check: str) -> GameSpec:
        """The same for one check."""
        per_size = self.spec.utility_per_size if check == "utility" else None
        return self.game if per_size is None else self.game.model_copy(update={"coalitions_per_size": per_size})

    @property
    def num_players(self) -> int:
        return self.loaded.shape.num_layers * self.loaded.shape.num_kv_heads

    @property
    def tasks(self) -> tuple[str, ...]:
        return self.spec.tasks or task_names(self.experiment)

    @property
    def game_tasks(self) -> tuple[str, ...]:
        return self.spec.game_tasks or self.tasks[:1]


def samples_of(experiment: Experiment, loaded: LoadedModel, task: str) -> list[Prompt]:
    """The test samples of a task that are answered: the first ones over all seeds."""
    assert experiment.checks is not None
    return list(itertools.islice(all_test_prompts(experiment, loaded, task), experiment.checks.samples))


def category(experiment: Experiment, task: str) -> str:
    """The benchmark's own category of a task."""
    if experiment.ruler is not None and task in experiment.ruler.tasks:
        from ruler.tasks import get_task

        kind = get_task(task, experiment.ruler.preset).kind
        return RULER_CATEGORIES.get(kind, "question answering")
    return longbench_task(task).category


def not_run(check: str, what: str, reason: str, task: str | None = None) -> Row:
    """A row of a check, or a part of one, that this model or experiment does not allow."""
    return {"check": check, "what": what, "not_run": " ".join(reason.split()), **({"task": task} if task else {})}
