"""Progress on stderr: a bar with time left on a terminal (drawn by rich), a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_INTERVAL = 20.0  # seconds between plain lines


class Reporter:
    """One stage's progress: `advance` after each piece of work."""

    def __init__(self, title: str, total: int, done: int, bar: Progress | None) -> None:
        self.title, self.total, self.done, self.done_at_start = title, total, done, done
        self.bar, self.start, self.last_line = bar, time.monotonic(), time.monotonic()
        self.task = bar.add_task(title, total=total, completed=done) if bar else None

    def advance(self, count: int = 1, note: str = "") -> None:
        self.done += count
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, advance=count, description=f"{self.title} {note}".strip())
            return
        self._line(note)

    def finish(self) -> None:
        """The stage has ended: what it did is all there was. Work can turn out to be known already, or not needed."""
        if self.done == self.total:
            return
        self.total = self.done
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, total=self.total)
        elif self.done > self.done_at_start:
            self._line("")

    def _line(self, note: str) -> None:
        """Prints a line if the last one is long ago, or nothing is left."""
        now = time.monotonic()
        if now - self.last_line >= LINE_INTERVAL or self.done == self.total:
            left = (now - self.start) / max(self.done - self.done_at_start, 1) * (self.total - self.done)
            print(
                f"{self.title}: {self.done}/{self.total} {note}, about {left:.0f} s left".replace(" ,", ","),
                file=sys.stderr,
                flush=True,
            )
            self.last_line = now


@contextmanager
def progress(title: str, total: int, done: int = 0) -> Iterator[Reporter]:
    """Progress of one stage that starts with `done` of `total` finished."""
    console = Console(stderr=True)
    if not console.is_terminal:
        report = Reporter(title, total, done, None)
        yield report
        report.finish()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        report = Reporter(title, total, done, bar)
        yield report
        report.finish()
