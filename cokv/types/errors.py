"""The errors a user sees."""


class CokvError(ValueError):
    """A user's input that cannot be worked with: what was got, what was expected, what to do. One line."""


class Infeasible(CokvError):
    """A budget that a method cannot meet. Raised by checks of budgets and by nothing else."""
