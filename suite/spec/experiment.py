"""The whole experiment file, and the checks across its sections."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from cokv.methods.registry import get_method
from suite.spec.benchmarks import LongBenchMiniSpec, LongBenchSpec, RulerSpec
from suite.spec.checks import ChecksSpec
from suite.spec.game import GameSpec
from suite.spec.measure import MeasureSpec
from suite.spec.methods import MethodSpec
from suite.spec.model import ModelSpec, ProtocolSpec
from suite.spec.needle import NeedleSpec
from suite.spec.paper import PaperSpec
from suite.spec.part import Budget, Part, each_once, nearest
from suite.spec.profiles import SHAPLEY, ProfilesSpec


class Experiment(Part):
    """One experiment: tasks x methods x budgets x seeds."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    description: str = ""
    model: ModelSpec = ModelSpec()
    methods: tuple[MethodSpec, ...]
    kv_budgets: tuple[Budget, ...]
    seeds: tuple[int, ...] = (0,)
    shown_samples: Annotated[int, Field(ge=0)] = 1  # per task, whose kept tokens are stored for the page
    protocol: ProtocolSpec = ProtocolSpec()
    ruler: RulerSpec | None = None
    longbench: LongBenchSpec | None = None
    longbench_mini: LongBenchMiniSpec | None = None
    needle: NeedleSpec | None = None
    game: GameSpec | None = None
    profiles: ProfilesSpec | None = None
    measure: MeasureSpec | None = None
    checks: ChecksSpec | None = None
    paper: PaperSpec | None = None

    @property
    def benchmarks(self) -> tuple[RulerSpec | LongBenchSpec | LongBenchMiniSpec | NeedleSpec, ...]:
        """The sections that name tasks, in the order of their tasks."""
        parts = (self.ruler, self.longbench, self.longbench_mini, self.needle)
        return tuple(part for part in parts if part is not None)

    @field_validator("kv_budgets", "seeds")
    @classmethod
    def _distinct(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return each_once(values)

    @model_validator(mode="after")
    def _has_tasks(self) -> Experiment:
        if not self.benchmarks:
            raise ValueError(
                "there is nothing to run: add a [ruler], [longbench], [longbench_mini] or [needle] section"
            )
        if self.longbench is not None and self.longbench_mini is not None:
            raise ValueError("[longbench] and [longbench_mini] name the same tasks; give each its own experiment")
        prepared = self.ruler is not None and self.ruler.data is not None and self.ruler.hub_revision is None
        if prepared and not self.protocol.query_aware:
            raise ValueError(
                "[ruler] `data` does not say where its questions begin, so query_aware = false cannot be kept; "
                "generate the tasks (leave `data` out), or set query_aware = true"
            )
        return self

    @model_validator(mode="after")
    def _methods_differ(self) -> Experiment:
        named = [(m.name, get_method(m.name, m.preset, **m.params).variant) for m in self.methods]
        methods = [get_method(m.name, m.preset, **m.params) for m in self.methods]
        distinct = {(m.name, m.scorer, m.allocator, m.policy) for m in methods}
        if not named or len(set(named)) < len(named) or len(distinct) < len(named):
            raise ValueError(f"methods are {named}, expected at least one, and each with the same parameters once")
        return self

    @model_validator(mode="after")
    def _head_scores_have_a_source(self) -> Experiment:
        profiles = self.profiles or ProfilesSpec()
        shapley = [m.name for m in self.methods if SHAPLEY in get_method(m.name).profile_kinds]
        without_file = [name for name in shapley if not profiles.files_of(name)]
        if without_file and self.game is None and profiles.source == "computed":
            raise ValueError(
                f"{', '.join(without_file)} needs head scores: add a [game] section, or a file in [profiles], or "
                "source = 'shipped' there"
            )
        if without_file and self.game is not None and self.game.players != "kv_head":
            raise ValueError(
                f"{', '.join(without_file)} needs scores of KV heads, [game] players is {self.game.players!r}; "
                "leave it out here, and compute other profiles with `cokv profile ssv --players`"
            )
        return self

    @model_validator(mode="after")
    def _games_have_tasks(self) -> Experiment:
        tasks = [task for part in self.benchmarks for task in part.tasks]
        for task in (self.game.tasks or ()) if self.game is not None else ():
            if task not in tasks:
                raise ValueError(f"[game] tasks names {task!r}; {nearest(task, tasks)}")
        return self

    @model_validator(mode="after")
    def _window_is_shorter_than_prompts(self) -> Experiment:
        for part in (self.ruler, self.longbench_mini):
            if self.game is not None and part is not None and self.game.window_size >= part.length:
                raise ValueError(
                    f"[game] window_size {self.game.window_size} covers prompts of {part.length} tokens, so every "
                    "coalition would keep the whole prompt; choose a smaller window_size"
                )
        return self

    @model_validator(mode="after")
    def _checks_have_a_game(self) -> Experiment:
        if self.checks is None:
            return self
        if self.game is None or self.game.players != "kv_head":
            raise ValueError(
                "[checks] needs a [game] section with KV heads as players: it says how the game is played, and gives "
                "the head scores that are checked"
            )
        known = [task for part in self.benchmarks for task in part.tasks]
        for key, among in (("tasks", known), ("game_tasks", list(self.checks.tasks or known))):
            unknown = [task for task in getattr(self.checks, key) or () if task not in among]
            if unknown:
                raise ValueError(f"[checks] {key} names {unknown[0]!r}; {nearest(unknown[0], among)}")
        return self
