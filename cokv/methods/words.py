"""The message for an unknown name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def unknown(what: str, name: str, valid: Iterable[str]) -> str:
    """`unknown WHAT NAME`, the nearest valid names, and all of them."""
    valid = list(valid)
    near = difflib.get_close_matches(str(name).lower().replace("-", "_"), valid, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"unknown {what} {name!r}; {hint}valid: {', '.join(valid) or 'none'}"
