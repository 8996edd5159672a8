"""What a run's spec says of its methods beside their titles: which are ablations of ours, and what is not as published.

Each entry: {"method", "preset", "ours": bool, "changed": [[name, value here, value of the paper], ...]}.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class MethodFacts:
    """The entries of a run; none for a run whose spec has none."""

    entries: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def of_spec(cls, spec: Mapping[str, Any]) -> MethodFacts:
        about = spec.get("about")
        entries = about.get("variants") if isinstance(about, Mapping) else None
        entries = entries if isinstance(entries, list) else []
        return cls(tuple(entry for entry in entries if isinstance(entry, Mapping) and "method" in entry))

    def ours(self, method: str, preset: str) -> bool:
        """Whether this variant is this project's own."""
        return any(e.get("ours") and (e["method"], e.get("preset")) == (method, preset) for e in self.entries)

    def notes(self, names: Mapping[tuple[str, str], str]) -> tuple[str, ...]:
        """What differs from the papers' parameters, by parameter and value. names: of the variants that a table shows,
        by method and preset.
        """
        shown = [entry for entry in self.entries if (entry["method"], entry.get("preset")) in names]
        changes: dict[tuple[str, str, str], list[str]] = {}
        for entry in shown:
            name = names[entry["method"], entry["preset"]]
            for parameter, here, paper in entry.get("changed") or []:
                changes.setdefault((str(parameter), str(here), str(paper)), []).append(name)
        texts = [
            f"{parameter} {here} where the paper has {paper} ({', '.join(rows)})"
            for (parameter, here, paper), rows in changes.items()
        ]
        notes = [f"Not at the paper's value: {'; '.join(texts)}."] if texts else []
        if any(entry.get("ours") for entry in shown):
            notes.append("Rows marked ours are ablations and combinations of this project's own, not of a paper.")
        return tuple(notes)


def stated(cells: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means over a method's records of what the budget decided in its own terms, by name."""
    values: dict[str, list[float]] = {}
    for cell in cells:
        for name, value in (cell.get("facts") or {}).items():
            values.setdefault(name, []).append(value)
    return {name: sum(numbers) / len(numbers) for name, numbers in values.items()}


WORDS = {"whole_heads": "heads kept whole", "threshold": "threshold of retained attention"}


def fact_words(name: str) -> str:
    """What a fact is, in words."""
    return WORDS.get(name, name.replace("_", " "))
