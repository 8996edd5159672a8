"""The one error of the top floor.

The command line prints it, like its siblings of the other rooms, as one line and exits with 2.
"""

from cokv.types import CokvError
from longbench.errors import LongBenchError
from reports.errors import ReportError
from ruler.errors import RulerError


class SuiteError(ValueError):
    """A bad experiment file, run folder or argument: what was got, what was expected, what to do."""


USER_ERRORS = (SuiteError, CokvError, LongBenchError, RulerError, ReportError)
