"""How a table is cut to fit a page of LaTeX: its size of type, and which columns and rows stand on which page.

Points and ems of Computer Modern at 10 points, in a page of `article`. Estimates: `\\fittable` (latex.py) scales down
what comes out wider.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from reports.table import Entry, Table, column_words, latex_units

TEXT_WIDTH = 430.0  # between the two-column article's 453 (A4) and the one-column article's 345, which scales to it
COLUMN_WIDTH = 215.0  # of a two-column article
TEXT_HEIGHT = 540.0
SIZES = ((8.0, 5.0), (8.0, 3.0), (7.0, 2.5), (6.0, 2.2))  # of type, and the room on each side of a column
DETAIL = 5.0  # size of a detail under its number
WRAP = 24.0  # ems; a column of longer texts is a paragraph,
WRAP_TOO = 11.0  # and beside one, so is a column of text that is longer than this
NARROWEST = 40.0  # points of a paragraph
LONGEST = 900  # characters of one cell
ROTATED = math.radians(60)
NOTE_LINE, NOTE_CHARACTERS = 8.2, 95  # height and length of a line of notes, in the narrower article


@dataclass(frozen=True)
class Panel:
    """One tabular: indices of its columns, the leading ones among them, and of its rows."""

    columns: tuple[int, ...]
    rows: tuple[int, ...]
    height: float


@dataclass(frozen=True)
class Layout:
    """Pages of panels, one above another. wrapped: columns that are paragraphs, with their width in points."""

    size: float
    room: float
    wide: bool
    wrapped: Mapping[int, float]
    rotated: frozenset[int]
    pages: tuple[tuple[Panel, ...], ...]
    notes_below: bool  # whether the notes fit below the last panel


def em(text: str) -> float:
    """Width of a text in ems."""
    return sum(0.53 * len(shown) if len(shown) > 1 else _em(shown) for shown, _ in latex_units(text))


def _em(character: str) -> float:
    if character in "iljtfIr.,:;'|!()[]{} ":
        return 0.33
    if character in "mwMW%@—&":
        return 0.85
    return 0.72 if character.isupper() else 0.51


def column_heads(table: Table) -> tuple[str, ...]:
    return table.short or table.columns


def layout(table: Table) -> Layout:
    columns = [[row[place] for row in table.rows] for place in range(len(table.columns))]
    body = [
        max((_cell(item, table, inline=place < table.left) for item in column), default=0.0)
        for place, column in enumerate(columns)
    ]
    heads = [max(map(em, column_words(name)), default=0.0) for name in column_heads(table)]
    rotated = frozenset(_rotated(table, body, heads))
    turned = [heads[p] * math.cos(ROTATED) + math.sin(ROTATED) if p in rotated else heads[p] for p in range(len(heads))]
    widths = [max(pair) for pair in zip(body, turned, strict=True)]
    size, room, wrapped, parts = _fit(table, widths)
    used = sum(min(widths[p] * size, wrapped.get(p, math.inf)) + 2 * room for p in parts[0])
    narrow = len(parts) == 1 and not wrapped and not table.wide and used <= COLUMN_WIDTH
    top = 1.3 * size * max(1, *(len(column_words(name)) for name in column_heads(table)))
    if rotated:
        top = max(heads[place] for place in rotated) * size * math.sin(ROTATED) + size
    top += 3.6 * size if table.heads else 8.0
    titles = dict(table.blocks)
    heights = [_row_height(table, number, size, wrapped) for number in range(len(table.rows))]
    for row in {*titles, *table.gaps, *table.rules}:
        heights[row] += 1.2 * size + 7 if row in titles else 4
    available = TEXT_HEIGHT - caption_height(table, narrow)
    panels = [
        Panel(tuple(part), rows, top + sum(heights[row] for row in rows) + 10)
        for rows in _row_pages(table, heights, available - top - 14)
        for part in parts
    ]
    pages = _packed(panels, available)
    left = available - sum(panel.height for panel in pages[-1])
    below = notes_height(table.notes, narrow) <= left
    return Layout(size, room, not narrow, wrapped, rotated, pages, below)


def _rotated(table: Table, body: Sequence[float], heads: Sequence[float]) -> Iterator[int]:
    """All columns under one of the titled heads, if one of their own heads is much wider than its numbers."""
    start = 0
    under: list[int] = []
    for title, count in table.heads:
        under += range(start, start + count) if title else []
        start += count
    if any(heads[place] > body[place] + 1 for place in under):
        yield from under


def caption_height(table: Table, narrow: bool = False) -> float:
    return 20 + 12.5 * math.ceil((len(table.title) + 12) / (38 if narrow else 68))


def notes_height(notes: Sequence[str], narrow: bool = False) -> float:
    """Of the notes below a table."""
    across = NOTE_CHARACTERS * (0.55 if narrow else 1)
    return sum(NOTE_LINE * math.ceil(2 * em(note) / across) for note in notes) + 6


def page_notes(notes: Sequence[str]) -> Iterator[list[str]]:
    """Notes that do not fit below their table, a page at a time."""
    page: list[str] = []
    for note in notes:
        if page and notes_height([*page, note]) > TEXT_HEIGHT - 40:
            yield page
            page = []
        page.append(note)
    if page:
        yield page


def _cell(item: Entry, table: Table, inline: bool) -> float:
    """Ems of a cell; bold letters are wider. inline: its detail stands beside the text, not under it."""
    detail = item.detail[:LONGEST] if table.details == "shown" else ""
    text = item.text[:LONGEST]
    return 1.05 * em(f"{text} {detail}".strip()) if inline else max(1.05 * em(text), DETAIL / 8 * em(detail))


def _fit(table: Table, widths: Sequence[float]) -> tuple[float, float, dict[int, float], list[list[int]]]:
    """Size of type, room beside a column, widths of paragraphs, and the columns of each part."""
    every = list(range(len(widths)))
    long = [place for place in every if widths[place] > WRAP]
    if long:
        long = [place for place in every if widths[place] > (WRAP_TOO if place < table.left else WRAP)]
        size, room = SIZES[1]
        fixed = sum(widths[p] * size for p in every if p not in long) + 2 * room * len(every)
        share = max(TEXT_WIDTH - fixed, 70.0 * len(long))
        weight = sum(math.sqrt(widths[place]) for place in long)
        return size, room, {p: max(share * math.sqrt(widths[p]) / weight, NARROWEST) for p in long}, [every]
    choices = []
    for size, room in SIZES:
        points = [width * size + 2 * room for width in widths]
        available = TEXT_WIDTH - sum(points[: table.left])
        units = _units(table, points, available)
        parts = _parts([sum(points[p] for p in unit) for unit in units], available)
        columns = [[*range(table.left), *(p for unit in part for p in units[unit])] for part in parts]
        choices.append((len(columns), size, room, columns))
    fewest = min(count for count, *_ in choices)
    _, size, room, columns = next(choice for choice in choices if choice[0] == fewest)
    return size, room, {}, columns


def _units(table: Table, points: Sequence[float], available: float) -> list[list[int]]:
    """Columns that stay together: those under one head, unless they are wider than the page."""
    units: list[list[int]] = []
    start = 0
    for _, count in table.heads or [("", 1)] * len(points):
        members = [place for place in range(start, start + count) if place >= table.left]
        start += count
        if sum(points[place] for place in members) > available:
            units += [[place] for place in members]
        elif members:
            units.append(members)
    return units


def _parts(widths: Sequence[float], available: float) -> list[list[int]]:
    """Consecutive units in as few parts as fit, the widest of them as narrow as can be."""

    def cut(limit: float) -> list[list[int]]:
        parts: list[list[int]] = [[]]
        for place, width in enumerate(widths):
            if parts[-1] and sum(widths[p] for p in parts[-1]) + width > limit:
                parts.append([])
            parts[-1].append(place)
        return parts

    fewest = cut(available)
    sums = sorted({sum(widths[a:b]) for a in range(len(widths)) for b in range(a + 1, len(widths) + 1)})
    return next((parts for limit in sums if len(parts := cut(limit)) <= len(fewest)), fewest)


def _row_height(table: Table, number: int, size: float, wrapped: Mapping[int, float]) -> float:
    row = table.rows[number]
    lines = [
        math.ceil(1.15 * em(f"{row[p].text} {row[p].detail}"[:LONGEST]) * size / width) for p, width in wrapped.items()
    ]
    under = any(item.detail for place, item in enumerate(row) if place >= table.left and place not in wrapped)
    return 1.17 * size * max(1, *lines, 0) + (1.2 * DETAIL if under and table.details == "shown" else 0.0)


def _row_pages(table: Table, heights: Sequence[float], available: float) -> list[tuple[int, ...]]:
    """Whole blocks where they fit a page, else as many rows as do."""
    starts = sorted({0, *(row for row, _ in table.blocks), *table.rules, len(heights)})
    pages: list[list[int]] = [[]]
    for start, end in pairwise(starts):
        block = list(range(start, end))
        filled = sum(heights[row] for row in pages[-1])
        if pages[-1] and filled + sum(heights[row] for row in block) > available:
            pages.append([])
        for row in block:
            if pages[-1] and sum(heights[r] for r in pages[-1]) + heights[row] > available:
                pages.append([])
            pages[-1].append(row)
    return [tuple(page) for page in pages]


def _packed(panels: Sequence[Panel], available: float) -> tuple[tuple[Panel, ...], ...]:
    pages: list[list[Panel]] = [[]]
    for panel in panels:
        if pages[-1] and sum(p.height for p in pages[-1]) + panel.height > available:
            pages.append([])
        pages[-1].append(panel)
    return tuple(map(tuple, pages))
