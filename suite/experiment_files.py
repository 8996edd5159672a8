"""The experiment files that ship: in a checkout the folder experiments/, in a wheel data files. Imports no package."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

DEFAULT = "smollm2"
EXPERIMENTS = Path("experiments")


def shipped_experiments() -> dict[str, Path]:
    """Experiment files by name: of the working directory first, then of the checkout, then of the installed package."""
    try:
        files = metadata.files("cokv") or ()
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        files = ()
    installed = [Path(str(file.locate())) for file in files if file.parent.name == EXPERIMENTS.name]
    beside = Path(__file__).parents[1]  # the checkout, or where `pip install --target` has put packages and data
    folders = [beside / "share" / "cokv" / EXPERIMENTS, beside / EXPERIMENTS, EXPERIMENTS]
    paths = [*installed, *(file for folder in folders for file in sorted(folder.glob("*.toml")))]
    return {path.stem: path for path in paths if path.suffix == ".toml" and path.is_file()}
