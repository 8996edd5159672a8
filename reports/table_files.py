"""A table's files: Markdown, LaTeX, CSV and Parquet. The last two hold the raw numbers where the table has them."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reports.latex import HEAD, to_latex
from reports.table import Table, to_markdown
from reports.text import visible


def write_table(table: Table, folder: Path) -> None:
    """Four files named after the table, in a folder that exists."""
    rows = raw_rows(table)
    (folder / f"{table.name}.md").write_text(to_markdown(table), encoding="utf-8")
    (folder / f"{table.name}.tex").write_text(HEAD + to_latex(table), encoding="utf-8")
    (folder / f"{table.name}.csv").write_bytes(to_csv(rows).encode())
    (folder / f"{table.name}.parquet").write_bytes(to_parquet(rows))


def raw_rows(table: Table) -> list[dict[str, Any]]:
    """The table's data; of a table without any, its cells as they are printed, a detail in a column of its own."""
    if table.data:
        return [{key: _plain(value) for key, value in row.items()} for row in table.data]
    return [
        {
            visible(f"{name} {part}".strip()): visible(text)
            for name, item in zip(_distinct(table.columns), row, strict=True)
            for part, text in (("", item.text), *([("detail", item.detail)] if _has_details(table, name) else []))
        }
        for row in table.rows
    ]


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """With a head; None is an empty field."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def to_parquet(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """One row group, the types those of the values."""
    import pyarrow as pa  # here, because it takes longer to load than a table to print
    from pyarrow import parquet

    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist([dict(row) for row in rows]), sink)
    return bytes(sink.getvalue())


def _plain(value: Any) -> Any:
    return visible(value) if isinstance(value, str) else value


def _distinct(columns: Sequence[str]) -> list[str]:
    """Names of columns, the second and later of the same name with its place."""
    return [name if name not in columns[:place] else f"{name} ({place + 1})" for place, name in enumerate(columns)]


def _has_details(table: Table, name: str) -> bool:
    place = _distinct(table.columns).index(name)
    return any(row[place].detail for row in table.rows)
