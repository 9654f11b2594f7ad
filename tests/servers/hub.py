"""A Hugging Face Hub small enough for a test: one dataset repository at one commit, the four routes that reading needs."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "5f0c1ab9f6b0c2a1d3e4f5a6b7c8d9e0f1a2b3c4"
TOKEN = "hf_readerreaderreaderreader"


@contextmanager
def hub(repo: str, files: dict[str, bytes], *, private: bool = False) -> Iterator[tuple[str, list[str]]]:
    """A hub with one dataset; gives its address and the list of paths that were asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            asked.append(f"{self.command} {path}")
            allowed = not private or self.headers.get("Authorization") == f"Bearer {TOKEN}"
            for base, answer in ((f"/api/datasets/{repo}", self.describe), (f"/datasets/{repo}/resolve/{COMMIT}/", self.give)):
                if allowed and path.startswith(base):
                    answer(path.removeprefix(base))
                    return
            self.reply(401 if not allowed else 404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})

        do_HEAD = do_GET

        def describe(self, rest: str) -> None:
            tree = [{"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()} for name, data in files.items()]
            card = {"_id": "1", "id": repo, "sha": COMMIT, "private": private, "siblings": [{"rfilename": name} for name in files], "tags": []}
            self.reply(200, json.dumps(tree if rest.startswith("/tree/") else card).encode())

        def give(self, name: str) -> None:
            if name not in files:
                self.reply(404, b"", {"X-Error-Code": "EntryNotFound"})
                return
            data = files[name]
            self.reply(200, data, {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Linked-Size": str(len(data))})

        def reply(self, code: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(code)
            for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
