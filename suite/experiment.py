"""Runs an experiment into its folder: head scores and profiles, then every sample, then measurements and metrics.

Each stage saves finished work, so a killed run can resume, with metrics equal to an uninterrupted run's, byte for byte.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cokv import probes
from cokv.cluster import InProcess, Pool
from cokv.model.loading import LoadedModel, load_model
from cokv.types import HeadScores
from reports.aggregate import aggregate
from suite.heads.experiment_ssv import compute_head_scores
from suite.heads.games import VERSIONS_THAT_MATTER
from suite.profiles import run_profiles as profiles_run
from suite.profiles.run_profiles import compute_profiles
from suite.run.cells import grid_cells, variant_facts
from suite.run.folder import RunFolder
from suite.run.measure import measure_decode
from suite.run.preflight import check_fit
from suite.run.samples import PREDICTIONS, run_samples
from suite.run.source import source_digest
from suite.run.workers import size
from suite.spec import Experiment
from suite.tasks import longbench_mini_tasks, longbench_tasks, ruler_tasks
from suite.tasks.longbench_official import official_numbers

# Not hashed: names, the paths of the model and the user's texts (checksums of their content are hashed), and the choice
# among several GPUs.
NOT_HASHED: Any = {
    "name": True,
    "description": True,
    "profiles": True,  # settings and checksums of the profiles in use are hashed
    "model": {"name", "device"},
    "ruler": {"data", "revision", "essays", "questions"},
    "longbench": {"data", "revision", "templates"},
}


def identity(experiment: Experiment, loaded: LoadedModel) -> dict[str, Any]:
    """Everything that can change an answer or a score."""
    versions = probes.versions()
    profiles = profiles_run.identity(experiment)
    return {
        "experiment": experiment.model_dump(mode="json", exclude=NOT_HASHED),
        "model": {name: value for name, value in loaded.identity().items() if name != "model"},
        "methods": [cell.method.spec() for cell in grid_cells(experiment)],
        "data": _data(experiment),
        **({"profiles": profiles} if profiles else {}),
        "versions": {name: versions[name] for name in VERSIONS_THAT_MATTER if name in versions},
        "source": source_digest(),
        "device": loaded.device.type,
    }


def _data(experiment: Experiment) -> dict[str, Any]:
    """What determines the samples: generator versions and checksums."""
    data: dict[str, Any] = {}
    if experiment.ruler is not None:
        data["ruler"] = ruler_tasks.identity(experiment.ruler)
    if experiment.longbench is not None:
        data["longbench"] = longbench_tasks.identity(experiment.longbench)
    if experiment.longbench_mini is not None:
        data["longbench_mini"] = longbench_mini_tasks.identity()
    return data


def open_run(experiment: Experiment, runs: Path) -> tuple[RunFolder, LoadedModel]:
    """The run's folder (not yet opened) and the loaded model; refuses what does not fit the model."""
    if experiment.longbench is not None:
        longbench_tasks.check(experiment.longbench)
    if experiment.ruler is not None:
        ruler_tasks.check(experiment.ruler, profiles_run.validation_prompts_per_task(experiment))
    spec = experiment.model
    loaded = load_model(spec.name, spec.revision, spec.device, spec.dtype)
    check_fit(experiment, loaded)
    methods = [cell.method for cell in grid_cells(experiment)]
    about = {
        "name": experiment.name,
        "description": experiment.description,
        "model": spec.name,
        "titles": {method.name: method.title for method in methods},
        "variants": [variant_facts(method) for method in dict.fromkeys(methods)],
    }
    return RunFolder(runs, experiment.name, identity(experiment, loaded), about), loaded


def run_experiment(experiment: Experiment, runs: Path, pool: Pool | None = None) -> RunFolder:
    """Runs what is missing, in this process or by the workers of a pool. A finished run is not changed."""
    pool = pool or InProcess()
    folder, loaded = open_run(experiment, runs)
    folder.open()
    if folder.done:
        return folder
    with folder.lock():
        scores: dict[str, HeadScores] = {}
        if experiment.game is not None:
            with folder.stage("head game", size(pool)):
                scores = compute_head_scores(experiment, loaded, folder, pool)
        with folder.stage("profiles", 1):
            profiles = compute_profiles(experiment, loaded, folder)
        with folder.stage("samples", size(pool)):
            run_samples(experiment, loaded, folder, scores, profiles, pool)
        if experiment.measure is not None and folder.read("measurements.json") is None:
            first_scores = next(iter(scores.values()), None)
            with folder.stage("latency and memory", 1):
                folder.write("measurements.json", measure_decode(experiment, loaded, first_scores, profiles))
        if experiment.longbench is not None:
            folder.write("longbench.json", official_numbers(folder.lines(PREDICTIONS), experiment.longbench.protocol))
        folder.write("metrics.json", aggregate(folder.lines(PREDICTIONS)))
        folder.write("done.json", {"records": len(folder.lines(PREDICTIONS)), "hash": folder.hash})
    return folder
