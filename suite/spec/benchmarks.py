"""The benchmarks: [ruler], [longbench] and [longbench_mini]."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from longbench.errors import LongBenchError
from longbench.mini.generate import BUILDERS as LONGBENCH_MINI
from longbench.protocol import Protocol
from longbench.sources import FORMATTED_REPOS, OFFICIAL_REPOS
from longbench.subset import check_has_subset
from longbench.tasks import get_task as get_longbench_task
from ruler.data import KVPRESS_REPO, KVPRESS_REVISION
from ruler.errors import RulerError
from ruler.tasks import get_task
from suite.spec.longbench_fields import changed_protocol
from suite.spec.part import Count, Part, nearest
from suite.tasks.hub_rows import pinned_revision, repo_of

Chat = Literal["task", "never"]


class RulerSpec(Part):
    """RULER tasks: prepared by the official generator (`data`), or generated for the model's tokenizer.

    `essays` (a folder, or a bundled text) and `questions` are real text; without them text is generated.
    """

    preset: Literal["mini", "official"] = "official"
    length: Count
    tasks: tuple[str, ...]
    samples: Count
    max_new_tokens: Count | None = None  # answers end there at the latest; None: the task's own length
    data: str | None = None  # the official generator's output folder, one file of it, or hub:OWNER/NAME (kvpress's)
    revision: str | None = None  # the hub's commit
    chat: Chat = "task"  # task: in the tokenizer's chat template, where it has one
    chat_arguments: dict[str, bool | int | str] = Field(default_factory=dict)  # of the template: enable_thinking
    essays: str | None = None  # a folder of .txt files, or the name of a bundled text: alice
    questions: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _known(self) -> RulerSpec:
        try:
            for name in (*self.tasks, *self.questions):
                get_task(name, self.preset)
        except RulerError as error:
            raise ValueError(str(error)) from None
        _named_once(self.tasks)
        if self.data is not None and (self.preset != "official" or self.essays is not None or self.questions):
            raise ValueError("`data` is prepared already; leave out `essays` and `questions`, and keep preset official")
        _ = self.hub_revision
        return self

    @property
    def hub_revision(self) -> str | None:
        """The commit that `data` is read at; None if it is a path."""
        return pinned_revision(self.data, self.revision, {KVPRESS_REPO: KVPRESS_REVISION})


class LongBenchSpec(Part):
    """LongBench v1 on official data: a folder, a `data.zip`, or (without `data`) the hub at a pinned revision.

    `data = "hub:OWNER/NAME"` names a repository: the official ones, or one with the official fields in Parquet files.
    """

    tasks: tuple[str, ...]
    templates: str  # folder with the official dataset2prompt.json and dataset2maxlen.json
    data: str | None = None
    revision: str | None = None  # the hub's commit
    protocol: str = "official"
    fields: dict[str, Any] = Field(default_factory=dict)  # of the protocol, changed
    samples: Count | None = None  # per task; None: all
    subset: Literal["mini"] | None = None  # mini: the samples of MiniLongBench alone
    partial: bool = False  # accept files with fewer records than the official ones
    validation_share: Annotated[float, Field(gt=0, lt=1)] = 0.15
    split_seed: int = 0

    @model_validator(mode="after")
    def _known(self) -> LongBenchSpec:
        try:
            self.resolved()
            for name in self.tasks:
                get_longbench_task(name)
                if self.subset is not None:
                    check_has_subset(name)
        except LongBenchError as error:
            raise ValueError(str(error)) from None
        _named_once(self.tasks)
        if (repo := repo_of(self.data)) in FORMATTED_REPOS:
            raise ValueError(
                f"{repo} holds prompts that kvpress has formatted, not the official records; leave `data` out for the "
                "official repository, or name a copy with the official fields"
            )
        _ = self.hub_revision
        return self

    def resolved(self) -> Protocol:
        """The protocol with the changed fields."""
        return changed_protocol(self.protocol, self.fields)

    @property
    def hub_revision(self) -> str | None:
        """The commit that `data` is read at; None if it is a path, or left out."""
        return pinned_revision(self.data, self.revision, OFFICIAL_REPOS)


class LongBenchMiniSpec(Part):
    """Generated tasks like LongBench's, fitted to the model's tokenizer. Their scores are no LongBench scores."""

    tasks: tuple[str, ...] = tuple(LONGBENCH_MINI)
    length: Count
    samples: Count

    @model_validator(mode="after")
    def _known(self) -> LongBenchMiniSpec:
        unknown = [name for name in self.tasks if name not in LONGBENCH_MINI]
        if unknown:
            raise ValueError(f"unknown task {unknown[0]!r}; {nearest(unknown[0], list(LONGBENCH_MINI))}")
        _named_once(self.tasks)
        return self


def _named_once(tasks: tuple[str, ...]) -> None:
    if len(set(tasks)) < len(tasks) or not tasks:
        raise ValueError(f"tasks are {list(tasks)}, expected at least one, each named once")
