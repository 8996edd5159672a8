"""The one error a user sees."""


class CokvError(ValueError):
    """A user's input that cannot be worked with: what was got, what was expected, what to do. One line."""
