"""The one error that this package raises: its message has the input, what was expected and what to do."""

from __future__ import annotations


class RulerError(ValueError):
    """A RULER file, record or parameter that cannot be used as it stands."""
