"""Good data comes through unchanged; twenty-odd kinds of bad data are each refused with one clear line."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from longbench.data import check_v2, parse_dataset, read_dataset
from longbench.errors import LongBenchError
from longbench.jsonl import read_lines
from longbench.sources import load_dataset


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def make_zip(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


# --- good data -------------------------------------------------------------------------------------------------------


def test_a_folder_its_data_folder_a_zip_and_a_file_give_the_same_data_set(world: Any, tmp_path: Path) -> None:
    content = world.to_bytes(world.records("multifieldqa_en"))
    write(tmp_path / "plain" / "multifieldqa_en.jsonl", content)
    write(tmp_path / "nested" / "data" / "multifieldqa_en.jsonl", content)
    make_zip(tmp_path / "zipped" / "data.zip", {"data/multifieldqa_en.jsonl": content, "data/other.jsonl": b""})
    sources = [tmp_path / name for name in ("plain", "nested", "zipped", "zipped/data.zip")]
    loaded = [
        load_dataset(source, "multifieldqa_en") for source in (*sources, tmp_path / "plain/multifieldqa_en.jsonl")
    ]
    assert len({data.sha256 for data in loaded}) == 1
    assert all([sample.record for sample in data.samples] == world.records("multifieldqa_en") for data in loaded)


def test_the_record_of_a_data_set_names_count_source_and_checksum(world: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "qasper_e.jsonl", world.to_bytes(world.records("qasper_e", 5)))
    record = read_dataset(path, "qasper_e", partial=True).to_record()
    assert record["count"] == 5 and record["official_count"] == 224 and record["source"] == str(path)
    assert len(record["sha256"]) == 64 and json.dumps(record)


def test_blank_lines_and_windows_line_ends_are_harmless(world: Any, tmp_path: Path) -> None:
    content = world.to_bytes(world.records("qasper", 3)).replace(b"\n", b"\r\n\r\n")
    data = read_dataset(write(tmp_path / "qasper.jsonl", content), "qasper", partial=True)
    assert [sample.id for sample in data.samples] == ["qasper-0000", "qasper-0001", "qasper-0002"]


def test_reading_leaves_the_folder_as_it_was(world: Any, tmp_path: Path) -> None:
    make_zip(tmp_path / "data.zip", {"data/qasper.jsonl": world.to_bytes(world.records())})
    load_dataset(tmp_path, "qasper")
    assert [path.name for path in tmp_path.iterdir()] == ["data.zip"]


def v2_record(index: int = 0, **changes: Any) -> dict[str, Any]:
    choices = {f"choice_{letter}": f"lantern {letter}" for letter in "ABCD"}
    base = {"_id": f"v2-{index}", "domain": "d", "sub_domain": "s", "difficulty": "easy", "length": "short"}
    return base | choices | {"question": "Which?", "answer": "B", "context": "A shelf of lanterns."} | changes


def test_v2_is_read_from_its_json_array_and_from_lines(world: Any, tmp_path: Path) -> None:
    records = [v2_record(index) for index in range(503)]
    array = write(tmp_path / "data.json", json.dumps(records).encode())
    lines = write(tmp_path / "longbench_v2.jsonl", world.to_bytes(records))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "data.json").write_bytes(array.read_bytes())
    for source in (array, lines, tmp_path / "folder"):
        data = load_dataset(source, "longbench_v2")
        assert len(data.samples) == 503 and data.samples[0].answers == ("B",)


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"answer": "E"}, "answer"), ({"difficulty": "odd"}, "difficulty"), ({"context": ""}, "context")],
)
def test_a_bad_v2_record_is_refused(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(LongBenchError, match=word):
        check_v2(v2_record(**changes), "here")


@pytest.mark.parametrize("content", [b"{}", b"[1]", b"[", b"\xff"])
def test_a_bad_v2_array_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(LongBenchError, match=r"data\.json"):
        load_dataset(write(tmp_path / "data.json", content), "longbench_v2")


def test_v2_ids_twice_too_few_and_too_many_are_refused(tmp_path: Path) -> None:
    def loaded(records: list[dict[str, Any]], partial: bool = True) -> Any:
        return load_dataset(
            write(tmp_path / "data.json", json.dumps(records).encode()), "longbench_v2", partial=partial
        )

    for records, partial, message in (
        ([v2_record(0), v2_record(0)], True, "1 ids appear twice"),
        ([v2_record(0)], False, "holds 1 records, expected 503"),
        ([v2_record(i) for i in range(504)], True, "holds 504 records, expected 503"),
        ([], True, "holds no record"),
    ):
        with pytest.raises(LongBenchError, match=message):
            loaded(records, partial)


# --- bad lines -------------------------------------------------------------------------------------------------------


def without(world: Any, field: str) -> bytes:
    record = world.record(1)
    del record[field]
    return world.to_bytes([world.record(0), record])


BAD_LINES: dict[str, tuple[Callable[[Any], bytes], str]] = {
    "missing field": (lambda w: without(w, "answers"), r"line 2: no field answers"),
    "answers not a list": (lambda w: w.changed(answers="green"), r"line 2: field 'answers' is a str"),
    "no answers": (lambda w: w.changed(answers=[]), r"line 2: field 'answers' is an empty list"),
    "answer not a string": (lambda w: w.changed(answers=["a", 3]), r"line 2: field 'answers' is a int"),
    "empty context": (lambda w: w.changed(context=" \n"), r"line 2: field 'context' is empty"),
    "context null": (lambda w: w.changed(context=None), r"line 2: field 'context' is null"),
    "empty id": (lambda w: w.changed(_id=""), r"line 2: field '_id' is empty"),
    "length a string": (lambda w: w.changed(length="12"), r"line 2: field 'length' is '12'"),
    "length negative": (lambda w: w.changed(length=-1), r"line 2: field 'length' is -1"),
    "length a bool": (lambda w: w.changed(length=True), r"line 2: field 'length' is True"),
    "length a float": (lambda w: w.changed(length=12.0), r"line 2: field 'length' is 12.0"),
    "id a number": (lambda w: w.changed(_id=7), r"line 2: field '_id' is a int"),
    "gzip": (lambda w: gzip.compress(w.good()), r"line 1: not UTF-8"),
    "NUL bytes": (lambda w: w.good() + b"\x00" * 40 + b"\n", r"line 2: broken JSON"),
    "a CSV": (lambda w: b"input,context\na,b\n", r"line 1: broken JSON"),
    "classes not a list": (lambda w: w.changed(all_classes="x"), r"line 2: field 'all_classes' is a str"),
    "half a surrogate": (
        lambda w: w.changed(input="x").replace(b'"input": "x"', b'"input": "\\ud800"'),
        r"line 2: .*surrogate",
    ),
    "broken line": (lambda w: w.good() + b'{"input": "cut', r"line 2: broken JSON"),
    "two objects on a line": (lambda w: w.good() + w.good().strip() + w.good(), r"line 2: broken JSON"),
    "not an object": (lambda w: w.good() + b"[1, 2]\n", r"line 2: a JSON list"),
    "NaN": (lambda w: w.good() + b'{"length": NaN}\n', r"line 2: the number NaN"),
    "key twice": (lambda w: w.good() + b'{"input": "a", "input": "b"}\n', r"line 2: the key 'input' appears twice"),
    "nested too deeply": (lambda w: w.good() + b'{"input": ' + b"[" * 200_000 + b"\n", r"line 2: (nested|broken)"),
    "digits without end": (lambda w: w.good() + b'{"length": ' + b"9" * 5000 + b"}\n", r"line 2: .*digits"),
    "wrong encoding": (
        lambda w: w.good() + json.dumps({"input": "中"}, ensure_ascii=False).encode("gbk"),
        r"line 2: not UTF-8",
    ),
    "utf-16": (lambda w: w.good().decode().encode("utf-16"), r"line 1: not UTF-8"),
    "byte order mark": (lambda w: b"\xef\xbb\xbf" + w.good(), r"line 1: starts with a byte order mark"),
    "ids twice": (lambda w: w.to_bytes([w.record(0), w.record(0)]), r"1 ids appear twice, 'qasper-0000'"),
    "another data set": (
        lambda w: w.to_bytes(w.records("hotpotqa", 2)),
        r"records of 'hotpotqa', expected 'qasper'",
    ),
    "nothing": (lambda w: b"\n\n", r"holds no record, expected 200"),
    "too many": (lambda w: w.to_bytes(w.records("qasper", 201)), r"holds 201 records, expected 200"),
}


@pytest.mark.parametrize("kind", BAD_LINES)
def test_bad_lines_are_refused_with_one_line(world: Any, kind: str) -> None:
    make, pattern = BAD_LINES[kind]
    content = make(world)
    with pytest.raises(LongBenchError, match=pattern) as caught:
        parse_dataset(io.BytesIO(content), "qasper", "here.jsonl", partial=True)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("here.jsonl")
    assert len(str(caught.value)) < 500


def test_a_part_of_a_data_set_must_be_asked_for(world: Any) -> None:
    content = world.to_bytes(world.records("qasper", 199))
    with pytest.raises(LongBenchError, match=r"holds 199 records, expected 200.*partial=True"):
        parse_dataset(io.BytesIO(content), "qasper", "here.jsonl")
    assert len(parse_dataset(io.BytesIO(content), "qasper", "here.jsonl", partial=True).samples) == 199


def test_classification_needs_its_classes(world: Any) -> None:
    content = world.to_bytes([world.record(0, "trec", all_classes=None)])
    with pytest.raises(LongBenchError, match="all_classes"):
        parse_dataset(io.BytesIO(content), "trec", "here.jsonl", partial=True)


class EndlessLine(io.RawIOBase):
    """A stream that never ends its line, and counts the bytes read from it."""

    bytes_read = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        buffer[:] = b"x" * len(buffer)
        self.bytes_read += len(buffer)
        return len(buffer)


def test_a_giant_line_is_refused_before_it_is_read() -> None:
    stream = EndlessLine()
    with pytest.raises(LongBenchError, match=r"here line 1: longer than 1048576 bytes"):
        list(read_lines(io.BufferedReader(stream), "here", line_limit=2**20))
    assert stream.bytes_read <= 2**20 + 2**17, "no more than the limit and one buffer"


def test_a_giant_file_of_short_lines_is_refused() -> None:
    with pytest.raises(LongBenchError, match="more than 100 bytes"):
        list(read_lines(io.BytesIO(b"{}\n" * 1000), "here", file_limit=100))


# --- bad places ------------------------------------------------------------------------------------------------------


def truncated(world: Any, path: Path) -> Path:
    whole = make_zip(path, {"data/qasper.jsonl": world.to_bytes(world.records())}).read_bytes()
    return write(path, whole[: len(whole) // 2])


def damaged(world: Any, path: Path) -> Path:
    content = bytearray(make_zip(path, {"data/qasper.jsonl": world.to_bytes(world.records())}).read_bytes())
    content[200:260] = bytes(60)
    return write(path, bytes(content))


def wrong_checksum(world: Any, path: Path) -> Path:
    content = bytearray(
        make_zip(path, {"data/qasper.jsonl": world.to_bytes(world.records())}, zipfile.ZIP_STORED).read_bytes()
    )
    spot = content.index(b"shelf 150")
    content[spot : spot + 9] = b"shelf 951"
    return write(path, bytes(content))


def encrypted(world: Any, path: Path) -> Path:
    content = bytearray(make_zip(path, {"data/qasper.jsonl": world.good()}).read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        spot = content.index(signature) + offset
        content[spot : spot + 2] = struct.pack("<H", 1)
    return write(path, bytes(content))


def unknown_compression(world: Any, path: Path) -> Path:
    content = bytearray(make_zip(path, {"data/qasper.jsonl": world.good()}).read_bytes())
    for signature, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        spot = content.index(signature) + offset
        content[spot : spot + 2] = struct.pack("<H", 99)
    return write(path, bytes(content))


def newer_version(world: Any, path: Path) -> Path:
    content = bytearray(make_zip(path, {"data/qasper.jsonl": world.good()}).read_bytes())
    content[content.index(b"PK\x01\x02") + 6] = 99
    return write(path, bytes(content))


def bomb(world: Any, path: Path) -> Path:
    content = bytearray(make_zip(path, {"data/qasper.jsonl": world.good()}).read_bytes())
    spot = content.index(b"PK\x01\x02") + 24
    content[spot : spot + 4] = struct.pack("<I", 2**32 - 2)
    return write(path, bytes(content))


def members(*names: str, tail: bytes = b"") -> Callable[[Any, Path], Path]:
    """An archive of one valid line under each name."""
    return lambda world, path: make_zip(path, {name: world.good() + tail for name in names})


def raw(content: bytes) -> Callable[[Any, Path], Path]:
    return lambda world, path: write(path, content)


INSIDE = "data/qasper.jsonl"
BAD_PLACES: dict[str, tuple[Callable[[Any, Path], Any], str]] = {
    "truncated zip": (truncated, "not a whole zip archive"),
    "damaged zip": (damaged, "damaged inside|not a whole zip"),
    "wrong checksum inside": (wrong_checksum, "not a whole zip archive"),
    "encrypted zip": (encrypted, "cannot be unpacked here"),
    "unknown compression": (unknown_compression, "cannot be unpacked here"),
    "newer version of zip": (newer_version, "cannot be unpacked here"),
    "zip bomb": (bomb, "unpacks to 4294967294 bytes"),
    "path traversal": (members(INSIDE, "../../etc/cron.d/x"), r"'../../etc/cron.d/x', outside"),
    "traversal by the data set": (members("../qasper.jsonl"), "outside the archive"),
    "absolute path": (members(INSIDE, "/etc/passwd"), "outside the archive"),
    "backslash traversal": (members(INSIDE, "..\\evil"), "outside the archive"),
    "drive letter": (members(INSIDE, "C:\\evil"), "outside the archive"),
    "data set not inside": (members("data/hotpotqa.jsonl"), "holds 0 files named qasper"),
    "data set inside twice": (members("a/qasper.jsonl", "b/qasper.jsonl"), "holds 2 files"),
    "not a zip": (raw(b"<html>Not found</html>"), "not a whole zip archive"),
    "empty file": (raw(b""), "not a whole zip archive"),
    "broken line in a zip": (members(INSIDE, tail=b"{"), r"!data/qasper.jsonl line 2: broken"),
    "no such path": (lambda world, path: None, "neither a file nor a folder"),
}


@pytest.mark.parametrize("kind", BAD_PLACES)
def test_bad_places_are_refused_with_one_line_and_nothing_is_written(world: Any, tmp_path: Path, kind: str) -> None:
    make, pattern = BAD_PLACES[kind]
    make(world, tmp_path / "inner" / "data.zip")
    before = sorted(path for path in tmp_path.rglob("*"))
    with pytest.raises(LongBenchError, match=pattern) as caught:
        load_dataset(tmp_path / "inner" / "data.zip", "qasper")
    assert "\n" not in str(caught.value)
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_an_empty_folder_says_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(LongBenchError, match=r"no qasper\.jsonl there or in data/, and no data\.zip"):
        load_dataset(tmp_path, "qasper")


def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "qasper.jsonl").mkdir()
    with pytest.raises(LongBenchError, match="cannot read"):
        read_dataset(tmp_path / "qasper.jsonl", "qasper")
