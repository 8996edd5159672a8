"""Pickles read without unpickling: a stack machine that can build plain data and numeric arrays, and nothing else.

Python's own unpickler calls what a file names, so that a file is a program. This machine calls nothing. It walks the
opcodes (`pickletools.genops`, which only splits bytes), and knows seven names, whose meaning is defined here:

    numpy ndarray, numpy dtype, {numpy.core | numpy._core}.multiarray {_reconstruct | scalar}, _codecs encode

Results are None, bool, int (64 bits), float, str, bytes, list, tuple, dict with str or int keys, NumPy arrays and
scalars of numeric type. Every other name and opcode is refused: classes, persistent ids, extension codes, sets, big
integers. Work and memory are bounded by the length of the pickle: arrays are views of its bytes, and what the memo
repeats (a list in itself, a thousand times the same array) is limited in number and depth.

Knows no file: it takes bytes.
"""

from __future__ import annotations

import pickletools
import struct
import warnings
from collections.abc import Callable
from typing import Any

from cokv.profiles.plain_values import Array, Maker, Symbol, Type, short
from cokv.types import CokvError

MAX_OPCODES = 1_000_000
MAX_DIMENSIONS = 8

_MARK = object()

_SYMBOLS = {
    ("numpy", "ndarray"): Symbol("ndarray"),
    ("numpy", "dtype"): Symbol("dtype"),
    ("numpy.core.multiarray", "_reconstruct"): Symbol("_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"): Symbol("_reconstruct"),
    ("numpy.core.multiarray", "scalar"): Symbol("scalar"),
    ("numpy._core.multiarray", "scalar"): Symbol("scalar"),
    ("_codecs", "encode"): Symbol("encode"),
}


def loads(data: bytes) -> Any:
    """The value of one pickle that fills `data` to its last byte. Raises CokvError, in one line, for any other."""
    machine = _Machine()
    end = 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in names, which are refused anyway
            for count, (opcode, argument, position) in enumerate(pickletools.genops(data)):
                if count == MAX_OPCODES:
                    raise CokvError(f"more than {MAX_OPCODES} opcodes in one pickle are refused")
                machine.step(opcode.name, argument)
                end = (position or 0) + 1
    except CokvError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, struct.error) as error:
        why = " ".join(str(error).split())[:80]
        raise CokvError(f"damaged pickle ({type(error).__name__}: {why}), expected a whole one") from None
    if end != len(data):
        raise CokvError(f"{len(data) - end} bytes after the end of the pickle, expected none")
    return Maker().make(machine.result, 0)


class _Machine:
    """The stack, the memo and what each opcode does to them."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.result: Any = None

    def step(self, name: str, argument: Any) -> None:
        if name in _PUSH:
            self.push(argument)
        elif name in _DO:
            _DO[name](self, argument)
        else:
            raise CokvError(f"pickle opcode {name} is refused: only plain data and numeric arrays are read")

    def push(self, value: Any) -> None:
        if isinstance(value, int) and not -(2**63) <= value < 2**64:
            raise CokvError(f"a whole number of {value.bit_length()} bits is refused, expected at most 64")
        self.stack.append(value)

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("a mark where a value is expected")
        return value

    def top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise ValueError(f"{type(self.stack[-1]).__name__} where a {kind.__name__} is expected")
        return self.stack[-1]

    def pop_mark(self) -> list[Any]:
        items: list[Any] = []
        while (value := self.stack.pop()) is not _MARK:
            items.append(value)
        return items[::-1]

    def tuple(self, count: int) -> None:
        items = [self.pop() for _ in range(count)]
        self.stack.append(tuple(items[::-1]))

    def set_items(self, items: list[Any]) -> None:
        target = self.top(dict)
        for key, value in zip(items[0::2], items[1::2], strict=True):
            if type(key) not in (str, int):
                raise CokvError(f"a dictionary key of type {type(key).__name__} is refused, expected str or int")
            target[key] = value

    def name(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise CokvError("a name that is no text is refused")
        if (module, name) not in _SYMBOLS:
            raise CokvError(f"name {short(f'{module}.{name}')} is refused: only NumPy's arrays, types and scalars are")
        self.push(_SYMBOLS[module, name])

    def reduce(self) -> None:
        """A call, of a symbol only, done here."""
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Symbol) or type(arguments) is not tuple:
            raise CokvError(f"a call of {type(function).__name__} is refused: only NumPy's arrays, types and scalars")
        match function.name, arguments:
            case "_reconstruct", (Symbol("ndarray"), (0,), bytes()):
                self.push(Array())
            case "dtype", (str(code), bool() | 0 | 1, bool() | 0 | 1):
                self.push(Type(code))
            case "scalar", (Type() as type_, bytes() as content):
                self.push(Array((), type_, False, content))
            case "encode", (str(text), "latin1"):
                self.push(text.encode("latin1"))
            case _:
                raise CokvError(f"a call of {function.name} with other arguments than NumPy writes is refused")

    def build(self) -> None:
        """Fills in what a symbol's call has begun."""
        state, target = self.pop(), self.stack[-1]
        match target, state:
            case Array(type=None), (1, tuple(shape), Type() as type_, bool() | 0 | 1 as fortran, bytes() | list()):
                if len(shape) > MAX_DIMENSIONS or any(type(size) is not int or size < 0 for size in shape):
                    raise CokvError(f"an array shape is refused, expected at most {MAX_DIMENSIONS} sizes of 0 or more")
                target.shape, target.type, target.fortran, target.content = shape, type_, bool(fortran), state[4]
            case Type(order=None), (3, ("<" | ">" | "=" | "|") as order, None, None, None, int(), int(), int()):
                target.order = order
            case _:
                raise CokvError(f"the state of a {type(target).__name__.lower()} is not what NumPy writes")

    def stop(self) -> None:
        self.result = self.pop()
        if self.stack:
            raise ValueError(f"{len(self.stack)} values left over")


_PUSH = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"} | {
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8")
}
_DO: dict[str, Callable[[_Machine, Any], object]] = {
    "PROTO": lambda m, a: None,
    "FRAME": lambda m, a: None,
    "NONE": lambda m, a: m.push(None),
    "NEWTRUE": lambda m, a: m.push(True),
    "NEWFALSE": lambda m, a: m.push(False),
    "MARK": lambda m, a: m.stack.append(_MARK),
    "EMPTY_LIST": lambda m, a: m.push([]),
    "EMPTY_DICT": lambda m, a: m.push({}),
    "EMPTY_TUPLE": lambda m, a: m.push(()),
    "POP": lambda m, a: m.stack.pop(),
    "TUPLE1": lambda m, a: m.tuple(1),
    "TUPLE2": lambda m, a: m.tuple(2),
    "TUPLE3": lambda m, a: m.tuple(3),
    "TUPLE": lambda m, a: m.push(tuple(m.pop_mark())),
    "LIST": lambda m, a: m.push(m.pop_mark()),
    "APPEND": lambda m, a: _append(m, [m.pop()]),
    "APPENDS": lambda m, a: _append(m, m.pop_mark()),
    "DICT": lambda m, a: _dict(m, m.pop_mark()),
    "SETITEM": lambda m, a: m.set_items([m.pop(), m.pop()][::-1]),
    "SETITEMS": lambda m, a: m.set_items(m.pop_mark()),
    "MEMOIZE": lambda m, a: m.memo.__setitem__(len(m.memo), m.stack[-1]),
    "PUT": lambda m, a: m.memo.__setitem__(a, m.stack[-1]),
    "BINPUT": lambda m, a: m.memo.__setitem__(a, m.stack[-1]),
    "LONG_BINPUT": lambda m, a: m.memo.__setitem__(a, m.stack[-1]),
    "GET": lambda m, a: m.push(m.memo[a]),
    "BINGET": lambda m, a: m.push(m.memo[a]),
    "LONG_BINGET": lambda m, a: m.push(m.memo[a]),
    "GLOBAL": lambda m, a: m.name(*a.split(" ", 1)),
    "STACK_GLOBAL": lambda m, a: m.name(*[m.pop(), m.pop()][::-1]),
    "REDUCE": lambda m, a: m.reduce(),
    "BUILD": lambda m, a: m.build(),
    "STOP": lambda m, a: m.stop(),
}


def _append(machine: _Machine, items: list[Any]) -> None:
    machine.top(list).extend(items)


def _dict(machine: _Machine, items: list[Any]) -> None:
    machine.push({})
    machine.set_items(items)
