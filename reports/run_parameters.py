"""Where a method's own parameters differ from those that a source states for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reports.protocol_difference import Difference, compare, part
from reports.reported.sources import Fact, Source
from reports.rundir import Run

RELEASED = ("official", "kvpress")  # presets that round as another project's code does
_MISSING = object()


def parameter_differences(
    run: Run, cell: Mapping[str, Any], stated: Mapping[str, Fact], word: str, source: Source
) -> list[Difference]:
    """Of the method's own parameters; those stated for all methods count where the method has them."""
    here = _parameters(run, cell)
    own = source.methods.get(word, {})
    out: list[Difference] = []
    for name, fact in stated.items():
        value = here.get(name, _MISSING)
        if name == "rounding":
            value = "as released" if cell["preset"] in RELEASED else "total spent exactly"
        elif name == "profile":
            value = _profile(run, cell)
        elif value is _MISSING and name not in own:
            continue
        if value is _MISSING:
            value = "no parameter of this method" if here else None
        out += compare(name, value, fact.value if fact.stated else None, fact.where)
    return out


def _parameters(run: Run, cell: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parameters of a cell's method in its preset, which may name changed ones: `beta=3`; {} where unknown."""
    words = str(cell["preset"]).split(", ")
    changes = dict(word.split("=", 1) for word in words if "=" in word)
    preset = next((word for word in words if "=" not in word), "normalized")
    entries = run.spec.get("methods")
    for entry in entries if isinstance(entries, list) else ():
        parameters = part(entry, "parameters")
        same = part({"e": entry}, "e")
        if same.get("method") != cell["method"] or same.get("preset", "normalized") != preset:
            continue
        if all(str(parameters.get(name)) == value for name, value in changes.items()):
            return parameters
    return {}


def _profile(run: Run, cell: Mapping[str, Any]) -> str | None:
    """Which profile the run used, as far as its spec says; one that depends on the preset is named so."""
    names = (cell["method"], f"{cell['method']}-{cell['preset']}")
    profile = next((entry for name in names if (entry := part(run.spec, "profiles", name))), {})
    sums = profile.get("sha256")
    if isinstance(sums, list) and sums:
        return f"a file, sha256 {str(sums[0])[:8]}"
    return "computed by this run" if profile or part(run.spec, "experiment", "game") else None
