"""Runs an experiment into its folder: head scores and profiles, then every sample, then measurements, checks
and metrics.

Each stage saves finished work, so a killed run can resume, with metrics equal to an uninterrupted run's, byte for byte.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cokv import probes
from cokv.cache.attention.choose import choose
from cokv.cluster import InProcess, Pool
from cokv.game.identity import digest
from cokv.model.loading import LoadedModel, load_model
from cokv.types import HeadScores
from reports.aggregate import aggregate
from suite.checks.context import Context
from suite.checks.run import RECORD as CHECKS
from suite.checks.run import run_checks
from suite.heads.experiment_ssv import compute_head_scores
from suite.heads.games import VERSIONS_THAT_MATTER
from suite.heads.run_scores import store_scores
from suite.profiles import run_profiles as profiles_run
from suite.profiles.run_profiles import Profiles, compute_profiles
from suite.profiles.shapley_by_task import shapley_by_task
from suite.run.cells import grid_cells, variant_facts
from suite.run.fetching import fetch_known
from suite.run.folder import RunFolder
from suite.run.measure import measure_decode, measured_settings
from suite.run.preflight import check_fit
from suite.run.samples import run_samples
from suite.run.source import source_digest
from suite.run.stored_answers import PREDICTIONS
from suite.run.workers import in_words, machine_of, size
from suite.spec import Experiment
from suite.tasks import longbench_mini_tasks, longbench_tasks, needle_tasks, ruler_tasks
from suite.tasks.benchmarks import shared_identity
from suite.tasks.longbench_official import official_numbers

MEASUREMENTS = "measurements.json"
# What is asked does not change with names, with the paths of the model and the user's texts (checksums of their content
# are stated), with the choice among several GPUs, or with how many coalitions are evaluated at a time.
NOT_ASKED: Any = {
    "name": True,
    "description": True,
    "shown_samples": True,
    "paper": True,
    "profiles": True,  # settings and checksums of the profiles in use are stated
    "model": {"name", "device"},
    "ruler": {"data", "revision", "essays", "questions"},
    "longbench": {"data", "revision", "templates"},
    "needle": {"essays"},
    "game": {"block_size"},
}


def identity(experiment: Experiment, loaded: LoadedModel) -> dict[str, Any]:
    """What all answers of a run share, and each can change with. It gives the folder its name.

    What can change some of them only, such as a method's parameters, its profile or a task's file, is in their own
    identity: suite/run/stored_answers.py.
    """
    versions = probes.versions()
    return {
        "model": {name: value for name, value in loaded.identity().items() if name != "model"},
        "protocol": experiment.protocol.model_dump(mode="json"),
        "benchmarks": shared_identity(experiment),
        "versions": {name: versions[name] for name in VERSIONS_THAT_MATTER if name in versions},
        "source": source_digest(),
        "device": loaded.device.type,
        "attention": choose(loaded.device, loaded.model.dtype, loaded.shape.head_dim, loaded.shape.softcap),
    }


def asked(experiment: Experiment) -> dict[str, Any]:
    """What the experiment asks for: all that can change a number of its report, beside `identity`."""
    profiles = profiles_run.identity(experiment)
    return {
        "experiment": experiment.model_dump(mode="json", exclude=NOT_ASKED),
        "methods": [cell.method.spec() for cell in grid_cells(experiment)],
        "data": _data(experiment),
        "profiles": profiles,
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
    if experiment.needle is not None:
        data["needle"] = needle_tasks.identity(experiment.needle)
    return data


def open_run(experiment: Experiment, runs: Path) -> tuple[RunFolder, LoadedModel]:
    """The run's folder (not yet opened) and the loaded model; refuses what does not fit the model."""
    if experiment.longbench is not None:
        longbench_tasks.check(experiment.longbench)
    if experiment.ruler is not None:
        ruler_tasks.check(experiment.ruler, profiles_run.validation_prompts_per_task(experiment))
    if experiment.needle is not None:
        needle_tasks.check(experiment.needle)
    spec = experiment.model
    fetch_known(spec.name)
    loaded = load_model(spec.name, spec.revision, spec.device, spec.dtype, spec.positions)
    check_fit(experiment, loaded)
    methods = [cell.method for cell in grid_cells(experiment)]
    about = {
        "name": experiment.name,
        "description": experiment.description,
        "model": spec.name,
        "titles": {method.name: method.title for method in methods},
        "variants": [variant_facts(method) for method in dict.fromkeys(methods)],
    }
    return RunFolder(runs, experiment.name, identity(experiment, loaded), asked(experiment), about), loaded


def run_experiment(experiment: Experiment, runs: Path, pool: Pool | None = None) -> RunFolder:
    """Runs what is missing, in this process or by the workers of a pool. A finished run is not changed."""
    pool = pool or InProcess()
    folder, loaded = open_run(experiment, runs)
    folder.open()
    if folder.done:
        return folder
    with folder.lock():
        machine = machine_of(pool, loaded.device)
        if before := folder.ask(machine):
            print(
                f"{folder.path.name}: computed so far on {', '.join(map(in_words, before))}, from here on "
                f"{in_words(machine)}; numbers of the two are equal up to rounding (spec.json names both)",
                file=sys.stderr,
            )
        scores: dict[str, HeadScores] = {}
        if experiment.game is not None:
            with folder.stage("head game", size(pool)):
                scores = compute_head_scores(experiment, loaded, folder, pool)
        else:
            store_scores(folder, {})
        with folder.stage("profiles", 1):
            profiles = compute_profiles(experiment, loaded, folder)
        scores = shapley_by_task(experiment, scores, profiles)
        with folder.stage("samples", size(pool)):
            run_samples(experiment, loaded, folder, scores, profiles, pool)
        _measure(experiment, loaded, folder, next(iter(scores.values()), None), profiles)
        _check(experiment, loaded, folder, scores, pool)
        if experiment.longbench is not None:
            folder.write("longbench.json", official_numbers(folder.lines(PREDICTIONS), experiment.longbench.resolved()))
        folder.write("metrics.json", aggregate(folder.lines(PREDICTIONS)))
        folder.finish(records=len(folder.lines(PREDICTIONS)))
    return folder


def _measure(
    experiment: Experiment, loaded: LoadedModel, folder: RunFolder, scores: HeadScores | None, profiles: Profiles
) -> None:
    """Measures again where [measure], a measured method or its profile has changed since the last time."""
    settings = None if experiment.measure is None else measured_settings(experiment, scores, profiles)
    stored = folder.read(MEASUREMENTS)
    made_for = str(stored.get("settings")) if isinstance(stored, dict) else None if stored is None else "unknown"
    folder.put_aside(MEASUREMENTS, made_for, settings)
    if settings is None or folder.read(MEASUREMENTS) is not None:
        return
    with folder.stage("latency and memory", 1):
        measured = measure_decode(experiment, loaded, scores, profiles)
        folder.write(MEASUREMENTS, {"settings": settings, **measured})


def _check(
    experiment: Experiment, loaded: LoadedModel, folder: RunFolder, scores: Mapping[str, HeadScores], pool: Pool
) -> None:
    """Checks again where anything that the experiment asks for has changed since the last time."""
    settings = None if experiment.checks is None else digest(asked(experiment))
    stored = folder.read(CHECKS)
    folder.put_aside(CHECKS, None if stored is None else str(stored.get("settings")), settings)
    if settings is None or folder.read(CHECKS) is not None:
        return
    with folder.stage("checks", size(pool)):
        context = Context(experiment, loaded, scores, folder.lines(PREDICTIONS))
        folder.write(CHECKS, {"settings": settings, **run_checks(context, folder, pool)})
