"""Untrusted JSON lines: every line is bounded, decoded, parsed and checked, and every error names its line.

Knows nothing of LongBench's fields; `data.py` and `rescoring.py` say what a record must hold.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from typing import IO, Any

from longbench.errors import LongBenchError

LINE_LIMIT = 64 * 2**20
"""Bytes one line may have. The longest contexts, of v2, have two million words."""

FILE_LIMIT = 2 * 2**30
"""Bytes one file may have once unpacked."""


def read_lines(
    stream: IO[bytes], source: str, *, line_limit: int = LINE_LIMIT, file_limit: int = FILE_LIMIT
) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, bytes of the line). A line over the limit is refused before the rest of it is read."""
    number, total = 0, 0
    while line := stream.readline(line_limit + 1):
        number += 1
        total += len(line)
        if len(line) > line_limit:
            raise LongBenchError(
                f"{source} line {number}: longer than {line_limit} bytes; expected one record per line, "
                "so check that the file is JSON lines"
            )
        if total > file_limit:
            raise LongBenchError(f"{source}: more than {file_limit} bytes; expected a LongBench file, check the source")
        yield number, line


def parse_line(line: bytes, source: str, number: int) -> dict[str, Any] | None:
    """The JSON object on one line, None for a blank line."""
    place = f"{source} line {number}"
    if number == 1 and line.startswith(b"\xef\xbb\xbf"):
        raise LongBenchError(f"{place}: starts with a byte order mark; save the file as plain UTF-8")
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise LongBenchError(f"{place}: not UTF-8 ({error.reason} at byte {error.start}); convert the file") from None
    if not text.strip():
        return None
    try:
        value = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise LongBenchError(
            f"{place}: broken JSON ({error.msg} at column {error.colno}); expected one complete object, "
            "so fetch the file again"
        ) from None
    except RecursionError:
        raise LongBenchError(f"{place}: nested too deeply; expected one flat object per line") from None
    except ValueError as error:  # from the two hooks, or an integer with too many digits
        raise LongBenchError(f"{place}: {error}; expected a plain JSON object") from None
    if not isinstance(value, dict):
        raise LongBenchError(f"{place}: a JSON {type(value).__name__}, expected an object")
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} appears twice")
    return record


def _no_constant(name: str) -> Any:
    raise ValueError(f"the number {name} is not JSON")


def read_records(
    stream: IO[bytes], source: str, check: Callable[[dict[str, Any], str], None], *, line_limit: int = LINE_LIMIT
) -> tuple[list[dict[str, Any]], str]:
    """All records of a stream after `check(record, place)`, and the sha256 of its bytes."""
    digest = hashlib.sha256()
    records: list[dict[str, Any]] = []
    for number, line in read_lines(stream, source, line_limit=line_limit):
        digest.update(line)
        record = parse_line(line, source, number)
        if record is not None:
            check(record, f"{source} line {number}")
            records.append(record)
    return records, digest.hexdigest()


def require_text(value: Any, field: str, place: str, *, empty: bool = True) -> None:
    """`value` must be a string that can be written as UTF-8, and non-blank unless `empty`."""
    if not isinstance(value, str):
        raise LongBenchError(f"{place}: field {field!r} is {_kind(value)}, expected a string")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise LongBenchError(
            f"{place}: field {field!r} holds half a surrogate pair, expected whole characters"
        ) from None
    if not empty and not value.strip():
        raise LongBenchError(f"{place}: field {field!r} is empty, expected text")


def require_texts(value: Any, field: str, place: str) -> None:
    """`value` must be a non-empty list of strings."""
    if not isinstance(value, list):
        raise LongBenchError(f"{place}: field {field!r} is {_kind(value)}, expected a list of strings")
    if not value:
        raise LongBenchError(f"{place}: field {field!r} is an empty list, expected at least one string")
    for item in value:
        require_text(item, field, place)


def require_fields(record: dict[str, Any], fields: tuple[str, ...], place: str) -> None:
    missing = [field for field in fields if field not in record]
    if missing:
        raise LongBenchError(
            f"{place}: no field {', '.join(missing)}; got {', '.join(sorted(record)) or 'none'}, "
            f"expected {', '.join(fields)}"
        )


def _kind(value: Any) -> str:
    return "null" if value is None else f"a {type(value).__name__}"
