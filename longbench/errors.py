"""The one error a user of this room meets: it says what was got, what was expected and what to do."""

from __future__ import annotations


class LongBenchError(ValueError):
    """A LongBench file, record, template or parameter that cannot be used as it stands."""
