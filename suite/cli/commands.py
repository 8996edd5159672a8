"""What all commands share: a user's error is one line on stderr and exit code 2, and one experiment is the default."""

from __future__ import annotations

import errno
import functools
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from reports.text import visible
from suite.errors import USER_ERRORS, SuiteError
from suite.experiment_files import DEFAULT, EXPERIMENTS, shipped_experiments

GOES_ON = {"reproduce", "ssv", "masking", "transfer"}  # commands whose work so far is kept when they are stopped
ExperimentFile = Annotated[
    Path | None,
    typer.Option(
        help="Experiment file, or the name of one that ships: smollm2 (the default), embedded, full, cokv_checks."
    ),
]


def reported(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command with every user's error, of any room, as one line on stderr and exit code 2."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            result = command(*args, **kwargs)
            sys.stdout.flush()  # a full disk behind it is reported here, not while Python ends
            return result
        except USER_ERRORS as error:
            _say(str(error))
            raise typer.Exit(2) from None
        except BrokenPipeError:
            raise  # the reader, such as `head`, has had enough
        except UnicodeDecodeError as error:
            if not _of_matplotlib(error):
                raise
            _say(f"matplotlib cannot read its settings ({error}); save the file matplotlibrc as UTF-8, or remove it")
            raise typer.Exit(2) from None
        except OSError as error:
            file = f": {error.filename}" if error.filename else ""
            again = "run the same command again" + ": it goes on from what is written" * (command.__name__ in GOES_ON)
            _say(f"{error.strerror or error}{file}; {_remedy(error)}, then {again}")
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            kept = command.__name__ in GOES_ON
            _say(f"stopped; {'what is finished is kept: ' * kept}run the same command again{' to go on' * kept}")
            raise typer.Exit(130) from None

    return wrapped


def _of_matplotlib(error: BaseException) -> bool:
    """Whether it was raised while matplotlib was loaded, which reads a user's matplotlibrc then."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(frame.f_globals.get("__name__") == "matplotlib" for frame in frames)


def _say(message: str) -> None:
    """One line on stderr, whatever is in the message: a name of a file, a value of one."""
    print(f"cokv: {visible(' '.join(message.split()))}", file=sys.stderr)


def _remedy(error: OSError) -> str:
    """What a user can do about an error of the operating system."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "free some space"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "allow access to it, or name another place"
    return "correct that"


def kv_budget_of(option: str) -> Any:
    """--kv-budget as a KVBudget."""
    from cokv.types import CokvError, KVBudget

    try:
        return KVBudget.parse(option)
    except CokvError as error:
        raise SuiteError(f"--kv-budget {option}: {error}") from None


def experiment_of(path: Path | None, limit: int | None = None) -> Any:
    """The experiment in this file, or the shipped one of that name; without a name, the default."""
    from suite.spec import read_experiment

    name = DEFAULT if path is None else str(path)
    if re.fullmatch(r"[\w-]+", name) and (path is None or not path.exists()):
        path = shipped_experiments().get(name, path)
    return read_experiment(path or EXPERIMENTS / f"{DEFAULT}.toml", limit)
