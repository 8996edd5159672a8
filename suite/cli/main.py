"""The command line. A user's error is one line on stderr and exit code 2."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from longbench.tasks import Task as LongBenchTask
from reports.text import visible
from suite.cli.against import print_against
from suite.cli.check_method import check_method
from suite.cli.claims import claims
from suite.cli.commands import ExperimentFile, experiment_of, reported
from suite.cli.compare import compare
from suite.cli.doctor import doctor
from suite.cli.dry_run import can_estimate, print_estimate, print_stages
from suite.cli.export import export
from suite.cli.heads import app as heads_app
from suite.cli.lm_eval import PASSED_ON, lm_eval
from suite.cli.model import app as model_app
from suite.cli.profile import app as profile_app
from suite.cli.reported import reported as reported_numbers
from suite.cli.screen import json_text, show
from suite.cli.terminal import prepare_output
from suite.errors import USER_ERRORS, SuiteError

app = typer.Typer(
    help="KV-cache compression under one budget rule: reproduce, compare, measure.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(profile_app, name="profile")
app.add_typer(heads_app, name="heads")
app.add_typer(model_app, name="model")
app.command()(compare)
app.command()(claims)
app.command("check-method")(check_method)
app.command()(doctor)
app.command()(export)
app.command("reported")(reported_numbers)
app.command("lm-eval", context_settings=PASSED_ON)(lm_eval)


class Benchmark(StrEnum):
    """What `cokv tasks` can be limited to."""

    RULER = "ruler"
    LONGBENCH = "longbench"
    LONGBENCH_MINI = "longbench_mini"
    NEEDLE = "needle"


@app.command()
@reported
def reproduce(
    experiment: ExperimentFile = None,
    limit: Annotated[int | None, typer.Option(help="At most this many samples per task and seed.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="Only this task of the experiment; may be repeated.")] = None,
    runs: Annotated[Path, typer.Option(help="Where run folders are kept.")] = Path("runs"),
    workers: Annotated[
        int | None,
        typer.Option(help="Processes, each with its own model; by default one per CPU, if they fit in memory."),
    ] = None,
    ray: Annotated[str | None, typer.Option(help="'auto', or the address of a Ray cluster.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would run, and how long.")] = False,
    model: Annotated[str | None, typer.Option(help="In place of the experiment's [model] name.")] = None,
    revision: Annotated[str | None, typer.Option(help="In place of its revision.")] = None,
    dtype: Annotated[str | None, typer.Option(help="In place of its dtype.")] = None,
    device: Annotated[str | None, typer.Option(help="In place of its device.")] = None,
) -> None:
    """Run an experiment, or go on with it, and write its report. A finished run is only reported."""
    from transformers.utils.logging import disable_progress_bar

    from reports import terminal_table, write_report
    from suite.experiment import run_experiment
    from suite.run.requirements import with_remedies
    from suite.run.workers import pool_for
    from suite.spec import with_model, with_tasks

    disable_progress_bar()
    spec = with_tasks(experiment_of(experiment, limit), task or [])
    spec = with_model(spec, name=model, revision=revision, dtype=dtype, device=device)
    if dry_run:
        _dry_run(spec, runs, workers, ray)
        return
    pool = pool_for(spec.model, workers, ray)
    try:
        folder = run_experiment(spec, runs, pool)
    except USER_ERRORS as error:
        raise with_remedies(error, spec) from None
    if not _report_is_current(folder.path):
        write_report(folder.path)
    terminal_table(folder.path)
    print(folder.path / "report")


def _report_is_current(run: Path) -> bool:
    """Whether a finished run has a report that is not older than the run's end, as one of an unfinished run is."""
    page = run / "report" / "report.md"
    return page.is_file() and page.stat().st_mtime_ns >= (run / "done.json").stat().st_mtime_ns


def _dry_run(spec: Any, runs: Path, workers: int | None, ray: str | None) -> None:
    from suite.experiment import open_run
    from suite.run.plan import in_words, plan
    from suite.run.requirements import requirements
    from suite.run.workers import pool_for, size

    needs = requirements(spec, runs)
    if can_estimate(spec, needs):
        print_estimate(spec, needs)
        return
    pool = pool_for(spec.model, workers, ray)
    folder, loaded = open_run(spec, runs)
    stages = plan(spec, loaded, size(pool))
    print_stages(stages)
    print(f"about {in_words(sum(s.seconds for s in stages))} at most on this machine")
    print(f"{folder.path} is finished: it would only be reported" if folder.done else f"would write {folder.path}")


@app.command()
@reported
def report(
    run: Annotated[Path | None, typer.Argument(help="A run folder; the newest finished one when left out.")] = None,
    runs: Annotated[Path, typer.Option(help="Where run folders are kept.")] = Path("runs"),
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Report the records so far of a run that has not ended.")
    ] = False,
    against: Annotated[
        str | None,
        typer.Option(help="Only print the run beside what this paper has published: cokv, pyramidkv ..., or all."),
    ] = None,
) -> None:
    """Write a run's report again: tables, plots, and the table on the screen."""
    from reports import terminal_table, write_report

    run = run or _newest(runs, unfinished)
    if against is not None:
        print_against(run, against, unfinished)
        return
    folder = write_report(run, allow_unfinished=unfinished)
    terminal_table(run, allow_unfinished=unfinished)
    print(folder)


def _newest(runs: Path, unfinished: bool) -> Path:
    name = "spec.json" if unfinished else "done.json"
    files = sorted(runs.glob(f"*/{name}"), key=lambda file: file.stat().st_mtime)
    if not files:
        raise SuiteError(f"no run to report under {runs}; run `cokv reproduce` first, or name a run folder")
    return files[-1].parent


@app.command()
@reported
def methods(
    long: Annotated[
        bool,
        typer.Option(
            "--long", help="Also scorer, allocator, policy, parameters and who sets them, paper, code, notes."
        ),
    ] = False,
) -> None:
    """List the methods: presets, what each needs and does while decoding, whether `cokv.compress` deploys it.

    Parameters set by the paper make a named variant where they are changed; those set by the experiment are tried at
    several values in the papers; those set by the budget follow from the total.
    "after cache.prefill" under "deploys": the method reads the prompt twice, so call cache.prefill(input_ids) first.
    """
    from cokv.methods.registry import describe_methods

    columns = ["name", "title", "preset", "needs", "while decoding", "deploys"]
    columns += ["scorer", "allocator", "policy", "parameters", "set by", "paper", "code", "note"] if long else []
    _table(describe_methods(), columns)


@app.command()
@reported
def tasks(benchmark: Annotated[Benchmark | None, typer.Option(help="Only the tasks of this one.")] = None) -> None:
    """List the tasks: benchmark, metric, answer length, parameters."""
    from longbench.mini.generate import wording
    from longbench.tasks import TASKS as LONGBENCH
    from longbench.tasks import V2
    from ruler.tasks import TASKS

    rows = [
        {
            "benchmark": f"ruler ({preset})",
            "task": task.name,
            "metric": f"string match ({task.metric})",
            "tokens": str(task.tokens_to_generate),
            "about": ", ".join(f"{k}={v}" for k, v in task.params.items()),
        }
        for preset, table in TASKS.items()
        for task in table.values()
    ]
    rows += [
        {
            "benchmark": "longbench",
            "task": task.name,
            "metric": task.metric,
            "tokens": str(task.max_new_tokens),
            "about": _about(task),
        }
        for task in (*LONGBENCH.values(), V2)
    ]
    rows += [
        {
            "benchmark": "longbench_mini",
            "task": task.name,
            "metric": task.metric,
            "tokens": str(wording()[task.name]["max_new_tokens"]),
            "about": f"{task.category}, {task.language}; generated stand-in",
        }
        for task in LONGBENCH.values()
    ]
    about = "one sentence hidden in essays; a sample for each depth; name the length: needle_4000"
    metric = "share of the needle's words"
    rows.append({"benchmark": "needle", "task": "needle_TOKENS", "metric": metric, "tokens": "30", "about": about})
    listed = [row for row in rows if benchmark is None or row["benchmark"].split()[0] == benchmark]
    _table(listed, list(rows[0]))


def _about(task: LongBenchTask) -> str:
    """What LongBench's code does with a data set, and how many samples its files hold."""
    parts = [task.category, task.language, f"{task.samples} samples"]
    parts += [f"{task.samples_e} in -E"] if task.samples_e is not None else []
    parts += [] if task.chat_template else ["no chat template"]
    parts += ["first line judged"] if task.first_line else []
    parts += ["stops at a newline"] if task.stop_at_newline else []
    return ", ".join(parts)


@app.command()
@reported
def protocols() -> None:
    """The published ways to run LongBench, side by side, and RULER's.

    chat: `task` wraps the tasks that allow it in the tokenizer's own chat template (in LongBench all but trec,
    triviaqa, samsum, lsht, lcc and repobench-p; in RULER all), `always` all, `never` none. LongBench refuses to wrap
    without a template; RULER then reads the bare prompt. In an experiment file, `longbench.fields` changes any field
    of a LongBench protocol, `ruler.chat` RULER's; `protocol.query_aware` holds for all but LongBench,
    `protocol.first_token` for all.
    """
    from longbench.presets import side_by_side
    from ruler.protocol import PROTOCOL, RELEASED

    rows = [{"field": name, **values} for name, values in side_by_side().items()]
    _table(rows, list(rows[0]))
    ruler = [{"ruler": name, "official": official, "here": here} for name, (official, here) in PROTOCOL.items()]
    _table([{"ruler": "released", "official": RELEASED, "here": ""}, *ruler], list(ruler[0]))


@app.command()
@reported
def score(run: Annotated[Path, typer.Argument(help="A run folder.")]) -> None:
    """Judge a run's stored predictions again, without a model, and say what changed."""
    from suite.cli.rescore import rescore_run

    result = rescore_run(run)
    for change in result["changed"]:
        print(json.dumps(change))
    print(f"{result['judged']} predictions judged again, {result['same']} scores the same")
    if result["changed"]:
        raise typer.Exit(1)


@app.command(name="eval")
@reported
def evaluate(
    predictions: Annotated[
        Path, typer.Option(help="LongBench's or RULER's pred/*.jsonl, kvpress's or lm-eval's file.")
    ],
    form: Annotated[
        str | None,
        typer.Option(help="longbench, longbench-v2, ruler, kvpress or lm-eval; detected without it."),
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="The data set or task, when the file does not say.")] = None,
) -> None:
    """Official LongBench and RULER scores of predictions that another tool wrote."""
    from suite.cli.repeated_rows import in_words
    from suite.cli.rescore import score_file

    scores = score_file(predictions, form, dataset)
    print(json_text(scores))
    for line in in_words(scores):
        print(visible(line), file=sys.stderr)


def _table(rows: list[dict[str, str]], columns: list[str]) -> None:
    wide = not Console().is_terminal
    links = ("paper", "code") if wide else ()
    table = Table(
        *(Column(name, overflow="fold", no_wrap=name in links) for name in columns), show_lines=len(columns) > 7
    )
    for row in rows:
        table.add_row(*(row[c] for c in columns))
    show(table, width=240 if len(columns) < 8 else 400)


def main() -> None:
    prepare_output()
    app()


if __name__ == "__main__":
    main()
