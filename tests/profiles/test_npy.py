"""`.npy` files of plain data are read as NumPy reads them; whatever else one holds is refused, and never runs."""

from __future__ import annotations

import builtins
import io
import os
import pickle
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cokv.profiles import plain_pickle
from cokv.profiles.npy import MAX_FILE, parse_npy, read_npy
from cokv.types import CokvError

TYPES = ["?", "i1", "u1", "<i4", ">i8", "<u2", "<f2", "<f4", ">f4", "<f8", ">f8"]


def saved(value: object) -> bytes:
    out = io.BytesIO()
    np.save(out, value)  # type: ignore[arg-type]
    return out.getvalue()


def wrapped(body: bytes) -> bytes:
    """A `.npy` file around a pickle's bytes."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }"
    header += b" " * (117 - len(header)) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


def refused(data: bytes) -> str:
    with pytest.raises(CokvError) as error:
        parse_npy(data)
    message = str(error.value)
    assert message and "\n" not in message and len(message) < 300, message
    return message


# What is read


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("order", ["C", "F"])
def test_numbers_are_read_as_numpy_reads_them(dtype, order):
    array = np.asarray(np.arange(24).reshape(2, 3, 4), dtype=dtype, order=order)
    parsed = parse_npy(saved(array))
    assert parsed.dtype == array.dtype
    np.testing.assert_array_equal(parsed, array)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("dtype", TYPES)
def test_a_dictionary_is_read_at_every_protocol(protocol, dtype):
    shared = np.asarray(np.arange(6).reshape(2, 3), dtype=dtype)
    value = {"a": shared, "b": [1, -2, 2**40, 2.5, None, True, "text", ("x", 3)], "again": shared, 7: np.float64(0.25)}
    if protocol == 5:  # contiguous arrays use a buffer there, which np.save never does
        value["a"] = value["again"] = np.asarray(shared)[:, ::2]
    body = pickle.dumps(value, protocol=protocol)
    parsed = parse_npy(wrapped(body))
    np.testing.assert_array_equal(parsed["a"], value["a"])
    np.testing.assert_array_equal(parsed["again"], value["again"])
    assert parsed["b"] == value["b"] and parsed[7] == 0.25 and isinstance(parsed[7], np.float64)


def test_what_np_save_writes_is_read():
    value = {"cc_left": np.linspace(-1, 1, 257), "sampling_count": 10}
    parsed = parse_npy(saved(value))
    np.testing.assert_array_equal(parsed["cc_left"], value["cc_left"])
    assert parsed["sampling_count"] == 10


def test_names_of_numpy_1_are_known():
    body = pickle.dumps({"a": np.arange(3.0), "b": np.float32(2)}, protocol=3).replace(b"numpy._core", b"numpy.core")
    assert b"numpy.core.multiarray" in body
    parsed = parse_npy(wrapped(body))
    np.testing.assert_array_equal(parsed["a"], np.arange(3.0))
    assert parsed["b"] == 2


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
        max_leaves=20,
    ),
    st.integers(2, 5),
)
@settings(deadline=None)
def test_plain_data_comes_back_equal(value, protocol):
    assert plain_pickle.loads(pickle.dumps(value, protocol=protocol)) == value


def test_arrays_are_views_and_cannot_be_written():
    with pytest.raises(ValueError):
        parse_npy(saved({"a": np.arange(3.0)}))["a"][0] = 1


# What is refused


class Canary:
    """Reaches out when it is unpickled. Nothing here may ever run."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class Setter:
    def __setstate__(self, state):
        os.environ["COKV_CANARY"] = "1"

    def __getstate__(self):
        return {"x": 1}


class Sub(np.ndarray):
    pass


HOSTILE = {
    "os.system": Canary(os.system, "touch canary"),
    "eval": Canary(eval, "__import__('os').system('touch canary')"),
    "exec": Canary(exec, "open('canary', 'w')"),
    "open": Canary(open, "canary", "w"),
    "getattr": Canary(getattr, "x", "join"),
    "import": Canary(builtins.__import__, "antigravity"),
    "np.load": Canary(np.load, "canary.npy", None, True),
    "np.fromfile": Canary(np.fromfile, "/etc/hostname"),
    "np.memmap": Canary(np.memmap, "canary", "u1", "w+", 0, (9,)),
    "np.zeros": Canary(np.zeros, (2**40,)),
    "setstate": Setter(),
    "class": Setter,
    "function": os.system,
    "bytearray": bytearray(b"x"),
    "set": {1},
    "complex": 1j,
    "range": range(3),
    "big integer": 2**64,
    "datetime": np.datetime64("2026-01-01"),
    "complex array": np.zeros(2, complex),
    "text array": np.array(["a"]),
    "records": np.zeros(2, [("a", "f8")]),
    "objects inside": np.array([{}, {}], dtype=object),
    "array subclass": np.zeros(3).view(Sub),
    "masked array": np.ma.zeros(3),
    "bare dtype": np.dtype("f8"),
    "bare type": np.ndarray,
    "tuple as key": {("a", 1): 2},
    "none as key": {None: 2},
}


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_values_are_refused_and_not_run(name, inside, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COKV_CANARY", raising=False)
    for protocol in (2, 3, 4, 5):
        value = {"cc_left": [HOSTILE[name]]} if inside else HOSTILE[name]
        refused(wrapped(pickle.dumps(value, protocol=protocol)))
    refused(saved({"x": HOSTILE[name]}))
    assert not list(tmp_path.iterdir()) and "COKV_CANARY" not in os.environ
    assert "antigravity" not in sys.modules


def short(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


ARRAY = short("numpy._core.multiarray") + short("_reconstruct") + b"\x93" + short("numpy") + short("ndarray") + b"\x93"
EMPTY = ARRAY + b"K\x00\x85C\x01b\x87R"
F8 = short("numpy") + short("dtype") + b"\x93" + short("f8") + b"\x89\x88\x87R"
FILLED = b"(K\x01K\x01\x85" + F8 + b"\x89C\x08" + bytes(8) + b"tb"
NAMES = {
    "os.system by stack": short("os") + short("system") + b"\x93" + short("touch canary") + b"\x85R.",
    "posix.system by name": b"cposix\nsystem\n(S'touch canary'\ntR.",
    "dotted name": short("numpy") + short("ndarray.__class__.__bases__") + b"\x93.",
    "dotted module": short("numpy.core.multiarray") + short("_reconstruct.__globals__") + b"\x93.",
    "module of numpy": short("numpy") + short("os") + b"\x93.",
    "name is a number": b"K\x01K\x02\x93.",
    "name is a list": b"]]\x93.",
    "old instance": b"(S'touch canary'\nios\nsystem\n.",
    "object": b"(cos\nsystem\nS'touch canary'\no.",
    "newobj": b"cnumpy\nndarray\nK\x03\x85\x81.",
    "newobj_ex": b"cnumpy\nndarray\nK\x03\x85}\x92.",
    "persistent id": b"Pcanary\n.",
    "binary persistent id": b"K\x01Q.",
    "extension 1": b"\x82\x01.",
    "extension 2": b"\x83\x01\x00.",
    "extension 4": b"\x84\x01\x00\x00\x00.",
    "out-of-band buffer": b"\x97.",
    "read-only buffer": b"C\x01a\x98.",
    "reduce a number": b"K\x01)R.",
    "build on a dict": b"}}b.",
    "build on a list": b"]}b.",
    "ndarray called": short("numpy") + short("ndarray") + b"\x93K\x03\x85R.",
    "dtype of a string": short("numpy") + short("dtype") + b"\x93" + short("f8,O") + b"\x89\x88\x87R.",
    "dtype of a list": short("numpy") + short("dtype") + b"\x93]\x89\x88\x87R.",
    "subclass in reconstruct": (
        short("numpy._core.multiarray") + short("_reconstruct") + b"\x93" + short("tests.profiles") + short("Sub")
        + b"\x93K\x00\x85C\x01b\x87R."
    ),
    "encode with another codec": b"c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.",
    "codec lookup": b"c_codecs\nlookup\nX\x05\x00\x00\x00rot13\x85R.",
    "array without contents": EMPTY + b".",
    "array of objects": EMPTY + b"(K\x01K\x01\x85" + F8.replace(b"f8", b"O8") + b"\x89]Natb.",
    "state set twice": EMPTY + FILLED * 2 + b".",
    "negative shape": EMPTY + b"(K\x01J\xff\xff\xff\xff\x85" + F8 + b"\x89C\x08" + bytes(8) + b"tb.",
    "shape of text": EMPTY + b"(K\x01" + short("9") + b"\x85" + F8 + b"\x89C\x08" + bytes(8) + b"tb.",
    "too few bytes": EMPTY + b"(K\x01K\x02\x85" + F8 + b"\x89C\x08" + bytes(8) + b"tb.",
    "huge shape": EMPTY + b"(K\x01\x8a\x07" + b"\xff" * 6 + b"\x7f\x85" + F8 + b"\x89C\x08" + bytes(8) + b"tb.",
    "many axes": EMPTY + b"(K\x01(" + b"K\x01" * 99 + b"t" + F8 + b"\x89C\x08" + bytes(8) + b"tb.",
    "no element": EMPTY + b"(K\x01K\x00\x85" + F8 + b"\x89C\x00tb.",
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_hand_made_pickles_are_refused_and_not_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(wrapped(b"\x80\x04" + NAMES[name]))
    assert not list(tmp_path.iterdir())


def nested(depth: int, kind: bytes) -> bytes:
    return {b"l": b"]" * depth + b"a" * (depth - 1), b"t": b"N" + b"\x85" * depth}[kind] + b"."


BOMBS = {
    "deep list": nested(50_000, b"l"),
    "deep tuple": nested(50_000, b"t"),
    "deep tuple as key": b"}" + nested(50_000, b"t")[:-1] + b"Ns.",
    "deep tuple as name": nested(50_000, b"t")[:-1] + short("x") + b"\x93.",
    "list in itself": b"]\x94h\x00a.",
    "laughs": b"]\x94Na0" + b"".join(b"](" + (b"h" + bytes([i])) * 30 + b"e\x940" for i in range(12)) + b"h\x0c.",
    "one array many times": EMPTY + FILLED + b"\x940(" + b"h\x00" * 200_000 + b"l.",
    "wide list": b"](" + b"N" * 200_000 + b"e.",
    "bytes of 2**60": b"\x8e" + struct.pack("<Q", 2**60) + b"x.",
    "text of 2**60": b"\x8d" + struct.pack("<Q", 2**60) + b"x.",
    "frame of 2**60": b"\x95" + struct.pack("<Q", 2**60) + b"\x8e" + struct.pack("<Q", 2**62) + b".",
    "integer of a megabyte": b"\x8b" + struct.pack("<I", 2**20) + b"\x01" * 2**20 + b".",
    "integer of 5000 digits": b"L" + b"9" * 5000 + b"L\n.",
    "opcodes without end": b"N0" * 600_000 + b"N.",
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_before_they_grow(name):
    reason = refused(wrapped(b"\x80\x04" + BOMBS[name]))
    assert reason.endswith(" refused") or "refused, expected" in reason or reason.startswith("damaged pickle")


def test_a_far_memo_index_costs_nothing():
    far = struct.pack("<I", 2**32 - 1)
    assert plain_pickle.loads(b"\x80\x04Nr" + far + b"0j" + far + b".") is None


def test_every_truncation_is_refused():
    whole = saved({"a": np.arange(3.0), "b": [1, "x"]})
    for length in range(len(whole)):
        assert "expected" in refused(whole[:length])


def test_every_changed_byte_is_read_or_refused_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = saved({"a": np.arange(3.0), "b": [1, "x", 2.5, None]})
    for place in range(len(whole)):
        for value in (0, 0x28, 0x2E, 0x52, 0x81, 0x93, 0xFF, whole[place] ^ 1):
            changed = whole[:place] + bytes([value]) + whole[place + 1 :]
            try:
                parse_npy(changed)
            except CokvError as error:
                assert "\n" not in str(error)
    assert not list(tmp_path.iterdir())


@given(st.binary(max_size=200))
@settings(max_examples=500, deadline=None)
def test_random_bytes_are_read_or_refused_and_nothing_else(data):
    for body in (data, wrapped(data), wrapped(b"\x80\x04" + data)):
        try:
            parse_npy(body)
        except CokvError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("extra", [b"\x00", b".", b"cos\nsystem\n"])
def test_bytes_after_the_end_are_refused(extra):
    assert "after the end" in refused(saved({"a": 1}) + extra)
    assert "bytes" in refused(saved(np.arange(3)) + extra)


def header(text: str, version: bytes = b"\x01\x00") -> bytes:
    form = "<H" if version == b"\x01\x00" else "<I"
    return b"\x93NUMPY" + version + struct.pack(form, len(text)) + text.encode("latin1") + b"\x00" * 64


HEADERS = {
    "code": header("{'descr': __import__('os').system('touch canary'), 'fortran_order': False, 'shape': (8,), }\n"),
    "deep": header("(" * 9000 + "\n"),
    "digits without end": header("{'descr': '<f8', 'fortran_order': False, 'shape': (" + "1" * 9000 + "\n"),
    "a number with many digits": header("{'descr': '<f8', 'fortran_order': False, 'shape': (" + "9" * 40 + ",), }\n"),
    "huge": header("{'descr': '<f8', 'fortran_order': False, 'shape': (8,), }" + " " * 20_000 + "\n"),
    "huge shape": header("{'descr': '<f8', 'fortran_order': False, 'shape': (999999999999999999,), }\n"),
    "many axes": header("{'descr': '<f8', 'fortran_order': False, 'shape': (" + "1, " * 90 + "), }\n"),
    "records": header("{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (8,), }\n"),
    "extra key": header("{'descr': '<f8', 'fortran_order': False, 'shape': (8,), 'x': 1, }\n"),
    "objects": header("{'descr': '|O', 'fortran_order': False, 'shape': (8,), }\n"),
    "text": header("{'descr': '<U9', 'fortran_order': False, 'shape': (8,), }\n"),
    "dates": header("{'descr': '<M8', 'fortran_order': False, 'shape': (8,), }\n"),
    "raw": header("{'descr': '|V8', 'fortran_order': False, 'shape': (8,), }\n"),
    "negative": header("{'descr': '<f8', 'fortran_order': False, 'shape': (-8,), }\n"),
    "version 9": header("{'descr': '<f8', 'fortran_order': False, 'shape': (8,), }\n", b"\x09\x00"),
    "header of 4 GiB": b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b"{}",
    "no file": b"",
    "zip": b"PK\x03\x04" + bytes(100),
    "bare pickle": pickle.dumps({"a": 1}),
}


@pytest.mark.parametrize("name", HEADERS)
def test_odd_headers_are_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(HEADERS[name])
    assert not list(tmp_path.iterdir())


def test_the_file_is_named_and_its_size_is_bounded(tmp_path):
    path = tmp_path / "scores.npy"
    path.write_bytes(saved({"a": Canary(os.system, "true")}))
    with pytest.raises(CokvError, match=r"scores\.npy: name '(posix|nt|os)\.system' is refused"):
        read_npy(path)
    with path.open("wb") as file:
        file.truncate(MAX_FILE + 1)
    with pytest.raises(CokvError, match=r"scores\.npy: larger than"):
        read_npy(path)
    with pytest.raises(CokvError, match="no such file"):
        read_npy(tmp_path / "none.npy")
    with pytest.raises(CokvError, match="no such file"):
        read_npy(tmp_path)


def test_the_published_files_are_read(data_files: list[Path]):
    for path in data_files:
        parsed = read_npy(path)
        theirs = np.load(path, allow_pickle=True).item()  # files we know
        assert parsed.keys() == theirs.keys()
        for key, value in theirs.items():
            np.testing.assert_array_equal(parsed[key], value)
