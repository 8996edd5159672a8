"""What all commands share: a user's error is one line on stderr and exit code 2, and one experiment is the default."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from suite.errors import USER_ERRORS, SuiteError

DEFAULT = "embedded"
EXPERIMENTS = Path("experiments")  # of the checkout; in a wheel they are data files
ExperimentFile = Annotated[
    Path | None, typer.Option(help="Experiment file, or the name of one that ships: embedded, smoke.")
]


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


def kv_budget_of(option: str) -> Any:
    """--kv-budget as a KVBudget."""
    from cokv.types import CokvError, KVBudget

    try:
        return KVBudget.parse(option)
    except CokvError as error:
        raise SuiteError(f"--kv-budget {option}: {error}") from None


def experiment_of(path: Path | None, limit: int | None = None) -> Any:
    """The experiment in this file, or one that ships: the embedded one without a name."""
    from suite.spec import read_experiment

    name = DEFAULT if path is None else str(path)
    if name.isidentifier() and (path is None or not path.exists()):
        path = shipped_experiments().get(name, path)
    return read_experiment(path or EXPERIMENTS / f"{DEFAULT}.toml", limit)


def shipped_experiments() -> dict[str, Path]:
    """Experiment files by name: of the folder this is run in, of the checkout, or of the installed package."""
    installed = [file.locate() for file in metadata.files("cokv") or () if file.parent.name == EXPERIMENTS.name]
    folders = [Path(__file__).parents[2] / EXPERIMENTS, EXPERIMENTS]
    paths = [*map(Path, map(str, installed)), *(file for folder in folders for file in sorted(folder.glob("*.toml")))]
    return {path.stem: path for path in paths if path.suffix == ".toml"}
