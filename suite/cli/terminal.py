"""Standard output, the terminal and matplotlib's settings as they may be: an old code page, a closed output, a terminal
of no usable width, a back end that is not there.
"""

from __future__ import annotations

import io
import os
import sys

LEAST_WIDTH = 20  # columns in which a table can be read


def prepare_output() -> None:
    """From now on no character, no width and no back end for windows costs a result."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (as long as the process)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors in ("strict", "surrogateescape"):
        sys.stdout.reconfigure(errors="replace")  # "?" for what its encoding does not have
    width = os.environ.get("COLUMNS", "")
    if not width.isdecimal() or int(width) < LEAST_WIDTH:
        os.environ.pop("COLUMNS", None)
    os.environ.pop("MPLBACKEND", None)  # figures are files; one that is misspelled would keep matplotlib from loading
