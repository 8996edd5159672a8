"""How a run's methods are labelled, ordered and drawn: one label, place and colour each, in every table and figure.

Order: the full cache, then by family (families.py), inside a family as the experiment lists them. Never by score.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from reports.families import family_place
from reports.records import FULL, Variant, variant_of
from reports.text import clip, visible
from reports.variants import MethodFacts

# Okabe & Ito's palette without its yellow (too faint on paper) and black (kept for the full cache).
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#7F7F7F")
HIGHLIGHT = "#D55E00"  # of HIGHLIGHTED, in every plot
HIGHLIGHTED = "cokv"
MARKERS = ("o", "s", "^", "v", "P", "X", "<", ">", "*", "p")
DASHES = ("-", "--", "-.", ":")
UNRANKED = (
    "The embedded model is for tests, and its heads look behind the answer (see its card): no method is marked as "
    "best, and no ranking follows from these scores."
)
LONGEST = 48  # characters of a name in a table


class Labels:
    """Row labels of one run. A preset or protocol is named only where the run holds more than one.

    `titles`: what the run's spec.json calls each method, in its order; a method without a title goes by its name, and
    comes last in its family. `facts`: what the spec says of its variants. `ranks`: whether methods may be ranked by
    this run's scores: the best in bold, the second underlined.
    """

    def __init__(
        self,
        rows: Iterable[Mapping[str, Any]],
        titles: Mapping[str, str] | None = None,
        facts: MethodFacts | None = None,
        ranks: bool = True,
    ) -> None:
        self.titles = titles or {}
        self.facts = facts or MethodFacts()
        self.ranks = ranks
        self._places = {method: place for place, method in enumerate(self.titles)}
        self.variants = sorted({variant_of(row) for row in rows}, key=self.order)
        compressed = [v for v in self.variants if not is_full(v)]
        self._names: dict[Variant, str] = {}
        self._query = len({v.query_aware for v in compressed}) > 1
        self._first = len({v.first_token for v in compressed}) > 1
        self._styles: dict[Variant, dict[str, Any]] = {}
        for place, variant in enumerate(v for v in compressed if v.method != HIGHLIGHTED):
            self._styles[variant] = {
                "color": COLOURS[place % len(COLOURS)],
                "marker": MARKERS[place % len(MARKERS)],
                "linestyle": DASHES[(place // len(COLOURS)) % len(DASHES)],
            }
        for place, variant in enumerate(v for v in compressed if v.method == HIGHLIGHTED):
            self._styles[variant] = {"color": HIGHLIGHT, "marker": "D", "linestyle": DASHES[place % len(DASHES)]}

    def order(self, variant: Variant) -> tuple[Any, ...]:
        """Sort key of the rows of a table: the full cache, then by family, in it in the order of the titles."""
        place = self._places.get(variant.method, len(self._places))
        return (not is_full(variant), family_place(variant.method), place, variant)

    def title(self, method: str, *details: str) -> str:
        """A method's title, with `details` such as its preset in brackets."""
        title = clip(visible(self.titles.get(method, method)), LONGEST)
        return f"{title} ({', '.join(clip(visible(detail), LONGEST) for detail in details)})" if details else title

    def name(self, variant: Variant) -> str:
        """Title of a row, with what distinguishes it from the other rows of its method; no two rows of a run alike."""
        if not self._names:
            for listed in self.variants:
                name, others, count = self._name(listed), set(self._names.values()), 1
                while (distinct := name if count == 1 else f"{name} ({count})") in others:
                    count += 1  # titles that are alike, or alike as far as they are shown
                self._names[listed] = distinct
        return self._names.get(variant) or self._name(variant)

    def _name(self, variant: Variant) -> str:
        if is_full(variant) and sum(map(is_full, self.variants)) == 1:
            return self.title(variant.method)
        details = self._preset(variant.method, variant.preset)
        if self._query:
            details.append("question seen" if variant.query_aware else "question unseen")
        if self._first:
            details.append(f"first token {variant.first_token}")
        return self.title(variant.method, *details)

    def preset_name(self, method: str, preset: str) -> str:
        """Title of a method in a preset, where a table has no other fields of the variant."""
        return self.title(method, *self._preset(method, preset))

    def _preset(self, method: str, preset: str) -> list[str]:
        shown = [] if preset == "normalized" else [preset]
        return [*shown, "ours"] if self.facts.ours(method, preset) else shown

    def notes(self) -> tuple[str, ...]:
        """What differs from the papers' parameters, for below a table."""
        notes = self.facts.notes({(v.method, v.preset): self.name(v) for v in self.variants})
        return notes if self.ranks else (*notes, UNRANKED)

    def style(self, variant: Variant) -> dict[str, Any]:
        """Colour, marker and line of a compressed variant."""
        return self._styles[variant]


def is_full(variant: Variant) -> bool:
    return variant.method == FULL
