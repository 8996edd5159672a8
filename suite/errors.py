"""The suite's error class, and all errors that the command line prints as one line, with exit code 2."""

from cokv.types import CokvError
from longbench.errors import LongBenchError
from reports.errors import ReportError
from ruler.errors import RulerError


class SuiteError(ValueError):
    """A bad experiment file, run folder or argument: what was got, what was expected, what to do."""


USER_ERRORS = (SuiteError, CokvError, LongBenchError, RulerError, ReportError)
