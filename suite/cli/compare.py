"""`cokv compare`: one prompt, every method."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from suite.cli.commands import kv_budget_of, reported
from suite.errors import SuiteError


@reported
def compare(
    prompt_file: Annotated[Path, typer.Option(help="A text file: the prompt.")],
    kv_budget: Annotated[str, typer.Option(help="KV slots per head, or a share of the prompt such as 20%.")],
    methods: Annotated[str, typer.Option(help="`all`, or names separated by commas; module:Class too.")] = "all",
    model: Annotated[str, typer.Option(help="embedded, a local folder, or a hub name.")] = "embedded",
    revision: Annotated[str | None, typer.Option(help="Commit of a hub model.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:0.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="At most this many answer tokens.")] = 24,
    profile: Annotated[
        list[str] | None,
        typer.Option(help="FILE for every method that it is for, or METHOD=FILE; also published files."),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(help="A run folder of this model, for profiles beside --profile."),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="Use --run's head scores of this task; without it, their mean over tasks."),
    ] = None,
    param: Annotated[
        list[str] | None, typer.Option(help="name=value for every method that has it, such as window_size=8.")
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="The prompt is the user's turn of the model's own chat template.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for compare.json, selections, and the picture.")] = None,
) -> None:
    """Which tokens of one prompt each method keeps, and what the model then answers.

    Methods that need a profile of the model take it from --profile, from --run, or, on the embedded model, from those
    that are shipped with it.
    """
    from transformers.utils.logging import disable_progress_bar

    from cokv.model.loading import load_model
    from suite.cli.compare_show import check_folder, show, write
    from suite.profiles.method_profiles import profiles_of
    from suite.profiles.profile_folder import of_run, shipped
    from suite.run.compare import compare as compare_methods
    from suite.run.compare import methods_by_names, read_prompt

    disable_progress_bar()
    budget = kv_budget_of(kv_budget)
    text = read_prompt(prompt_file)
    compared_methods = methods_by_names(methods, param or [])
    if task is not None and run is None:
        raise SuiteError(f"--task {task} says whose head scores of a run to use; name the run with --run")
    if out is not None:
        check_folder(out)
    loaded = load_model(model, revision, device, dtype)
    stored = shipped(loaded) if run is None else of_run(run, task, loaded)
    profiles = profiles_of(compared_methods, loaded, profile or [], stored)
    comparison = compare_methods(loaded, text, compared_methods, budget, max_new_tokens, profiles, chat)
    reason = comparison.why_none_ran(methods)
    paths = write(comparison, out) if out is not None and not reason else []  # before anything can fail to be printed
    show(comparison)
    if reason:
        raise SuiteError(reason)
    for path in paths:
        print(path)
