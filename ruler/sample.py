"""The records of this room: a task's parameters, a draft before fitting, a finished sample."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

Metric = Literal["all", "part"]


@dataclass(frozen=True)
class Task:
    """One row of the task table: its generator and parameters, the length of an answer, the metric that judges it."""

    name: str
    kind: Literal["niah", "vt", "cwe", "fwe", "qa"]
    metric: Metric
    tokens_to_generate: int
    params: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Draft:
    """A prompt of some size, before it is fitted to a length. `gold` is a full answer in the wording's own form."""

    context: str
    question: str
    answer_prefix: str
    outputs: tuple[str, ...]
    gold: str

    @property
    def prompt(self) -> str:
        return self.context + self.question + self.answer_prefix

    def after(self, example: "Draft") -> "Draft":
        """This draft behind a worked example: another draft's prompt with its answer."""
        return replace(self, context=f"{example.prompt}{example.gold}\n\n{self.context}")


@dataclass(frozen=True)
class Sample:
    """One benchmark sample. `length` = tokens of the prompt with its answer prefix plus `tokens_to_generate`, without
    specials.

    A sample read from prepared data has no `gold` and the `length` its file states, if any. The official files do not
    part the question from the context: the whole input is `context`, and `question` is empty.
    """

    task: str
    sample_id: str
    seed: int
    context: str
    question: str
    answer_prefix: str
    outputs: tuple[str, ...]
    gold: str | None
    length: int | None
    tokens_to_generate: int
    metric: Metric
    notes: tuple[str, ...] = ()

    @property
    def prompt(self) -> str:
        return self.context + self.question + self.answer_prefix

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
