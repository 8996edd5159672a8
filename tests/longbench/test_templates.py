"""Templates come from the user's folder, are checked, and are fetched only as the pinned bytes."""

from __future__ import annotations

import functools
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from longbench.errors import LongBenchError
from longbench.tasks import TASKS
from longbench.templates import (
    COMMIT,
    LENGTHS,
    OFFICIAL_SHA256,
    PLACES,
    PROMPT_V2,
    PROMPTS,
    V1_FILES,
    fetch_templates,
    files_for,
    read_templates,
)


def write_folder(folder: Path, prompts: Any, lengths: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PROMPTS).write_text(json.dumps(prompts), encoding="utf-8")
    (folder / LENGTHS).write_text(json.dumps(lengths), encoding="utf-8")
    return folder


def test_the_official_files_are_recognized(data_root: Path) -> None:
    templates = read_templates(data_root / "longbench_config")
    assert templates.official and set(templates.prompts) == set(TASKS)
    assert templates.max_new_tokens("samsum") == 128 and "{context}" in templates.prompt("qasper_e")


def test_other_wordings_are_read_and_not_called_official(tmp_path: Path) -> None:
    templates = read_templates(write_folder(tmp_path, {"qasper": "{context} ? {input}"}, {"qasper": 7}))
    assert not templates.official and templates.prompt("qasper_e") == "{context} ? {input}"
    assert templates.to_record()["official"] is False
    with pytest.raises(LongBenchError, match="no template for 'lcc'"):
        templates.prompt("lcc")
    with pytest.raises(LongBenchError, match="no length for 'lcc'"):
        templates.max_new_tokens("lcc")


def test_missing_files_are_answered_with_the_exact_command(tmp_path: Path) -> None:
    (tmp_path / LENGTHS).write_text("{}")
    with pytest.raises(LongBenchError, match=f"no {PROMPTS}") as caught:
        read_templates(tmp_path)
    assert f"curl -fsSL --create-dirs -o '{tmp_path / PROMPTS}' https://" in str(caught.value)
    assert COMMIT in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("prompts", "lengths", "word"),
    [
        ([], {"qasper": 1}, "expected an object"),
        ({"squad": "{context}"}, {"qasper": 1}, "unknown data set 'squad'"),
        ({"qasper": 3}, {"qasper": 1}, "is a int"),
        ({"qasper": "{input}"}, {"qasper": 1}, "expected {context}"),
        ({"qasper": "{context} {answers}"}, {"qasper": 1}, "answers, context"),
        ({"qasper": "{context} {"}, {"qasper": 1}, "cannot be formatted"),
        ({"qasper": "{context:>99999}"}, {"qasper": 1}, "expected {context}"),
        ({"qasper": "{context.__class__}"}, {"qasper": 1}, "expected {context}"),
        ({"qasper": "{context}"}, {"qasper": "64"}, "got '64'"),
        ({"qasper": "{context}"}, {"qasper": 0}, "got 0"),
    ],
)
def test_bad_tables_are_refused(tmp_path: Path, prompts: Any, lengths: Any, word: str) -> None:
    with pytest.raises(LongBenchError, match=word):
        read_templates(write_folder(tmp_path, prompts, lengths))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """(address, folder it serves)."""
    served = tmp_path / "served"
    served.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            return

    http = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(served)))
    threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}", served
    http.shutdown()
    http.server_close()


def place(served: Path, name: str, content: bytes) -> None:
    path = served / PLACES[name]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def test_fetching_keeps_the_pinned_bytes(server: tuple[str, Path], data_root: Path, tmp_path: Path) -> None:
    address, served = server
    for name in V1_FILES:
        place(served, name, (data_root / "longbench_config" / name).read_bytes())
    assert fetch_templates(tmp_path / "got", base_url=address).official
    assert sorted(path.name for path in (tmp_path / "got").iterdir()) == sorted(V1_FILES)


def test_other_bytes_are_not_kept(server: tuple[str, Path], tmp_path: Path) -> None:
    address, served = server
    for name in (*V1_FILES, PROMPT_V2):
        place(served, name, b"$DOC$ $Q$ $C_A$ $C_B$ $C_C$ $C_D$")
    digest = hashlib.sha256((served / PLACES[PROMPTS]).read_bytes()).hexdigest()
    for names in (V1_FILES, (PROMPT_V2,)):
        with pytest.raises(LongBenchError, match=f"got sha256 {digest}"):
            fetch_templates(tmp_path / "digest", names, base_url=address)
    assert not (tmp_path / "digest").exists()


def test_a_file_the_server_lacks_is_one_clear_line(server: tuple[str, Path], tmp_path: Path) -> None:
    with pytest.raises(LongBenchError, match=r"cannot fetch .*404.*fetch by hand: curl"):
        fetch_templates(tmp_path / "got", base_url=server[0])


# --- version 2 -------------------------------------------------------------------------------------------------------


def test_a_data_set_needs_only_its_own_versions_files() -> None:
    assert files_for(["qasper", "lcc_e"]) == V1_FILES
    assert files_for(["longbench_v2"]) == (PROMPT_V2,)
    assert files_for(["longbench_v2", "lcc"]) == (*V1_FILES, PROMPT_V2)


def test_the_v2_template_is_read_and_its_generation_length_known(tmp_path: Path) -> None:
    text = "$DOC$\n$Q$ $C_A$ $C_B$ $C_C$ $C_D$"
    (tmp_path / PROMPT_V2).write_bytes(text.replace("\n", "\r\n").encode())
    templates = read_templates(tmp_path, [PROMPT_V2])
    assert templates.prompt("longbench_v2") == text and templates.max_new_tokens("longbench_v2") == 128
    assert not templates.official and set(templates.sha256) == {PROMPT_V2} < set(OFFICIAL_SHA256)
    with pytest.raises(LongBenchError, match=f"{PROMPTS} has no template for 'lcc'"):
        templates.prompt("lcc")


def test_a_missing_or_broken_v2_template_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(LongBenchError, match=rf"no {PROMPT_V2};.*curl .*prompts/{PROMPT_V2}$") as caught:
        read_templates(tmp_path, [PROMPT_V2])
    assert PROMPTS not in str(caught.value), "version 1's files are not asked for"
    (tmp_path / PROMPT_V2).write_bytes(b"$DOC$ $Q$ $C_A$")
    with pytest.raises(LongBenchError, match=r"no \$C_B\$, \$C_C\$, \$C_D\$"):
        read_templates(tmp_path, [PROMPT_V2])
    (tmp_path / PROMPT_V2).write_bytes(b"\xff")
    with pytest.raises(LongBenchError, match="not UTF-8"):
        read_templates(tmp_path, [PROMPT_V2])
