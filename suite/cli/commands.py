"""What all commands share: a user's error is one line on stderr and exit code 2, and one experiment is the default.

What a terminal, a pipe or an old code page cannot encode is printed as "?": no result is lost to a character.
"""

from __future__ import annotations

import errno
import functools
import io
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from suite.errors import USER_ERRORS, SuiteError

DEFAULT = "smollm2"
EXPERIMENTS = Path("experiments")  # of the checkout; in a wheel they are data files
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
            print(f"cokv: {' '.join(str(error).split())}", file=sys.stderr)
            raise typer.Exit(2) from None
        except BrokenPipeError:
            raise  # the reader, such as `head`, has had enough
        except OSError as error:
            file = f": {error.filename}" if error.filename else ""
            print(f"cokv: {error.strerror or error}{file}; {_remedy(error)}", file=sys.stderr)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            print("cokv: stopped; run the same command again to go on from here", file=sys.stderr)
            raise typer.Exit(130) from None

    return wrapped


def _remedy(error: OSError) -> str:
    """What a user can do about an error of the operating system. Finished work is in its files in any case."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "free some space, then run the same command again: it goes on from what is written"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "allow access to it, or name another place; then run the same command again"
    return "correct that, then run the same command again: it goes on from what is written"


def replace_unencodable_output() -> None:
    """From now on, standard output prints "?" for a character that its encoding does not have."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors in ("strict", "surrogateescape"):
        sys.stdout.reconfigure(errors="replace")


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
    if name.isidentifier() and (path is None or not path.exists()):
        path = shipped_experiments().get(name, path)
    return read_experiment(path or EXPERIMENTS / f"{DEFAULT}.toml", limit)


def shipped_experiments() -> dict[str, Path]:
    """Experiment files by name: of the working directory first, then of the checkout, then of the installed package."""
    installed = [file.locate() for file in metadata.files("cokv") or () if file.parent.name == EXPERIMENTS.name]
    beside = Path(__file__).parents[2]  # the checkout, or where `pip install --target` has put packages and data
    folders = [beside / "share" / "cokv" / EXPERIMENTS, beside / EXPERIMENTS, EXPERIMENTS]
    paths = [*map(Path, map(str, installed)), *(file for folder in folders for file in sorted(folder.glob("*.toml")))]
    return {path.stem: path for path in paths if path.suffix == ".toml" and path.is_file()}
