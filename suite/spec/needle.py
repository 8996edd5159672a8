"""A needle in a haystack at chosen depths and lengths: [needle]."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, field_validator

from suite.spec.benchmarks import Chat
from suite.spec.part import Count, Part, each_once

Depth = Annotated[int, Field(ge=0, le=100)]
DEPTHS = (0, 11, 22, 33, 44, 56, 67, 78, 89, 100)  # ten, evenly, in percent: as the released scripts have them


class NeedleSpec(Part):
    """tasks: `needle_4000` and so on, each a length in tokens (`needle_04000` sorts before `needle_16000`).

    depths: of the needle, in percent of the text; a task has one sample of each. essays: a folder of .txt files, or the
    name of a bundled text. samples: at most so many of the depths, evenly. max_new_tokens: of an answer, which ends at
    a newline too.
    """

    tasks: tuple[str, ...]
    essays: str = "alice"
    depths: tuple[Depth, ...] = DEPTHS
    samples: Count | None = None
    chat: Chat = "task"
    max_new_tokens: Count = 30

    @field_validator("depths")
    @classmethod
    def _distinct(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        return each_once(values)

    @field_validator("tasks")
    @classmethod
    def _lengths(cls, tasks: tuple[str, ...]) -> tuple[str, ...]:
        for task in each_once(tasks):
            if not re.fullmatch(r"needle_\d{1,8}", task) or not int(task.removeprefix("needle_")):
                raise ValueError(f"unknown task {task!r}; expected needle_ and a length in tokens, such as needle_4000")
        each_once(tuple(int(task.removeprefix("needle_")) for task in tasks))
        return tasks

    def length_of(self, task: str) -> int:
        """Tokens of a task's prompts, answers included."""
        return int(task.removeprefix("needle_"))

    @property
    def longest(self) -> int:
        return max(map(self.length_of, self.tasks))

    @property
    def chosen_depths(self) -> tuple[int, ...]:
        """The depths that have a sample, from the first on."""
        count = len(self.depths) if self.samples is None else min(self.samples, len(self.depths))
        return tuple(self.depths[place * len(self.depths) // count] for place in range(count))
