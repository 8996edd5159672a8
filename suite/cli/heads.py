"""`cokv heads masking|transfer`: head-masking curves and the transfer matrix of an experiment.

Both work in the experiment's run folder, on the head scores it holds (or those of the file --scores), and add their
record to it: masking.json, transfer.json. `cokv report` shows them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from suite.cli.commands import ExperimentFile, experiment_of, kv_budget_of, reported
from suite.errors import SuiteError

app = typer.Typer(help="Curves of masked heads, and scores carried to other tasks.", no_args_is_help=True)

MOST_PRINTED_TASKS = 8  # of a transfer matrix on the screen; of more only the averages are printed

Runs = Annotated[Path, typer.Option(help="Where run folders are kept.")]
Tasks = Annotated[list[str] | None, typer.Option(help="A task of the experiment; may be repeated; all without it.")]
Limit = Annotated[int | None, typer.Option(help="As of `cokv reproduce`, to find that run's folder.")]
Samples = Annotated[int | None, typer.Option(help="Test samples per task; all without it.")]


@app.command()
@reported
def masking(
    experiment: ExperimentFile = None,
    runs: Runs = Path("runs"),
    task: Tasks = None,
    limit: Limit = None,
    samples: Samples = None,
    counts: Annotated[str | None, typer.Option(help="Numbers of heads, such as 0,1,2,4; 0 to n without it.")] = None,
    draws: Annotated[int, typer.Option(help="Random orders.")] = 3,
    preset: Annotated[str, typer.Option(help="normalized, or official (the top k means k + 1 heads).")] = "normalized",
    seed: Annotated[int, typer.Option(help="Of the random orders.")] = 0,
    scores: Annotated[Path | None, typer.Option(help="A file of head scores to rank by, instead of the run's.")] = None,
) -> None:
    """The score when the top, bottom or random k heads are cut, for every k."""
    from reports.head_experiments import masking_table
    from suite.heads import masking_and_transfer as head_records
    from suite.heads.masking import MaskingSpec

    numbers = None if counts is None else _numbers(counts)
    masking_spec = MaskingSpec(numbers, draws, preset, seed)  # type: ignore[arg-type]  # which checks the preset
    spec, loaded, folder, tasks = _opened(experiment, runs, limit, task, samples)
    masking_spec.counts_of(loaded.shape.num_layers * loaded.shape.num_kv_heads)
    ranked = None if scores is None else (scores.stem, _head_scores(scores, loaded))
    for name in tasks if ranked is None else ():
        head_records.scores_of(folder, name, loaded)  # raises for missing scores before anything is written
    folder.open()
    with folder.lock():
        curves = [head_records.masking(spec, loaded, folder, name, masking_spec, samples, ranked) for name in tasks]
    _print([masking_table({"curves": curves})])
    print(folder.path / head_records.MASKING)


@app.command()
@reported
def transfer(
    experiment: ExperimentFile = None,
    runs: Runs = Path("runs"),
    task: Tasks = None,
    limit: Limit = None,
    samples: Samples = None,
    kv_budget: Annotated[
        str | None, typer.Option(help="Slots per head or a share such as 20%; the experiment's first without it.")
    ] = None,
) -> None:
    """CoKV on every task with the head scores of every other task."""
    from reports.head_experiments import averages_table, transfer_table
    from suite.heads import masking_and_transfer as head_records

    spec, loaded, folder, tasks = _opened(experiment, runs, limit, task, samples)
    budget = spec.kv_budgets[0] if kv_budget is None else kv_budget_of(kv_budget).nominal
    settings = head_records.transfer_settings(spec, loaded, folder, budget, tasks)
    folder.open()
    with folder.lock():
        record = head_records.transfer(spec, loaded, folder, settings, samples)
    _print(
        [transfer_table(record)] * (len(tasks) <= MOST_PRINTED_TASKS or not record["averages"])
        + [averages_table(record)] * bool(record["averages"])
    )
    print(folder.path / head_records.TRANSFER)


def _opened(
    file: Path | None, runs: Path, limit: int | None, tasks: list[str] | None, samples: int | None
) -> tuple[Any, Any, Any, tuple[str, ...]]:
    """The experiment, its model, its run folder (nothing is written yet), and the tasks to run."""
    from transformers.utils.logging import disable_progress_bar

    from suite.experiment import open_run
    from suite.tasks.benchmarks import task_names

    disable_progress_bar()
    experiment = experiment_of(file, limit)
    names = task_names(experiment)
    for task in tasks or ():
        if task not in names:
            raise SuiteError(f"task {task!r} is not in the experiment; it has {', '.join(names)}")
    if samples is not None and samples < 1:
        raise SuiteError(f"--samples is {samples}, expected at least 1")
    folder, loaded = open_run(experiment, runs)
    return experiment, loaded, folder, tuple(dict.fromkeys(tasks)) if tasks else names


def _print(tables: list[Any]) -> None:
    from rich.text import Text

    from reports.table import to_rich
    from suite.cli.screen import screen

    console = screen(200)
    for table in tables:
        console.print(to_rich(table))
        console.print(Text("\n".join(table.notes), style="dim"))
        console.print()


def _head_scores(path: Path, loaded: Any) -> Any:
    from cokv.profiles.load import load_profile
    from cokv.types import HeadScores

    profile = load_profile(path, (loaded.shape.num_layers, loaded.shape.num_kv_heads))
    if not isinstance(profile, HeadScores):
        raise SuiteError(f"{path} holds curves, expected one score per head, such as SSV or HeadKV's JSON")
    return profile


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise SuiteError(f"--counts is {text!r}, expected whole numbers with commas between, such as 0,1,2,4") from None
