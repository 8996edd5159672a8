"""The hub path, against a local stand-in that serves the hub's layout."""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from longbench.errors import LongBenchError
from longbench.sources import HUB_REPO, HUB_REVISION, load_from_hub

pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")


@pytest.fixture
def hub(world: Any) -> Iterator[tuple[str, list[str]]]:
    """(address, paths asked for): a server that has data.zip of the pinned revision and nothing else."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data/multifieldqa_en.jsonl", world.to_bytes(world.records("multifieldqa_en")))
    content, asked = buffer.getvalue(), []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            asked.append(self.path)
            found = self.path == f"/datasets/{HUB_REPO}/resolve/{HUB_REVISION}/data.zip"
            self.send_response(200 if found else 404)
            if found:
                self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", HUB_REVISION)
            else:
                self.send_header("X-Error-Code", "RevisionNotFound")
            self.send_header("Content-Length", str(len(content) if found else 0))
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            if "data.zip" in self.path and HUB_REVISION in self.path:
                self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def test_the_pinned_data_zip_is_fetched_and_read(hub: Any, world: Any, tmp_path: Path) -> None:
    address, asked = hub
    data = load_from_hub("multifieldqa_en", cache_dir=tmp_path, endpoint=address)
    assert [sample.record for sample in data.samples] == world.records("multifieldqa_en")
    assert data.revision == HUB_REVISION and data.to_record()["revision"] == HUB_REVISION
    assert all(HUB_REVISION in path for path in asked), "nothing but the pinned commit is asked for"


def test_a_second_read_is_served_from_the_cache(hub: Any, tmp_path: Path) -> None:
    address, asked = hub
    first = load_from_hub("multifieldqa_en", cache_dir=tmp_path, endpoint=address)
    asked.clear()
    again = load_from_hub("multifieldqa_en", cache_dir=tmp_path, endpoint=address)
    assert again.sha256 == first.sha256 and asked == []


def test_a_revision_the_hub_lacks_is_one_clear_line(hub: Any, tmp_path: Path) -> None:
    with pytest.raises(LongBenchError, match=r"cannot fetch data\.zip of THUDM/LongBench at 0{40}") as caught:
        load_from_hub("qasper", revision="0" * 40, cache_dir=tmp_path, endpoint=hub[0])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("revision", ["main", "", "313939a"])
def test_a_revision_that_can_move_is_refused(revision: str) -> None:
    with pytest.raises(LongBenchError, match="40 hex digits"):
        load_from_hub("qasper", revision=revision)


def test_v2_is_not_in_the_archive() -> None:
    with pytest.raises(LongBenchError, match=r"data\.json of THUDM/LongBench-v2"):
        load_from_hub("longbench_v2")
