"""`cokv profile ...`: head profiles: compute, show, merge and compare them, or aggregate them from their ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from suite.cli.commands import ExperimentFile, experiment_of, reported
from suite.errors import SuiteError

app = typer.Typer(help="Head profiles: how much each KV head is worth to a task.", no_args_is_help=True)

Shape = Annotated[str | None, typer.Option(help="LAYERSxKV_HEADS such as 32x8: reduces query heads to KV heads.")]
LedgerFile = Annotated[Path, typer.Argument(help="A ledger: game.sqlite of a folder in runs/games.")]


@app.command()
@reported
def ssv(
    task: Annotated[str, typer.Option(help="A task of the experiment.")],
    experiment: ExperimentFile = None,
    runs: Annotated[Path, typer.Option(help="Where profile folders are kept.")] = Path("runs"),
    coalitions: Annotated[int | None, typer.Option(help="Coalitions per slice size and half.")] = None,
    prompts: Annotated[int | None, typer.Option(help="Validation prompts.")] = None,
    block_size: Annotated[int | None, typer.Option(help="Coalitions evaluated, and recorded, at a time.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the two halves' coalitions.")] = None,
    estimator: Annotated[str | None, typer.Option(help="sliced, or adjusted: the linear part known.")] = None,
    draws: Annotated[str | None, typer.Option(help="independent, or balanced over all sizes.")] = None,
    utility: Annotated[
        str | None, typer.Option(help="metric, exact_match, probability or log_likelihood of the gold answer.")
    ] = None,
    players: Annotated[str | None, typer.Option(help="kv_head, query_head or layer.")] = None,
    first_token: Annotated[str | None, typer.Option(help="prefill, or compressed.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes, each with its own model.")] = None,
    ray: Annotated[str | None, typer.Option(help="'auto', or the address of a Ray cluster.")] = None,
    mae: Annotated[bool, typer.Option("--mae", help="Stop at the paper's rule: MAE between halves < 1/n.")] = False,
    reliability: Annotated[float | None, typer.Option(help="Stop at this split-half reliability, such as 0.9.")] = None,
    max_minutes: Annotated[float | None, typer.Option(help="Stop after this long; the same command goes on.")] = None,
    max_evaluations: Annotated[int | None, typer.Option(help="Stop after this many coalitions.")] = None,
) -> None:
    """Sliced Shapley values of every KV head on one task. A killed run goes on; a longer one adds to its ledger."""
    from transformers.utils.logging import disable_progress_bar

    from cokv.game.stopping import StopRules
    from suite.cli.profile_show import profile_table, render
    from suite.heads.task_ssv import profile_ssv
    from suite.run.workers import pool_for
    from suite.spec import with_game

    disable_progress_bar()
    spec = with_game(
        experiment_of(experiment),
        coalitions_per_size=coalitions,
        prompts=prompts,
        block_size=block_size,
        seed=seed,
        estimator=estimator,
        draws=draws,
        utility=utility,
        players=players,
        first_token=first_token,
    )
    pool = pool_for(spec.model, 1 if workers is None and ray is None else workers, ray)
    rules = StopRules(mae=mae, reliability=reliability, evaluations=max_evaluations, minutes=max_minutes)
    profile = profile_ssv(spec, task, runs, pool, rules)
    render(profile_table(profile.scores, f"{task}: {profile.scores.provenance['kind']}"))
    print(profile.folder)


@app.command()
@reported
def show(
    file: Annotated[Path, typer.Argument(help="A .safetensors profile, a published one, or a ledger.")],
    game: Annotated[str | None, typer.Option(help="Which game of a ledger.")] = None,
    shape: Shape = None,
) -> None:
    """A profile's scores with their intervals, and what they rest on."""
    from suite.cli.profile_show import render, tables_of
    from suite.profiles.published_tables import shape_of

    render(tables_of(file, game, shape_of(shape)))


@app.command()
@reported
def merge(
    out: Annotated[Path, typer.Argument(help="The ledger to add to; a new file if it does not exist.")],
    files: Annotated[list[Path], typer.Argument(help="Ledgers, of other machines or seeds.")],
    tolerance: Annotated[float, typer.Option(help="How far two utilities of one coalition may differ.")] = 0.0,
) -> None:
    """Puts what several machines evaluated into one ledger. Another game, or another utility, is refused."""
    from cokv.game.ledger import Ledger

    new = not out.exists()
    try:
        with Ledger(out) as ledger:
            merged = ledger.merge(files, tolerance)
    except BaseException:
        if new:
            out.unlink(missing_ok=True)
        raise
    print(f"{out}: {merged.coalitions} coalitions and {merged.games} games added, {merged.known} known already")


@app.command()
@reported
def aggregate(
    ledger: LedgerFile,
    estimator: Annotated[str | None, typer.Option(help="As planned when left out.")] = None,
    aggregation: Annotated[str | None, typer.Option(help="paper or official, of sliced.")] = None,
    slice_sizes: Annotated[str | None, typer.Option(help="Such as 4,8: of sliced.")] = None,
    game: Annotated[str | None, typer.Option(help="Which game of the ledger.")] = None,
    out: Annotated[Path | None, typer.Option(help="A .safetensors file to write the profile to.")] = None,
) -> None:
    """Scores from a ledger, without a model."""
    from cokv.game.ledger import Ledger
    from suite.cli.profile_show import game_of, profile_table, render
    from suite.heads.ledger_scores import from_record
    from suite.heads.score_provenance import head_scores

    with Ledger(ledger, create=False) as source:
        record = game_of(source, game)
        estimates = from_record(record, estimator, aggregation, _sizes(slice_sizes))
        scores = head_scores(record, estimates, content=record.digest)
    if out is not None:
        scores.save(out)
    render(profile_table(scores, f"{record.name}: {scores.provenance['kind']}"))


@app.command()
@reported
def compare(
    files: Annotated[list[Path], typer.Argument(help="Published profiles, or folders of them.")],
    kv_budget: Annotated[int, typer.Option(help="KV slots per head, window included.")] = 128,
    window_size: Annotated[int, typer.Option(help="Last tokens every head keeps.")] = 8,
    prompt_tokens: Annotated[int, typer.Option(help="A head cannot keep more than these.")] = 8192,
    alpha: Annotated[int, typer.Option(help="Of the official CoKV formula: heads without extra.")] = 20,
    beta: Annotated[float, typer.Option(help="Of HeadKV's formula.")] = 1.5,
    shape: Shape = None,
    out: Annotated[Path | None, typer.Option(help="Folder for a page with heat maps.")] = None,
) -> None:
    """Published profiles side by side: sizes, copies, budgets by the official formula and ours, agreement."""
    from cokv.profiles.published_summary import SummarySettings
    from suite.cli.screen import screen
    from suite.profiles.published_tables import shape_of
    from suite.profiles.published_tables import show as show_profiles

    for file in files:
        if not file.exists():
            raise SuiteError(f"{file}: no such file; expected a published profile, or a folder of them")
    settings = SummarySettings(kv_budget, window_size, prompt_tokens, alpha, beta, shape_of(shape))
    show_profiles(files, settings, screen(), out)


def _sizes(text: str | None) -> tuple[int, ...] | None:
    try:
        return None if text is None else tuple(int(part) for part in text.split(","))
    except ValueError:
        raise SuiteError(f"--slice-sizes is {text!r}, expected whole numbers with commas, such as 4,8") from None
