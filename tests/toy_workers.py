"""Workers that other processes can import: they log every call, and may be slow, die once, or refuse.

Nothing heavy is imported, so that a process is there in a moment.
"""

import os
import signal
import time
from pathlib import Path

import numpy as np


class Toy:
    """(Who, utilities) of a toy game of 12 players, two prompts. Every call is a line `pid block` of `log`."""

    def __init__(self, log: Path, seconds: float = 0.0, fate: dict[int, str] | None = None) -> None:
        self.log, self.seconds, self.fate = log, seconds, fate or {}

    def __call__(self, device: str):
        weights = np.random.default_rng(3).standard_normal(12) / 3
        with self.log.open("a") as file:
            file.write(f"{os.getpid()} made\n")

        def work(block):
            number, coalitions = block[-2:]  # of a game's block its name is left out
            with self.log.open("a") as file:
                file.write(f"{os.getpid()} {number}\n")
            time.sleep(self.seconds)
            self.meet(number)
            once = (coalitions * weights).sum(axis=1)
            return f"worker {os.getpid()}", np.stack([once, once**2], axis=1)

        return work

    def meet(self, number: int) -> None:
        fate, marker = self.fate.get(number), self.log.with_name(f"died-{number}")
        if fate == "dies" or (fate == "dies once" and not marker.exists()):
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if fate == "exits":
            os._exit(0)
        if fate == "leaves a child" and not marker.exists():
            marker.touch()
            if os.fork() == 0:  # it holds every pipe of the worker open
                time.sleep(30)
                os._exit(0)
            os.kill(os.getpid(), signal.SIGKILL)
        if fate == "refuses":
            from cokv.types import CokvError

            raise CokvError("this block is refused; choose another")
        if fate == "breaks":
            raise Unpicklable(lambda: None)


class Unpicklable(Exception):
    pass


def calls(log: Path) -> list[str]:
    """The blocks that were begun, in order."""
    return [line.split()[1] for line in log.read_text().splitlines() if not line.endswith("made")]
