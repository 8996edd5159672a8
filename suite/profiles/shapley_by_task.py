"""Which Shapley values each task uses: those of its own game, or else those of the model."""

from __future__ import annotations

from collections.abc import Mapping

from cokv.types import HeadScores
from suite.profiles.profile_folder import mean_over_tasks
from suite.profiles.run_profiles import Profiles
from suite.spec import Experiment
from suite.tasks.benchmarks import task_names


def shapley_by_task(
    experiment: Experiment, played: Mapping[str, HeadScores], profiles: Profiles
) -> dict[str, HeadScores]:
    """played: Shapley values of the tasks that had a game. The others use the file of [profiles] where one is named,
    or else the mean over these.
    """
    missing = [task for task in task_names(experiment) if task not in played]
    if not missing or not played:
        return dict(played)
    of_model = profiles.by_name.get("cokv")
    others = of_model if isinstance(of_model, HeadScores) else mean_over_tasks(played)
    return {**played, **dict.fromkeys(missing, others)}
