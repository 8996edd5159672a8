"""A disk that is full, for files whose names match a pattern: they can be created, and writing to them fails."""

import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from unittest import mock


@contextmanager
def full_disk(pattern: str) -> Iterator[None]:
    """Inside, files opened by pathlib for writing are left empty, with the error that a write to a full disk raises."""
    real_open = io.open

    def open_file(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        opened = real_open(file, mode, *args, **kwargs)
        if mode.strip("bt") != "r" and isinstance(file, str | os.PathLike) and fnmatch(Path(file).name, pattern):
            opened.close()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return opened

    with mock.patch.object(io, "open", open_file):
        yield
