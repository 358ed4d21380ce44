"""A stand-in for the page's server: serves the real static files and documents made by hand, and takes notes.

It is told what to say: `page`, `patch`, `progress` go to every open stream; `refuse` answers actions with a
reason. The real server is tested with the real page in test_page_from_its_server.py; this one shows the page
what a real run would take days to come by.
"""

from __future__ import annotations

import base64
import json
import queue
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

from services.reporter.core.page.model import Page
from tests.e2e.pages import history

STATIC = Path(__file__).parents[2] / "services" / "reporter" / "page" / "static"
PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
"""What every request for a file is answered with."""
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".png": "image/png"}


class Stand:
    """A running stand-in; `url` is its address."""

    def __init__(self, page: Page, port: int = 0) -> None:
        """
        Args:
            page: The document it begins with.
            port: 0 takes a free one.
        """
        self.page = page
        self.refuse: tuple[int, str] | None = None
        self.asked: list[tuple[str, dict[str, Any]]] = []
        """Actions that were asked for: name, body."""
        self.histories: list[str] = []
        """Queries for histories."""
        self._streams: list[queue.Queue[str | None]] = []
        handler = type("Handler", (_Handler,), {"stand": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        """End every stream and the server."""
        for stream in self._streams:
            stream.put(None)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def say(self, event: str, data: object) -> None:
        """Send an event to every open stream."""
        for stream in self._streams:
            stream.put(f"event: {event}\ndata: {json.dumps(data)}\n\n")

    def patch(self, **fields: object) -> None:
        """Send a patch of these fields, rows as models or plain."""
        self.say("patch", {"now": self.page.now} | {name: _plain(value) for name, value in fields.items()})

    def listen(self) -> queue.Queue[str | None]:
        """A new stream."""
        stream: queue.Queue[str | None] = queue.Queue()
        stream.put(f"event: page\ndata: {self.page.model_dump_json()}\n\n")
        self._streams.append(stream)
        return stream


def _plain(value: object) -> object:
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value


class _Handler(BaseHTTPRequestHandler):
    stand: ClassVar[Stand]

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        match parts:
            case ["api", "runs"]:
                self._json([self.stand.page.run.model_dump(mode="json")])
            case ["api", "runs", _]:
                self._json(self.stand.page.model_dump(mode="json"))
            case ["api", "runs", _, "stream"]:
                self._stream()
            case ["api", "runs", _, "history", stage]:
                self.stand.histories.append(url.query)
                asked = {name: values[0] for name, values in parse_qs(url.query).items()}
                span = int(asked.get("from", 0)), int(asked.get("to", 10**9))
                found = history(self.stand.page, stage, asked["column"], *span)  # type: ignore[arg-type]
                self._send(200, "application/json", found.model_dump_json().encode())
            case ["api", "runs", _, "files", *_]:
                self._send(200, "image/png", PICTURE)
            case [name] if (STATIC / (name or "index.html")).is_file():
                file = STATIC / (name or "index.html")
                self._send(200, TYPES[file.suffix], file.read_bytes())
            case _:
                self._json({"error": "there is no such thing"}, 404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.stand.asked.append((self.path.rpartition("/")[2], body))
        if self.stand.refuse is not None:
            self._json({"error": self.stand.refuse[1]}, self.stand.refuse[0])
        else:
            self._json({"request_id": "r1"}, 202)

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        stream = self.stand.listen()
        while (event := stream.get()) is not None:
            try:
                self.wfile.write(event.encode())
                self.wfile.flush()
            except OSError:  # the page was closed
                return

    def _json(self, value: object, status: int = 200) -> None:
        self._send(status, "application/json", json.dumps(value).encode())

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it so
        """Say nothing: the tests look at `asked`."""
