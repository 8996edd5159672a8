"""Rows of a data set on the hub, read by `datasets` from Parquet or JSON files at one commit.

Never a script: `datasets` runs none since version 4. The package is imported only here, when a hub source is read.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from suite.errors import SuiteError

PREFIX = "hub:"


@dataclass(frozen=True)
class HubRows:
    """Rows as plain Python values, and the sha256 of their JSON lines."""

    source: str
    revision: str
    rows: tuple[dict[str, Any], ...]
    sha256: str


def repo_of(data: str | None) -> str | None:
    """`someone/name` of `hub:someone/name`; None of a path."""
    return data.removeprefix(PREFIX) if data is not None and data.startswith(PREFIX) else None


def pinned_revision(data: str | None, revision: str | None, known: dict[str, str]) -> str | None:
    """The commit to read `data` at: the user's, else the one `known` for the repository; None if `data` is a path.

    Raises ValueError if there is none, or if it is not a commit.
    """
    repo = repo_of(data)
    if repo is None:
        if revision is not None:
            raise ValueError(f"`revision` belongs to data = '{PREFIX}OWNER/NAME'; leave it out for files")
        return None
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise ValueError(f"data is {data!r}, expected {PREFIX}OWNER/NAME")
    commit = revision or known.get(repo)
    look_up = f"git ls-remote https://huggingface.co/datasets/{repo}"
    if commit is None:
        raise ValueError(f"no commit of {repo} is known here; name its 40 hex digits as `revision`: {look_up}")
    if not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise ValueError(f"revision is {commit!r}, expected the 40 hex digits of a commit (branches move): {look_up}")
    return commit


@functools.lru_cache(maxsize=32)
def read_rows(repo: str, revision: str, config: str, split: str, task: str | None = None) -> HubRows:
    """All rows of a config's split; with `task`, those whose column `task` says so."""
    source = f"{PREFIX}{repo}@{revision[:8]}/{config}"
    try:
        import datasets

        with _quiet():
            table = datasets.load_dataset(repo, config, split=split, revision=revision)
        # Offline, `datasets` may serve whatever version it has.
        origins = [file["filename"] for file in table.cache_files] + list(table.info.download_checksums or ())
        if not any(revision in origin for origin in origins):
            raise ValueError("the cache holds another version of it")
        if task is not None:
            if "task" not in table.column_names:
                raise ValueError(f"no column 'task'; got {', '.join(table.column_names)}")
            table = table.select([i for i, name in enumerate(table["task"]) if name == task])
        rows = tuple(dict(row) for row in table)
    except Exception as error:  # network, access, a missing config or split, damaged files: dozens of types
        first = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise SuiteError(
            f"cannot read {config!r} of {repo} at {revision} from the hub ({type(error).__name__}: {first}); check the "
            "names, or download the official files and give their path"
        ) from None
    if not rows:
        what = f"no row of {task}" if task is not None else "no row"
        raise SuiteError(f"{source} holds {what}; name another repository, or give the official files' path")
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, default=str).encode() + b"\n")
    return HubRows(source, revision, rows, digest.hexdigest())


@contextmanager
def _quiet() -> Iterator[None]:
    """Without progress bars, and without a warning for each try: what failed in the end is reported once."""
    import datasets
    from huggingface_hub.utils import logging as hub_logging

    levels = datasets.logging.get_verbosity(), hub_logging.get_verbosity()
    bars = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    hub_logging.set_verbosity_error()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(levels[0])
        hub_logging.set_verbosity(levels[1])
        if not bars:
            datasets.enable_progress_bars()
