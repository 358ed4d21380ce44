"""A webhook of the tests' own on the loopback interface, that can be slow, broken or gone."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

TOKEN = "T0KENsecret"


class Webhook:
    """Takes what Apprise's `json://` sends; `answer` is its status, `slow` makes it wait for `go`."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.asked = 0
        self.answer = 200
        self.slow = False
        self.go = threading.Event()
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                webhook.asked += 1
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if webhook.slow:
                    webhook.go.wait(60)
                if webhook.answer == 200:
                    webhook.got.append(body)
                self.send_response(webhook.answer)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"json://user:p4ssw0rd@127.0.0.1:{self._server.server_port}/hooks/{TOKEN}"

    @property
    def titles(self) -> list[str]:
        return [message["title"] for message in self.got]

    def close(self) -> None:
        self.go.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def hook() -> Iterator[Webhook]:
    webhook = Webhook()
    yield webhook
    webhook.close()
