"""A W&B server on the loopback interface: as much of its GraphQL as `wandb.Api` asks for to read a run."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class WandbServer:
    """What it has, and what it was asked."""

    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Id -> config, summary, rows; `fails`: an error is the answer; `hangs`: there is none for rows."""
    url: str = ""
    asked: list[str] = field(default_factory=list)
    """`Operation id`, in order."""
    pages: list[tuple[int, int]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        run_id = variables.get("name") or variables.get("run") or variables.get("runName") or ""
        operation = re.search(r"query (\w+)", query)
        self.asked.append(f"{operation[1] if operation else query} {run_id}".strip())
        if "project(" not in query:
            return {
                "data": {
                    "viewer": {
                        "id": "u",
                        "entity": "me",
                        "username": "me",
                        "flags": "{}",
                        "teams": {"edges": []},
                    }
                }
            }
        run = self.runs.get(run_id)
        if run is None:
            return {"data": {"project": {"run": None}}}
        if run.get("fails"):
            return {"errors": [{"message": f"no permission for {KEY}"}], "data": None}
        if "parquetHistory" in query:
            live = [{"_step": row["_step"]} for row in run["rows"]]
            return {"data": {"project": {"run": {"parquetHistory": {"parquetUrls": [], "liveData": live}}}}}
        if "history(" in query:
            if run.get("hangs"):
                self.over.wait()
            first, end = variables["minStep"], variables["maxStep"]
            self.pages.append((first, end))
            rows = [json.dumps(row) for row in run["rows"] if first <= row["_step"] < end]
            return {"data": {"project": {"run": {"history": rows}}}}
        return {"data": {"project": {"run": self._head(run_id, run)}}}

    def _head(self, run_id: str, run: dict[str, Any]) -> dict[str, Any]:
        config = {key: {"value": value} for key, value in run.get("config", {}).items()}
        last = max((row["_step"] for row in run["rows"]), default=0)
        nothing = ("sweepName", "group", "jobType", "commit", "description", "notes")
        return dict.fromkeys(nothing) | {
            "id": "x",
            "projectId": "7",
            "name": run_id,
            "displayName": run_id,
            "tags": [],
            "state": "finished",
            "config": json.dumps({**config, "_wandb": {"value": {"cli_version": "0.31.0"}}}),
            "readOnly": True,
            "createdAt": "2026-01-01T00:00:00",
            "heartbeatAt": "2026-01-01T00:00:00",
            "systemMetrics": "{}",
            "summaryMetrics": json.dumps(run.get("summary", {})),
            "historyLineCount": len(run["rows"]),
            "user": {"name": "me", "username": "me"},
            "historyKeys": {"lastStep": last, "keys": {}},
        }


@contextmanager
def serving(server: WandbServer) -> Iterator[WandbServer]:
    """Answer until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            content = json.dumps(server.answer(asked["query"], asked.get("variables") or {})).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            try:
                self.wfile.write(content)
            except ConnectionError:  # it has given up
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    server.url = f"http://127.0.0.1:{http.server_port}"
    try:
        yield server
    finally:
        server.over.set()
        http.shutdown()
        http.server_close()
        thread.join()
