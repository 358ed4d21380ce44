"""A Hugging Face hub of the tests' own: what huggingface_hub asks for, on loopback, misbehaving at will."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

COMMIT = "c0ffee" + "0" * 34


@dataclass
class Hub:
    """Files of one repository by name; change what it does between requests."""

    files: dict[str, bytes]
    repository: str = "datasets/AlmondGod/tinyworlds"
    listing_status: int = 200
    listing_body: bytes | None = None
    stated: dict[str, dict[str, object]] = field(default_factory=dict)
    """What the listing says of a file instead of the truth."""
    surplus: int = 0
    """Bytes that follow a file unasked."""
    cut_after: list[int] = field(default_factory=list)
    """Bytes after which the next transfers are cut, one each."""
    file_status: int = 200
    ranges: bool = True
    """Whether Range is honoured."""
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    """Path and Range of every file that was asked for."""
    url: str = ""

    def listing(self) -> bytes:
        if self.listing_body is not None:
            return self.listing_body
        siblings = []
        for name, content in self.files.items():
            sha = hashlib.sha256(content).hexdigest()
            about: dict[str, object] = {"rfilename": name, "size": len(content), "blobId": _blob(content)}
            if name.endswith(".h5"):
                about["lfs"] = {"sha256": sha, "size": len(content), "pointerSize": 130}
            siblings.append(about | self.stated.get(name, {}))
        return json.dumps({"id": "AlmondGod/tinyworlds", "sha": COMMIT, "siblings": siblings}).encode()


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """The hub, at its `url` while the context lasts."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub)) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


def _blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = unquote(self.path.partition("?")[0])
            api = hub.repository if hub.repository.startswith("datasets/") else f"models/{hub.repository}"
            if path == f"/api/{api}":
                self._answer(hub.listing_status, hub.listing(), {})
            elif path.startswith(f"/{hub.repository}/resolve/{COMMIT}/"):
                self._file(path.rpartition(f"/{COMMIT}/")[2])
            else:
                self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

        def _file(self, name: str) -> None:
            asked = self.headers.get("Range")
            hub.asked.append((name, asked))
            if hub.file_status != 200:
                missing = {"X-Error-Code": "EntryNotFound"} if hub.file_status == 404 else {}
                self._answer(hub.file_status, b"", missing)
                return
            content = hub.files[name]
            begin = int(asked.removeprefix("bytes=").partition("-")[0]) if asked and hub.ranges else 0
            headers = {"Content-Range": f"bytes {begin}-{len(content) - 1}/{len(content)}"} if begin else {}
            cut = hub.cut_after.pop(0) if hub.cut_after else None
            self._answer(206 if begin else 200, content[begin:] + bytes(hub.surplus), headers, cut)

        def _answer(self, status: int, body: bytes, headers: dict[str, str], cut: int | None = None) -> None:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:cut])

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    return Handler
