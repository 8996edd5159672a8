"""Head profiles by path, or by the name of a shipped one, ready for a method.

| file | holds | loaded as |
|---|---|---|
| `.safetensors` | what this package saves | HeadScores or RatioCurves |
| `.npy`, one per slice size | CoKV's sums and counts of contributions | HeadScores: sliced Shapley values |
| `.npy` | LU-KV's curves | RatioCurves |
| `.json` | HeadKV's scores of query heads | HeadScores |
| `.tsv`, its config beside it | DuoAttention's gates | HeadScores |

The caller checks by a profile's provenance that it is of the kind that a method needs, and made on
the model in use.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from safetensors import SafetensorError, safe_open

from cokv.methods.method import Method
from cokv.profiles.contributions import Contributions, head_scores, is_contributions, read_contributions
from cokv.profiles.duo_file import DuoPattern, read_duo
from cokv.profiles.headkv_file import read_headkv
from cokv.profiles.lukv_file import KIND as CURVES
from cokv.profiles.lukv_file import RatioCurves, read_lukv
from cokv.profiles.npy import read_npy
from cokv.profiles.shipped import REASON, shipped_folders, shipped_for, shipped_path
from cokv.types import CokvError, HeadScores, named

PathLike: TypeAlias = str | os.PathLike[str]
Profile: TypeAlias = HeadScores | RatioCurves
Published: TypeAlias = Contributions | HeadScores | DuoPattern | RatioCurves

SUFFIXES = (".npy", ".json", ".tsv", ".safetensors")


def load_profile(path_or_paths: PathLike | Sequence[PathLike], shape: tuple[int, int] | None = None) -> Profile:
    """The profile in a file; or in several, as CoKV's release has one file of sums and counts per slice size.

    path_or_paths: paths, or names MODEL/STEM of profiles that ship with a model (`shipped_profiles`).
    shape: (num_layers, num_kv_heads) of the model: a profile of another shape is refused, and HeadKV's query heads are
    reduced to KV heads. Raises CokvError.
    """
    paths = [path_or_paths] if isinstance(path_or_paths, str | os.PathLike) else path_or_paths
    contents = [read_published(path, shape) for path in paths]
    contributions = [content for content in contents if isinstance(content, Contributions)]
    if contributions and len(contributions) == len(contents):
        return head_scores(contributions, "paper", shape)
    if len(contents) != 1:
        names = ", ".join(os.fspath(path) for path in paths) or "none"
        raise CokvError(
            f"{len(contents)} profile files ({names}), expected one: only CoKV's sums and counts come in several, one "
            "per slice size; name one file"
        )
    (content,) = contents
    assert not isinstance(content, Contributions)
    return content.scores() if isinstance(content, DuoPattern) else content


def read_published(path: PathLike, shape: tuple[int, int] | None = None) -> Published:
    """One file as its authors published it. shape: as of `load_profile`; not checked where a file has none itself."""
    path = profile_path(path)
    suffix = path.suffix
    if suffix == REASON and path.parent in shipped_folders().values():
        reason = json.loads(path.read_text(encoding="utf-8"))["unavailable"]
        raise CokvError(f"no {path.stem} profile ships with {path.parent.name}, as it can have none: {reason}")
    if suffix == ".npy":
        value = read_npy(path)
        if isinstance(value, np.ndarray):
            return read_lukv(path, shape)
        if is_contributions(value):
            return read_contributions(path)
        raise CokvError(f"{path}: neither CoKV's sums and counts nor LU-KV's curves; check the file")
    if suffix == ".json":
        return read_headkv(path, shape)
    if suffix == ".tsv":
        return read_duo(path, shape=shape)
    if suffix == ".safetensors":
        saved = _read_saved(path)
        with named(path):
            return saved.require_shape(*shape) if shape else saved
    raise CokvError(f"{path}: ends in {suffix or 'nothing'!r}, expected one of {', '.join(SUFFIXES)}")


def _read_saved(path: Path) -> Profile:
    """A file that this package wrote, by the kind in its header."""
    try:
        with safe_open(os.fspath(path), framework="np") as file:
            is_curves = (file.metadata() or {}).get("kind") == f"cokv.{CURVES}"
    except (SafetensorError, OSError):
        is_curves = False  # HeadScores.load says what is wrong
    return RatioCurves.load(path) if is_curves else HeadScores.load(path)


def expand(paths: Sequence[PathLike]) -> list[Path]:
    """Files as they are, and for each folder the profiles in it, sorted by name, without the configs of gates."""
    files: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            files.append(path)
            continue
        inside = [file for file in sorted(path.iterdir()) if file.suffix in SUFFIXES and file.is_file()]
        inside = [file for file in inside if not file.name.endswith("config.json")]
        if not inside:
            raise CokvError(f"{path}: no profiles in this folder, expected files ending in {', '.join(SUFFIXES)}")
        files += inside
    return files


def profile_for(path_or_name: PathLike, method: Method) -> Profile | None:
    """The profile in a file, or of that name; of a model's name alone, the one that the method takes.

    None for a method that needs none, of a model's name. Raises CokvError.
    """
    name = os.fspath(path_or_name)
    if name not in shipped_folders() or Path(name).exists():
        return load_profile(name)
    return load_profile(shipped_for(name, method)) if method.needs_profile else None


def profile_path(path_or_name: PathLike) -> Path:
    """The file behind a shipped profile's name; any other path as it is. Raises CokvError for an unknown name."""
    name = os.fspath(path_or_name)
    return shipped_path(name) or Path(name)
