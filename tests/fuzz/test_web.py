"""Whatever a browser, or somebody who is none, sends to the pages: an answer, and never an error of ours."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.testclient import WebSocketDenialResponse
from starlette.types import ASGIApp
from starlette.types import Message as Sent
from starlette.websockets import WebSocketDisconnect

from services.inference.play.legend import Code, Legend
from services.reporter.page.app import Site, create_app
from services.reporter.page.board import Board
from services.reporter.page.door import Door
from shared.bundle import Bundle
from shared.bus.memory import MemoryBus
from shared.web.access import Access
from tests.fuzz.absurd import ORDINARY, documents
from tests.fuzz.effort import tries
from tests.fuzz.mutants import after, damages
from tests.unit.bundles.conftest import RUN_NAME, write_run
from tests.unit.gatekeeper.story import RUN_ID, Story
from tests.unit.inference.play.conftest import CODES, IDLE, PaintingEngine
from tests.unit.inference.play.test_sessions import Stage

HOST, TOKEN = "127.0.0.1:8700", "a token"
WORDS = (
    *("api", "runs", RUN_ID, "history", "dynamics", "files", "actions", "pause", "retune", "stop"),
    *("index.html", "page.js", "docs", "action", "..", ".", "", "\0", "%2e%2e", "a" * 5_000, "é\u202e", "\n"),
)
ADDRESSES = (
    "/api/runs",
    f"/api/runs/{RUN_ID}",
    f"/api/runs/{RUN_ID}/history/dynamics",
    f"/api/runs/{RUN_ID}/files/docs/action/x.md",
    f"/api/runs/{RUN_ID}/actions/retune",
    f"/api/runs/{RUN_ID}/actions/stop",
    "/api/session",
)
addresses = st.sampled_from(ADDRESSES) | st.lists(st.sampled_from(WORDS), max_size=7).map("/".join).map(
    "/{}".format
)
queries = st.binary(max_size=20) | st.lists(
    st.tuples(
        st.sampled_from([b"column", b"from", b"to", b"points"]),
        st.sampled_from([b"train/loss", b"_step", b"1", b"-1", b"9" * 400, b"nan", b"%00", b"%ff", b""]),
    ).map(b"=".join)
).map(b"&".join)
RANGES = b"bytes=" + b"0-,".join([b"1"] * 500)
VALUES = (b"", b"bytes=0-1", RANGES, b"\xff\xfe", b'W/"x"', b"Bearer x", b"a" * 9_000)
NAMES = (
    *(b"host", b"origin", b"authorization", b"cookie", b"content-type"),
    *(b"range", b"if-none-match", b"if-range"),
)
headers = st.dictionaries(
    st.sampled_from(NAMES), st.sampled_from(VALUES) | st.binary(max_size=12), max_size=3
)
USUAL = {
    b"host": HOST.encode(),
    b"origin": f"http://{HOST}".encode(),
    b"content-type": b"application/json",
    b"authorization": f"Bearer {TOKEN}".encode(),
}
WISH = b'{"changes": {"learning_rate": 0.001, "a": [1]}, "stage": "dynamics"}'
bodies = st.one_of(
    st.builds(after, damages(), st.just(WISH)),
    documents.map(lambda found: json.dumps({"changes": found, "token": found, "reason": found}).encode()),
)
thoroughly = tries(2)


async def ask(
    app: ASGIApp, method: str, path: str, query: bytes, header: dict[bytes, bytes], body: bytes
) -> int:
    """The status of an application's answer."""
    parts: list[Sent] = [{"type": "http.request", "body": body, "more_body": False}]
    answers: list[Sent] = []

    async def receive() -> Sent:
        return parts.pop() if parts else {"type": "http.disconnect"}

    async def send(message: Sent) -> None:
        answers.append(message)

    scope = {
        "type": "http", "method": method, "path": path, "raw_path": b"", "query_string": query,
        "headers": [*(USUAL | header).items()], "client": ("127.0.0.1", 5), "server": ("127.0.0.1", 8700),
        "scheme": "http", "root_path": "", "http_version": "1.1",
    }  # fmt: skip
    async with asyncio.timeout(10):
        await app(scope, receive, send)
    return int(answers[0]["status"])


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Any]:
    """Asks a page with one run; the status and the body of its answer."""
    bundle = Bundle(write_run(tmp_path / "runs" / RUN_ID, Story()), RUN_NAME)
    bus = MemoryBus("reporter")

    async def place(_: str) -> Bundle:
        return bundle

    board = Board(bus, place)
    app = create_app(Site(board, bus, Door(set(), Access(TOKEN))))

    async def begin() -> None:
        for event in ORDINARY:
            await bus.publish(event)
        following.append(asyncio.create_task(board.follow()))
        await board.rows()

    following: list[asyncio.Task[None]] = []
    with asyncio.Runner() as runner:
        runner.run(begin())
        yield lambda *request: runner.run(ask(app, *request))


def test_the_live_page_answers_whatever_is_asked(live: Any) -> None:
    statuses = set()

    @thoroughly
    @example("GET", "/api/runs", b"", {}, b"")
    @example("GET", f"/{'a' * 5_000}.html", b"", {}, b"")
    @example("GET", "/index.html/", b"\xea", {}, b"")
    @example("POST", f"/api/runs/{RUN_ID}/actions/retune", b"", {}, WISH[:-1])
    @example("POST", f"/api/runs/{RUN_ID}/actions/retune", b"", {}, WISH)
    @given(st.sampled_from(["GET", "POST", "HEAD"]), addresses, queries, headers, bodies)
    def one(method: str, path: str, query: bytes, header: dict[bytes, bytes], body: bytes) -> None:
        status = live(method, path, query, header, body)
        statuses.add(status)
        assert status < 500

    one()
    assert {200, 202, 400, 404} <= statuses


def test_the_page_of_the_game_answers_whatever_is_asked() -> None:
    app = Stage(PaintingEngine(), Legend((Code(IDLE, None, False, 1.0, 1.0),), IDLE)).client.app  # noqa: FBT003
    statuses = set()

    @tries()
    @example("GET", "/", b"", {}, b"")
    @example("GET", "/\n", b"", {}, b"")
    @example("GET", "/play.js", b"\xea", {}, b"")
    @example("GET", "/play.js/", b"\xea", {}, b"")
    @given(st.sampled_from(["GET", "POST", "HEAD"]), addresses, queries, headers, bodies)
    def one(method: str, path: str, query: bytes, header: dict[bytes, bytes], body: bytes) -> None:
        status = asyncio.run(ask(app, method, path, query, header, body))
        statuses.add(status)
        assert status < 500

    one()
    assert {200, 404} <= statuses


MESSAGES = (
    *(b'{"type": "press", "code": 2}', b'{"type": "release"}', b'{"type": "reset"}', b'{"type": "new_seed"}'),
    *(b'{"type": "record", "on": true}', b'{"type": "record", "on": false}'),
    b'{"type": "token", "token": ""}',
)
said = st.sampled_from(MESSAGES) | st.builds(after, damages(), st.sampled_from(MESSAGES))


def test_a_game_goes_on_whatever_one_of_its_players_sends() -> None:
    legend = Legend(tuple(Code(code, None, False, 0.25, 1.0) for code in range(CODES)), IDLE)  # noqa: FBT003
    stage = Stage(PaintingEngine(), legend)

    @tries(0.4)
    @given(st.booleans(), st.lists(said | said.map(lambda text: text.decode(errors="replace")), max_size=6))
    def one(known: bool, messages: list[bytes | str]) -> None:
        try:
            with stage.player() if known else stage.stranger() as player:
                for message in messages:
                    if isinstance(message, bytes):
                        player.socket.send_bytes(message)
                    else:
                        player.socket.send_text(message)
        except (WebSocketDisconnect, WebSocketDenialResponse):
            pass
        with stage.player() as other:
            assert other.told()["type"] == "welcome"
            other.frame()
        assert not stage.failures

    with stage.client:
        one()
