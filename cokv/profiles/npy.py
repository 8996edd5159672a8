"""`.npy` files, read without running what they hold.

A published profile is often `np.save(path, {...})`: a pickle inside a `.npy` file, which `np.load(...,
allow_pickle=True)` executes. Here the header is matched against the one form NumPy writes, a numeric file is viewed as
numbers, and the pickle of an object file is read by `plain_pickle`, which can build plain data and numeric arrays only.
Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html

Knows no kind of profile: what the values mean is for the readers of each kind.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from cokv.profiles import plain_pickle, plain_values
from cokv.types import CokvError, named

MAX_FILE = 16 * 2**20  # bytes; the largest published profile has a few million
MAX_HEADER = 10_000
MAGIC = b"\x93NUMPY"
_HEADER = re.compile(
    r"\{'descr': '([<>|=]?)([A-Za-z]\d{1,2}|O)', 'fortran_order': (True|False), "
    r"'shape': \(((?:\d{1,18}, ?){0,8}(?:\d{1,18})?)\), ?\} *\n"
)


def read_bytes(path: str | os.PathLike[str], max_bytes: int = MAX_FILE) -> bytes:
    """A file's bytes, refused unread when there are more than max_bytes."""
    name = os.fspath(path)
    try:
        if not Path(path).is_file():
            raise CokvError(f"{name}: no such file; check the path")
        with Path(path).open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise CokvError(f"{name}: cannot be read ({error.strerror or error}); check the path") from None
    if len(data) > max_bytes:
        raise CokvError(f"{name}: larger than {max_bytes} bytes, expected a profile; check the path")
    return data


def read_npy(path: str | os.PathLike[str]) -> Any:
    """A numeric array, or the plain value an object file holds. Arrays are read-only views of the file's bytes."""
    data = read_bytes(path)
    with named(path):
        return parse_npy(data)


def parse_npy(data: bytes) -> Any:
    """As `read_npy`, from bytes. Raises CokvError for anything but a complete, plain `.npy` file."""
    if not data.startswith(MAGIC) or len(data) < 12:
        raise CokvError("not a .npy file (it does not begin as one); expected what np.save writes")
    major = data[6]
    if major not in (1, 2, 3):
        raise CokvError(f".npy format version {major}, expected 1, 2 or 3")
    width = 2 if major == 1 else 4
    length = int.from_bytes(data[8 : 8 + width], "little")
    start = 8 + width
    if length > MAX_HEADER or start + length > len(data):
        raise CokvError(f"a .npy header of {length} bytes, expected at most {MAX_HEADER} inside the file")
    header = _HEADER.fullmatch(data[start : start + length].decode("latin1"))
    if header is None:
        raise CokvError("the .npy header is not the one NumPy writes for a plain array; save the array again")
    order, code, fortran, sizes = header.groups()
    shape = tuple(int(size) for size in re.findall(r"\d+", sizes))
    content = data[start + length :]
    if code.startswith("O"):
        if shape != ():
            raise CokvError(
                f"an array of objects of shape {list(shape)} is refused, expected numbers or one dictionary"
            )
        return plain_pickle.loads(content)
    return plain_values.view(content, plain_values.type_of(code, order), shape, fortran == "True")
