"""What a row of the table of methods says. The rows themselves are in cokv/methods/table/."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from cokv.methods.allocators import Allocator
from cokv.methods.method import parameters
from cokv.methods.policies.by_name import BY_NAME
from cokv.methods.scorers import Scorer
from cokv.types import JSON, CokvError

POLICIES: Mapping[str, str] = MappingProxyType({name: named.does for name, named in BY_NAME.items()})


@dataclass(frozen=True)
class Preset:
    """One way to run a method: a scorer and an allocator with their hyper-parameters settled."""

    scorer: Scorer | None  # None: keeps everything
    allocator: Allocator | None
    note: str
    source: str = ""  # which code it is, for a scorer that is not this package's
    decoding: tuple[tuple[str, JSON], ...] = ()  # parameters of the policy that are none of the scorer's
    policy: str = ""  # "": the row's

    def parameters(self) -> dict[str, JSON]:
        return {**parameters(self.scorer, self.allocator), **dict(self.decoding)}


@dataclass(frozen=True)
class MethodEntry:
    """One row of the table."""

    name: str
    title: str
    paper: str
    code: str
    policy: str  # a name of cokv/methods/policies/by_name.py; a preset may have another
    presets: Mapping[str, Preset]
    profile: str = ""  # what `select` must be given as `profile`, in words; "" for nothing
    profile_kinds: tuple[str, ...] = ()  # how the provenance of such a profile begins

    @property
    def needs_profile(self) -> bool:
        return self.profile != ""

    @property
    def scorer(self) -> Scorer | None:
        return self.presets["normalized"].scorer

    @property
    def allocator(self) -> Allocator | None:
        return self.presets["normalized"].allocator

    def needs(self, preset: str = "normalized") -> str:
        """What the method asks of a run, in words."""
        reads = getattr(self.preset(preset).scorer, "reads", "")
        policy = self.policy_of(preset)
        work = POLICIES[policy] if policy != "grow" else ""
        return ", ".join(part for part in (reads, self.profile, work) if part) or "nothing"

    def policy_of(self, preset: str) -> str:
        return self.preset(preset).policy or self.policy

    def parameters(self, preset: str = "normalized") -> dict[str, JSON]:
        """Every hyper-parameter of a preset with its value there: what `get_method` takes by name."""
        return self.preset(preset).parameters()

    def preset(self, name: str) -> Preset:
        if name not in self.presets:
            raise CokvError(f"{self.name}: {unknown('preset', name, self.presets)}")
        return self.presets[name]


def unknown(what: str, name: str, valid: Iterable[str]) -> str:
    """`unknown WHAT NAME`, the nearest valid names, and all of them."""
    valid = list(valid)
    near = difflib.get_close_matches(str(name).lower().replace("-", "_"), valid, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"unknown {what} {name!r}; {hint}valid: {', '.join(valid) or 'none'}"
