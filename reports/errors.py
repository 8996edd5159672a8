"""The one exception of this room."""


class ReportError(ValueError):
    """A run folder or a record that cannot be reported on; the message says what was got, expected, and what to do."""
