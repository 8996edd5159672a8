"""Tables of a run beside published values: a row per comparison, and what each differing field is here and there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from statistics import fmean
from typing import Any

from reports.comparisons import Comparison
from reports.kv_budget import budget_order, budget_text
from reports.records import variant_of
from reports.reported.sources import NOT_STATED
from reports.reported.table import RATIO_TO_FULL, published_values
from reports.rundir import Run
from reports.table import MISSING, Entry, Table, group_starts

NO_NUMBER = "no number"
FIELDS_TABLE = "beside_papers_fields"


def comparison_table(name: str, title: str, run: Run, comparisons: Sequence[Comparison]) -> Table:
    """One block per paper and published model: the same model first, then where fewer fields differ or are unknown."""
    fields: dict[_Group, list[int]] = {}
    for c in comparisons:
        fields.setdefault(_group(c), []).append(len(c.differences))
    ordered = sorted(comparisons, key=lambda c: (c.relative, fmean(fields[_group(c)]), _order(run, c)))
    groups = [f"{c.published.paper}, {c.published.model}" for c in ordered]
    starts = [place for place, group in enumerate(groups) if place == 0 or group != groups[place - 1]]
    lines = [(run.labels.name(variant_of(c.cell)), budget_text(c.cell["kv_budget"]), c) for c in ordered]
    notes = [f"{NO_NUMBER.capitalize()}: {m} at {budget}: {c.why}." for m, budget, c in lines if c.measured is None]
    if any(not c.printed for c in ordered):
        notes.append("Row means: the source prints no average; the mean of the values it prints.")
    return Table(
        name=name,
        title=title,
        columns=("Data set", "Method", "KV budget", "Fields that differ", "Here", "Published", "Difference"),
        rows=tuple(_row(run, c) for c in ordered),
        notes=tuple(dict.fromkeys(notes)),
        left=4,
        blocks=tuple((place, groups[place]) for place in starts),
        data=tuple(_data(run, c) for c in ordered),
    )


def _row(run: Run, c: Comparison) -> tuple[Entry, ...]:
    here = Entry(NO_NUMBER) if c.measured is None else Entry(_number(c.measured, c.relative), _interval(c, 0.0))
    difference = Entry() if c.difference is None else Entry(_signed(c.difference), _interval(c, c.value, sign=True))
    method, budget = run.labels.name(variant_of(c.cell)), budget_text(c.cell["kv_budget"])
    published = Entry(_number(c.value, c.relative))
    return (Entry(_over(c)), Entry(method), Entry(budget), Entry(_words(c)), here, published, difference)


def _data(run: Run, c: Comparison) -> dict[str, Any]:
    """A row in full precision; relative: all scores are in percent of the full cache's."""
    return {
        "paper": c.published.paper,
        "published_model": c.published.model,
        "published_benchmark": c.published.benchmark,
        "data_sets": ", ".join(c.over),
        "method": c.cell["method"],
        "preset": c.cell["preset"],
        "kv_budget": None if c.cell["kv_budget"] is None else str(c.cell["kv_budget"]),
        "published_method": c.published.method,
        "published_budget": c.published.budget,
        "relative": c.relative,
        "here": c.measured,
        "low": c.low,
        "high": c.high,
        "n": c.n,
        "published": c.value,
        "difference": c.difference,
        "differ": ", ".join(d.field for d in c.differences if d.known),
        "not_known": ", ".join(d.field for d in c.differences if not d.known),
        "why": c.why,
        "source": c.published.source,
        "note": c.published.note,
    }


_Group = tuple[str, str, bool]


def _group(c: Comparison) -> _Group:
    return c.published.paper, c.published.model, c.relative


def _order(run: Run, c: Comparison) -> tuple[object, ...]:
    """As the published table has it."""
    row, budget, method = c.published, budget_order(c.cell["kv_budget"]), run.labels.order(variant_of(c.cell))
    return row.paper, row.model, budget, method, row.source, row.note, _places().get(c.over[0], 0)


@cache
def _places() -> dict[str, int]:
    """The order of the data sets in the published tables."""
    return {name: place for place, name in enumerate(dict.fromkeys(row.dataset for row in published_values()))}


def _over(c: Comparison) -> str:
    if c.published.dataset == RATIO_TO_FULL:
        return f"ratio of averages of {len(c.over)}"
    if len(c.over) == 1:
        return c.over[0]
    return f"average of {len(c.over)}" if c.printed else f"row mean of {len(c.over)}"


def _words(c: Comparison) -> str:
    """The fields that differ, and how many are not known of one of the two."""
    known = [d.field for d in c.differences if d.known]
    unknown = sum(not d.known for d in c.differences)
    words = ", ".join(known) or "none"
    return words + (f"; {unknown} not known" if unknown else "")


def _number(value: float, relative: bool) -> str:
    return f"{value:.2f}" + (" % of full" if relative else "")


def _interval(c: Comparison, shift: float, sign: bool = False) -> str:
    if c.low is None or c.high is None:
        return ""
    low, high = c.low - shift, c.high - shift
    return f"[{_signed(low)}, {_signed(high)}]" if sign else f"[{low:.2f}, {high:.2f}]"


def _signed(value: float) -> str:
    return f"{round(value, 2) + 0.0:+.2f}"  # + 0.0 turns -0.0 into 0.0


def fields_table(run: Run, comparisons: Sequence[Comparison]) -> Table:
    """What each field is here and there, by source; what is stated nowhere is named below."""
    seen: dict[tuple[str, str, str, str, str], dict[str, None]] = {}
    unknown: dict[str, dict[str, None]] = {}
    for c in comparisons:
        for d in c.differences:
            if d.field == "model":  # named in every row
                continue
            if not d.known and NOT_STATED in (d.there, d.here):
                unknown.setdefault(c.published.paper, {})[d.field] = None
                continue
            key = (c.published.paper, d.field, d.here, d.there, d.where)
            seen.setdefault(key, {})[run.labels.title(c.cell["method"])] = None
    many = {paper: {m for key, ms in seen.items() if key[0] == paper for m in ms} for paper, *_ in seen}
    rows = [
        (
            Entry(paper), Entry(field), Entry(here or MISSING), Entry(there),
            Entry("all" if set(members) == many[paper] else ", ".join(members)), Entry(where or MISSING),
        )
        for (paper, field, here, there, where), members in _merged(seen).items()
    ]  # fmt: skip
    notes = [
        f"{paper} does not state, as far as could be read: {', '.join(names)}." for paper, names in unknown.items()
    ]
    said = dict.fromkeys((c.published.paper, c.published.note) for c in comparisons)
    notes += [f"Of {paper}: {note}." for paper, note in sorted(said)]
    return Table(
        name=FIELDS_TABLE,
        title="Protocol: what differs",
        columns=("Published by", "Field", "Here", "There", "Methods", "Stated in"),
        rows=tuple(rows),
        notes=tuple(notes),
        rules=group_starts([row[0].text for row in rows]),
        left=6,
    )


def _merged(
    seen: Mapping[tuple[str, str, str, str, str], Mapping[str, None]],
) -> dict[tuple[str, str, str, str, str], dict[str, None]]:
    """One row per paper, field and place, however many values the data sets have; papers in order of their names."""
    places: dict[tuple[str, str, str], list[tuple[str, str, Mapping[str, None]]]] = {}
    for (paper, field, here, there, where), members in seen.items():
        places.setdefault((paper, field, where), []).append((here, there, members))
    out = {}
    for (paper, field, where), values in sorted(places.items(), key=lambda item: item[0][0]):
        if len(values) <= 2:
            for here, there, members in values:
                out[paper, field, here, there, where] = dict(members)
            continue
        here, there = _few([value[0] for value in values]), _few([value[1] for value in values])
        out[paper, field, here, there, where] = {m: None for *_, members in values for m in members}
    return out


def _few(words: Sequence[str]) -> str:
    unique = list(dict.fromkeys(words))
    return "; ".join(unique[:3]) + (f" and {len(unique) - 3} more" if len(unique) > 3 else "")
