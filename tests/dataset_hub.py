"""A local stand-in that serves a data set repository of the hub at one commit, and the process that reads it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

REVISION = "0123456789abcdef0123456789abcdef01234567"


def parquet(rows: list[dict[str, Any]]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def repository(configs: Mapping[str, list[dict[str, Any]]], split: str = "test") -> dict[str, bytes]:
    """Files of a data set as `push_to_hub` lays them out: one Parquet file per config, named in the card."""
    names = {config: f"{config}/{split}-00000-of-00001.parquet" for config in configs}
    card = "".join(
        f"- config_name: '{config}'\n  data_files:\n  - split: {split}\n    path: {config}/{split}-*\n"
        for config in configs
    )
    files = {names[config]: parquet(rows) for config, rows in configs.items()}
    return files | {"README.md": f"---\nconfigs:\n{card}---\n".encode()}


@contextmanager
def serve(repos: Mapping[str, Mapping[str, bytes]]) -> Iterator[tuple[str, list[str]]]:
    """(address, requests) of a server that has the files of these repositories at REVISION and nothing else."""
    requested: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            path, _, query = self.path.partition("?")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            requested.append(f"{self.command} {self.path}")
            content = self.content(path, query, body)
            self.send_response(404 if content is None else 200)
            if content is None:
                self.send_header("X-Error-Code", "EntryNotFound" if REVISION in path else "RevisionNotFound")
            else:
                self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", REVISION)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            if self.command != "HEAD" and content:
                self.wfile.write(content)

        def content(self, path: str, query: str, body: bytes) -> bytes | None:
            for repo, files in repos.items():
                if path.startswith((f"/api/datasets/{repo}", f"/datasets/{repo}/")):
                    return _content(repo, files, path, query, body)
            return None

        do_GET = do_HEAD = do_POST = answer

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", requested
    server.shutdown()
    server.server_close()


def _content(repo: str, files: Mapping[str, bytes], path: str, query: str, body: bytes) -> bytes | None:
    folders = {"/".join(name.split("/")[:depth]) for name in files for depth in range(1, name.count("/") + 1)}

    def entry(name: str) -> dict[str, Any]:
        if name in folders:
            return {"type": "directory", "path": name, "size": 0, "oid": "0" * 40}
        return {"type": "file", "path": name, "size": len(files[name]), "oid": hashlib.sha1(files[name]).hexdigest()}

    api = f"/api/datasets/{repo}"
    if path.startswith(f"{api}/tree/{REVISION}"):
        folder = path.removeprefix(f"{api}/tree/{REVISION}").strip("/")
        inside = [name for name in (*files, *folders) if name.startswith(f"{folder}/" if folder else "")]
        if folder and not inside:
            return None
        deep, depth = "recursive=true" in query.lower(), folder.count("/") + 1 if folder else 0
        return json.dumps([entry(name) for name in inside if deep or name.count("/") == depth]).encode()
    if path.startswith(f"{api}/paths-info/{REVISION}"):
        asked = json.loads(body)["paths"] if body.startswith(b"{") else parse_qs(body.decode())["paths"]
        return json.dumps([entry(name) for name in asked if name in files or name in folders]).encode()
    if path in (api, f"{api}/revision/{REVISION}"):
        listing = [{"rfilename": name} for name in files]
        return json.dumps({"id": repo, "sha": REVISION, "siblings": listing}).encode()
    return files.get(path.removeprefix(f"/datasets/{repo}/resolve/{REVISION}/"))


def call(address: str, cache: Path, *command: object, offline: bool = False) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own, since the hub's address is read once, at import."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": address,
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "1" if offline else "0",
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, *map(str, command)], env=environment, capture_output=True, text=True, timeout=300
    )
