"""The hub path, against a local stand-in that serves the hub's layout."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from longbench.errors import LongBenchError
from longbench.sources import HUB_REPO, HUB_REPO_V2, HUB_REVISION, HUB_REVISION_V2, load_from_hub

pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")


def v2_records() -> list[dict[str, Any]]:
    base = {"domain": "d", "sub_domain": "s", "difficulty": "easy", "length": "short", "question": "Which?"}
    choices = {f"choice_{letter}": f"lantern {letter}" for letter in "ABCD"}
    return [base | choices | {"_id": f"v2-{i}", "answer": "B", "context": "A shelf."} for i in range(503)]


@pytest.fixture
def hub(world: Any) -> Iterator[tuple[str, list[str]]]:
    """(address, paths asked for): a server that has both pinned revisions' files and nothing else."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data/multifieldqa_en.jsonl", world.to_bytes(world.records("multifieldqa_en")))
    files = {
        f"/datasets/{HUB_REPO}/resolve/{HUB_REVISION}/data.zip": (HUB_REVISION, buffer.getvalue()),
        f"/datasets/{HUB_REPO_V2}/resolve/{HUB_REVISION_V2}/data.json": (
            HUB_REVISION_V2,
            json.dumps(v2_records()).encode(),
        ),
    }
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            requests.append(self.path)
            commit, content = files.get(self.path, (None, b""))
            self.send_response(200 if commit else 404)
            if commit:
                self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", commit)
            else:
                self.send_header("X-Error-Code", "RevisionNotFound")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            self.wfile.write(files.get(self.path, (None, b""))[1])

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", requests
    server.shutdown()
    server.server_close()


def test_the_pinned_data_zip_is_fetched_and_read(hub: Any, world: Any, tmp_path: Path) -> None:
    address, requests = hub
    data = load_from_hub("multifieldqa_en", cache_dir=tmp_path, endpoint=address)
    assert [sample.record for sample in data.samples] == world.records("multifieldqa_en")
    assert data.revision == HUB_REVISION and data.to_record()["revision"] == HUB_REVISION
    assert all(HUB_REVISION in path for path in requests), "nothing but the pinned commit is asked for"


def test_a_second_read_is_served_from_the_cache(hub: Any, tmp_path: Path) -> None:
    address, requests = hub
    first = load_from_hub("multifieldqa_en", cache_dir=tmp_path, endpoint=address)
    requests.clear()
    again = load_from_hub("multifieldqa_en", cache_dir=tmp_path, endpoint=address)
    assert again.sha256 == first.sha256 and requests == []


def test_a_revision_the_hub_lacks_is_one_clear_line(hub: Any, tmp_path: Path) -> None:
    with pytest.raises(LongBenchError, match=r"cannot fetch data\.zip of THUDM/LongBench at 0{40}") as caught:
        load_from_hub("qasper", revision="0" * 40, cache_dir=tmp_path, endpoint=hub[0])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("revision", ["main", "", "313939a"])
def test_a_revision_that_can_move_is_refused(revision: str) -> None:
    with pytest.raises(LongBenchError, match="40 hex digits"):
        load_from_hub("qasper", revision=revision)


def test_version_2_is_fetched_from_its_own_repository(hub: Any, tmp_path: Path) -> None:
    address, requests = hub
    data = load_from_hub("longbench_v2", cache_dir=tmp_path, endpoint=address)
    assert [sample.record for sample in data.samples] == v2_records()
    assert data.revision == HUB_REVISION_V2 and all(HUB_REVISION_V2 in path for path in requests)
    with pytest.raises(LongBenchError, match=r"cannot fetch data\.json of THUDM/LongBench-v2 at 0{40}"):
        load_from_hub("longbench_v2", revision="0" * 40, cache_dir=tmp_path, endpoint=address)
