"""Plain data and arrays from the values of plain_pickle.py's machine, within limits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from cokv.types import CokvError

MAX_VALUES = 100_000  # values in the result, counting each as often as it occurs
MAX_DEPTH = 16
KINDS = "biuf"  # bool, signed, unsigned, float


@dataclass(frozen=True)
class Symbol:
    """A name that the machine knows; it is never imported."""

    name: str


@dataclass(eq=False)
class Type:
    """A dtype being built: `O8` is allowed because np.save wraps every object in an array of one."""

    code: str
    order: str | None = None


@dataclass(eq=False)
class Array:
    """An array being built."""

    shape: tuple[int, ...] = ()
    type: Type | None = None
    fortran: bool = False
    content: Any = None
    built: Any = None


class Maker:
    """Turns the machine's values into the result. Arrays are built here."""

    def __init__(self) -> None:
        self.values = 0

    def make(self, value: Any, depth: int) -> Any:
        self.values += 1
        if self.values > MAX_VALUES:
            raise CokvError(f"more than {MAX_VALUES} values in one pickle are refused")
        if depth > MAX_DEPTH:
            raise CokvError(f"values nested deeper than {MAX_DEPTH} are refused")
        kind = type(value)
        if kind in (Symbol, Type):
            raise CokvError(f"a bare {kind.__name__.lower()} as a value is refused, expected data")
        if kind is Array:
            return self.array(value, depth)
        if kind in (list, tuple):
            return kind(self.make(item, depth + 1) for item in value)
        if kind is dict:
            return {key: self.make(item, depth + 1) for key, item in value.items()}
        return value

    def array(self, value: Array, depth: int) -> Any:
        if value.type is None:
            raise CokvError("an array without contents is refused")
        if value.type.code.startswith("O"):
            if depth or value.shape != () or type(value.content) is not list or len(value.content) != 1:
                raise CokvError("an array of objects is refused, expected numeric types")
            return self.make(value.content[0], depth + 1)
        if type(value.content) is not bytes:
            raise CokvError("an array whose contents are no bytes is refused")
        if value.built is None:
            value.built = view(value.content, type_of(value.type.code, value.type.order), value.shape, value.fortran)
        return value.built


def type_of(code: str, order: str | None) -> np.dtype[Any]:
    """The numeric type of a code such as "f8"; anything else is refused before NumPy sees it."""
    if len(code) == 2 and code[0] in KINDS and code[1] in "1248":
        try:
            return np.dtype(f"{order if order in ('<', '>') else '='}{code}")
        except TypeError:
            pass
    raise CokvError(f"an array of type {short(code)} is refused, expected a numeric type such as 'f8'")


def view(content: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], fortran: bool) -> Any:
    """An array that views these bytes; a scalar where the shape is ()."""
    needed = math.prod(shape) * dtype.itemsize
    if not needed:
        raise CokvError("an array without any element is refused, expected numbers")
    if needed != len(content):
        raise CokvError(f"an array of shape {short(shape)} needs {needed} bytes, got {len(content)}; it is damaged")
    array = np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")
    return array[()] if shape == () else array


def short(value: str | tuple[int, ...]) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:56]}..."
