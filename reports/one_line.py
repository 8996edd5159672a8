"""Errors of the programs of this room as one line on standard error, in place of a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable

from reports.errors import ReportError


def exit_code(action: Callable[[], int | None]) -> int:
    """What the program ends with: what the action returns (0 for None), or 2 after an error that a user can correct."""
    try:
        return action() or 0
    except ReportError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        print(f"error: {error.strerror or error}; correct that, then run the same command again", file=sys.stderr)
    return 2
