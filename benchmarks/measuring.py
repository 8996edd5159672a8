"""What the benchmarks of the cache share: arms in turns, figures with their spread, the record and the page beside it.

A benchmark is a module with `tables(record)`; its record is JSON, and the Markdown page beside it is made from that
file alone (`python benchmarks/measuring.py benchmarks/results/decode.json` makes it again). Times only; what is done in
a turn, and what the numbers mean, is the benchmark's.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as ScreenTable

from cokv import probes

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
Step = Callable[[], object]
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Table:
    """Figures as text. The first column names the row."""

    title: str
    columns: tuple[str, ...]
    rows: list[list[str]]
    note: str = ""

    def markdown(self) -> str:
        head = ["| " + " | ".join(self.columns) + " |", "|---|" + "---:|" * (len(self.columns) - 1)]
        body = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in self.rows]
        return "\n".join([f"## {self.title}", "", *head, *body, *(["", self.note] if self.note else [])]) + "\n"

    def show(self) -> None:
        screen = ScreenTable(title=self.title, title_justify="left", caption=self.note or None, caption_justify="left")
        for place, column in enumerate(self.columns):
            screen.add_column(column, justify="right" if place else "left", no_wrap=place == 0)
        for row in self.rows:
            screen.add_row(*row)
        width = None if sys.stdout.isatty() else 180
        Console(width=width).print(screen)


def in_turns(
    arms: Mapping[str, Callable[[], Step]],
    rounds: int,
    block: int = 1,
    untimed: int = 0,
    device: str = "cpu",
    clock: str = "wall",
) -> dict[str, list[float]]:
    """Seconds of a step of every arm, one number per round: the median of the `block` steps that are timed in a turn.

    A round is a turn of every arm, A B C A B C ...: no arm has a stretch of time, and its weather, to itself. A turn
    prepares the arm, which gives its step, takes `untimed` steps and then the timed ones. A first round is not counted.
    clock "cpu": of this process, all its threads, so that it does not run while others have the CPU; not for CUDA.
    """
    now = CLOCKS[clock]
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(rounds + 1):
        for name, prepare in arms.items():
            step = prepare()
            for _ in range(untimed):
                step()
            times = []
            for _ in range(block):
                probes.synchronize(device)
                start = now()
                step()
                probes.synchronize(device)
                times.append(now() - start)
            if number > 0:
                seconds[name].append(statistics.median(times))
            del step
    return seconds


def summary(numbers: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(numbers), "min": min(numbers), "max": max(numbers)}


def spread(figure: Mapping[str, float] | None, digits: int = 2) -> str:
    """median (min..max), over the rounds."""
    if figure is None:
        return "-"
    return f"{figure['median']:.{digits}f} ({figure['min']:.{digits}f}..{figure['max']:.{digits}f})"


def mib(size: float | None, digits: int = 2) -> str:
    return "-" if size is None else f"{size / (1 << 20):,.{digits}f}"


def parser(doc: str | None) -> argparse.ArgumentParser:
    """With what every benchmark takes."""
    options = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--device", default="cpu")
    options.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    options.add_argument("--clock", choices=sorted(CLOCKS), default="wall", help="cpu: CPU time, where others work too")
    options.add_argument("--quick", action="store_true", help="few rounds on a small model: three minutes at most")
    options.add_argument("--out", type=Path, help="a .json file to write after each part, and the .md page beside it")
    return options


class Record:
    """A benchmark's results as they come, with what they were made on and by. Written after every `add`."""

    def __init__(self, benchmark: str, arguments: Sequence[str] | None, out: Path | None, **facts: Any) -> None:
        command = ["python", f"benchmarks/{benchmark}.py", *(sys.argv[1:] if arguments is None else arguments)]
        self.out = out
        self.content: dict[str, Any] = {
            "benchmark": benchmark,
            "command": shlex.join(command),
            **_present("commit", commit()),
            **_present("load_before", _load()),
            "machine": probes.machine(),
            "versions": probes.versions(),
            **facts,
            "results": [],
            "left_out": [],
        }

    def add(self, result: dict[str, Any], show: bool = True) -> None:
        self.content["results"].append(result)
        if show:
            for table in tables({**self.content, "results": [result]}):
                table.show()
        self.write()

    def leave_out(self, what: str, why: str) -> None:
        """Said at once, and on the page."""
        print(f"left out: {what}: {why}", flush=True)
        if (entry := {"what": what, "why": why}) not in self.content["left_out"]:
            self.content["left_out"].append(entry)
        self.write()

    def write(self) -> None:
        if self.out is None:
            return
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.out.write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")
        self.out.with_suffix(".md").write_text(page(self.content), encoding="utf-8")


def tables(record: Mapping[str, Any]) -> list[Table]:
    tables: list[Table] = importlib.import_module(record["benchmark"]).tables(record)
    return tables


def page(record: Mapping[str, Any]) -> str:
    """The record as Markdown: how to make it, on what it was made, its tables."""
    module = importlib.import_module(record["benchmark"])
    first = (module.__doc__ or "").strip().splitlines()[0]
    machine, versions = record["machine"], record["versions"]
    gpus = ", ".join(str(gpu.get("name", "GPU")) for gpu in machine.get("gpus", []))
    threads = machine.get("torch_threads")
    facts = [
        f"`{record['command']}`",
        *([f"Commit {record['commit']}."] if "commit" in record else []),
        f"Machine: {machine.get('processor', machine['architecture'])}, {machine.get('cpus_usable', '?')} CPUs usable"
        + ("" if threads is None else f", {threads} thread{'s' * (threads != 1)}")
        + (f", {gpus}" if gpus else "")
        + (f"; load {record['load_before']:.1f} before the first round" if "load_before" in record else "")
        + ".",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()) + ".",
    ]
    left = [f"- {entry['what']}: {entry['why']}" for entry in record.get("left_out", [])]
    parts = [
        f"# {first.rstrip('.')}",
        "\n\n".join(facts),
        *(table.markdown().rstrip() for table in module.tables(record)),
    ]
    if left:
        parts.append("Left out:\n\n" + "\n".join(left))
    return "\n\n".join(parts) + "\n"


def commit() -> str | None:
    """Of the checkout, with "-dirty" where files differ from it, results beside."""
    asked = [
        subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        for arguments in (
            ("rev-parse", "--short", "HEAD"),
            ("status", "--porcelain", "--untracked-files=no", "--", ":(exclude)benchmarks/results"),
        )
    ]
    if any(done.returncode for done in asked):
        return None
    name, changes = (done.stdout.strip() for done in asked)
    return f"{name}-dirty" if changes else name


def _load() -> float | None:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _present(key: str, value: Any) -> dict[str, Any]:
    return {} if value is None else {key: value}


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.with_suffix(".md").write_text(page(json.loads(path.read_text(encoding="utf-8"))), encoding="utf-8")
