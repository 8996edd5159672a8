"""A hub model at a pinned revision, against a local stand-in that serves the hub's layout."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cokv.model.store import content_digest

REVISION = "0123456789abcdef0123456789abcdef01234567"
REPO = "someone/tiny"
LOAD = """
import json, sys
from cokv.model.loading import load_model
from cokv.types import CokvError
try:
    loaded = load_model("someone/tiny", revision=sys.argv[1])
except CokvError as error:
    print(json.dumps({"refused": str(error)}))
else:
    print(json.dumps({**loaded.identity(), "players": loaded.shape.num_layers * loaded.shape.num_kv_heads}))
"""


@pytest.fixture
def hub(random_model):
    """(address, paths asked for) of a server that has the random model under one revision."""
    requested: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self, body: bool) -> None:
            requested.append(self.path)
            name = self.path.rsplit("/", 1)[-1]
            file = random_model / name
            content = b"{}"
            if f"/tree/{REVISION}?" in self.path:  # the files of the repository
                files = [f for f in random_model.iterdir() if f.is_file()]
                rows = [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": "0" * 40} for f in files]
                content, exists = json.dumps(rows).encode(), True
            elif "/tree/" in self.path:  # folders of chat templates: none
                exists = False
            elif self.path.startswith(f"/api/models/{REPO}"):
                listing = [{"rfilename": f.name} for f in random_model.iterdir()]
                content, exists = json.dumps({"id": REPO, "sha": REVISION, "siblings": listing}).encode(), True
            elif exists := f"/{REPO}/resolve/{REVISION}/" in self.path and file.is_file():
                content = file.read_bytes()
            self.send_response(200 if exists else 404)
            if exists:
                self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", REVISION)
            else:
                self.send_header("X-Error-Code", "EntryNotFound" if REVISION in self.path else "RevisionNotFound")
            self.send_header("Content-Length", str(len(content) if exists else 0))
            self.end_headers()
            if body and exists:
                self.wfile.write(content)

        def do_HEAD(self) -> None:
            self.answer(False)

        def do_GET(self) -> None:
            self.answer(True)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", requested
    server.shutdown()
    server.server_close()


FETCH = """
import json, sys
from dataclasses import replace
from cokv.model import fetch, known
from cokv.model.loading import load_model
tiny = replace(known.KNOWN["smollm2-135m"], name="tiny", hub="someone/tiny", revision=sys.argv[1])
known.KNOWN["tiny"] = tiny
lines = []
try:
    folder = fetch.fetch_from_hub("tiny", lines.append)
except fetch.CokvError as error:
    print(json.dumps({"refused": str(error)}))
else:
    loaded, files = load_model(str(folder)), sorted(file.name for file in folder.iterdir())
    print(json.dumps({**loaded.identity(), "folder": str(folder), "files": files, "lines": lines}))
"""


def load(address: str, revision: str, cache: Path, code: str = LOAD) -> dict[str, object]:
    """In a process of its own: the hub's address is read once, at import."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": address,
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_XET": "1",
        "COKV_CACHE": str(cache / "cokv"),
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code, revision], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def test_a_model_is_fetched_at_its_pinned_commit_and_no_other(hub, tmp_path):
    address, requested = hub
    message = load(address, REVISION, tmp_path)
    assert message["players"] == 4 and message["revision"] == REVISION and REVISION in str(message["digest"])
    files = [path for path in requested if "/resolve/" in path]
    assert files and all(REVISION in path for path in files)
    assert not any(path.endswith((".bin", ".py", ".pkl")) for path in files)


def test_a_revision_the_hub_lacks_is_one_clear_line(hub, tmp_path):
    message = load(hub[0], "f" * 40, tmp_path)
    assert "\n" not in str(message["refused"]) and REPO in str(message["refused"])


def test_the_hub_s_own_weights_of_a_known_model_are_a_folder_of_their_own(hub, random_model, tmp_path):
    address, requested = hub
    message = load(address, REVISION, tmp_path, FETCH)
    assert message["folder"] in str(message["lines"]) and REVISION in str(message["folder"])
    assert "model.safetensors" in message["files"] and not any(str(f).startswith(".") for f in message["files"])
    assert "gguf" not in message and message["digest"] == content_digest(random_model)
    requested.clear()
    assert load(address, REVISION, tmp_path, FETCH)["folder"] == message["folder"] and not requested


def test_a_hub_that_lacks_it_is_one_clear_line_and_leaves_nothing(hub, tmp_path):
    message = str(load(hub[0], "f" * 40, tmp_path, FETCH)["refused"])
    assert "\n" not in message and "cokv model fetch tiny" in message
    assert not [path for path in (tmp_path / "cokv" / "models").iterdir() if path.is_dir()]
