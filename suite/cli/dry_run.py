"""`cokv reproduce --dry-run`: what a run would do and take, from trials here, or from measured rates elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from suite.cli.screen import show

if TYPE_CHECKING:
    from suite.run.plan import Stage
    from suite.run.requirements import Requirements
    from suite.spec import Experiment

GIB = 1 << 30


def print_stages(stages: Sequence[Stage]) -> None:
    """The table of stages, one line each."""
    from suite.run.plan import in_words

    table = Table("stage", "prompts", "rows", "prefill tokens", "decode tokens (at most)", "about")
    for stage in stages:
        numbers = (stage.prompts, stage.rows, stage.prefill_tokens, stage.decode_tokens)
        table.add_row(stage.name, *(f"{n:,}" for n in numbers), in_words(stage.seconds))
    show(table)


def can_estimate(experiment: Experiment, needs: Requirements) -> bool:
    """Whether this machine lacks what a trial needs, and the model's cost is known all the same."""
    from suite.known.models import hub_models

    return experiment.model.name in hub_models() and any(lack.kind != "disk" for lack in needs.missing)


def print_estimate(experiment: Experiment, needs: Requirements) -> None:
    """Stages, hours, memory, disk, what this machine lacks, and the published values that the run will stand beside."""
    from suite.run.estimate import estimate, rates_of
    from suite.run.plan import in_words

    rates = rates_of(experiment)
    stages = estimate(experiment)
    print_stages(stages)
    print(f"about {in_words(sum(stage.seconds for stage in stages))} at most on {rates.gpu.title}")
    for line in rates.sources:
        print(f"  {line}")
    print("  not in it: choosing tokens, judging answers, loading the weights; answers that end early take less")
    _print_sizes(needs, rates.gpu.memory_bytes)
    print("this machine lacks:")
    for lack in needs.missing:
        print(f"  {lack.what}\n    {lack.remedy}")
    print_published(experiment)


def _print_sizes(needs: Requirements, gpu_memory: int) -> None:
    assert needs.weights_bytes is not None and needs.kv_bytes_per_token is not None
    if needs.peak_bytes is not None and needs.prompt_tokens is not None:
        cache = needs.kv_bytes_per_token * needs.prompt_tokens
        print(
            f"GPU memory, at most: {needs.peak_bytes / GIB:.1f} of {gpu_memory / GIB:.0f} GiB: weights "
            f"{needs.weights_bytes / GIB:.1f}, cache of a prompt of {needs.prompt_tokens:,} tokens {cache / GIB:.1f} "
            f"({needs.kv_bytes_per_token / 1024:.0f} KiB a token), the rest for rows and activations"
        )
    if needs.storage_bytes is not None:
        print(
            f"disk: {needs.storage_bytes / GIB:.1f} GiB: weights {(needs.storage_bytes - needs.run_bytes) / GIB:.1f}, "
            f"run folder {needs.run_bytes / GIB:.2f} ({needs.records:,} records)"
        )


def print_published(experiment: Experiment) -> None:
    """Counts of published values, and the commands that show them."""
    from suite.run.published import commands, published_counts

    counts = published_counts(experiment)
    if not counts:
        print("no published values to stand beside")
        return
    table = Table("published by", "model", "benchmark", "method", "values by budget")
    for count in counts:
        budgets = ", ".join(f"{budget}: {values}" for budget, values in count.budgets.items())
        table.add_row(count.paper, count.model, count.benchmark, count.method, budgets)
    show(table)
    total = sum(sum(count.budgets.values()) for count in counts)
    print(f"{total} published values to stand beside; to see them:")
    for command in commands(experiment):
        print(f"  {command}")
