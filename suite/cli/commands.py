"""What all commands share: a user's error is one line on stderr and exit code 2, and one experiment is the default."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from suite.errors import USER_ERRORS

DEFAULT = Path("experiments/embedded.toml")
ExperimentFile = Annotated[Path | None, typer.Option(help="Experiment file; the embedded one when left out.")]


def reported(command: Callable[..., Any]) -> Callable[..., Any]:
    """Turns every user's error of any room into one line and exit code 2."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except USER_ERRORS as error:
            print(f"cokv: {' '.join(str(error).split())}", file=sys.stderr)
            raise typer.Exit(2) from None
        except BrokenPipeError:
            raise  # the reader, such as `head`, has had enough
        except OSError as error:
            where = f": {error.filename}" if error.filename else ""
            print(
                f"cokv: {error.strerror or error}{where}; what was written is kept, the same command goes on",
                file=sys.stderr,
            )
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            print("cokv: stopped; the same command goes on where it was", file=sys.stderr)
            raise typer.Exit(130) from None

    return wrapped


def experiment_of(path: Path | None, limit: int | None = None) -> Any:
    """The experiment in this file, or the embedded one."""
    from suite.spec import read_experiment

    if path is None:
        path = DEFAULT if DEFAULT.exists() else Path(__file__).parents[1] / DEFAULT
    return read_experiment(path, limit)
