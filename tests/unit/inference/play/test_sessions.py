"""Sessions over the real WebSocket, without a browser: limits, isolation, recording, failure."""

from __future__ import annotations

import json
import random
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient, WebSocketTestSession
from starlette.websockets import WebSocketDisconnect

from services.inference.play.app import create_app
from services.inference.play.conductor import Conductor
from services.inference.play.legend import Legend
from services.inference.play.messages import unpack
from tests.unit.inference.play.conftest import CODES, IDLE, TOKEN, PaintingEngine, play_config

HOST = "127.0.0.1:8000"
PAGE = {"host": HOST, "origin": f"http://{HOST}"}


class Player:
    """A page that sends and looks."""

    def __init__(self, socket: WebSocketTestSession) -> None:
        self.socket = socket
        self.header: dict[str, Any] = {}
        """Of the last frame."""
        self.recordings: list[tuple[dict[str, Any], bytes]] = []
        self.letters: deque[dict[str, Any]] = deque()

    def say(self, what: str, **fields: Any) -> None:
        self.socket.send_text(json.dumps({"type": what, **fields}))

    def told(self) -> dict[str, Any]:
        """The next JSON message, frames aside."""
        while not self.letters:
            self._receive()
        return self.letters.popleft()

    def frame(self) -> list[int]:
        """The next frame's first pixel: seed, age, action."""
        while (png := self._receive()) is None:
            pass
        pixel: list[int] = np.asarray(Image.open(BytesIO(png)))[0, 0].tolist()
        return pixel

    def frame_like(self, **pixel: int) -> list[int]:
        """The next frame with this seed, age or action."""
        while True:
            shown = self.frame()
            named = dict(zip(("seed", "age", "action"), shown, strict=True))
            if all(named[key] == value for key, value in pixel.items()):
                return shown

    def gone(self) -> int:
        """The code that the server closes with, whatever comes before."""
        while True:
            try:
                self._receive()
            except WebSocketDisconnect as closed:
                return closed.code

    def _receive(self) -> bytes | None:
        """Take one message; a frame's PNG if it is one."""
        message = self.socket.receive()
        if message["type"] == "websocket.close":
            raise WebSocketDisconnect(message["code"])
        if message.get("text"):
            self.letters.append(json.loads(message["text"]))
            return None
        header, payload = unpack(message["bytes"])
        if header["type"] == "recording":
            self.recordings.append((header, payload))
            return None
        self.header = header
        return payload


class Stage:
    """The application around an engine."""

    def __init__(self, engine: PaintingEngine, legend: Legend, **config: Any) -> None:
        self.failures: list[Exception] = []
        settings = play_config(**config)
        self.conductor = Conductor(engine, settings, codes=CODES, idle=IDLE, chance=random.Random(0))  # type: ignore[arg-type]
        app = create_app(
            self.conductor,
            settings,
            legend,
            size=engine.size,
            most_steps=engine.most_steps,
            with_actions=True,
            names=set(),
            on_failure=self.failures.append,
        )
        self.client = TestClient(app, base_url=f"http://{HOST}")

    @contextmanager
    def stranger(self) -> Iterator[Player]:
        """A page that has not shown the token."""
        with self.client.websocket_connect("/play", headers=PAGE) as socket:
            yield Player(socket)

    @contextmanager
    def player(self) -> Iterator[Player]:
        with self.stranger() as player:
            assert player.told() == {"type": "locked"}
            player.say("token", token=TOKEN)
            yield player


@pytest.fixture
def stage(painting: PaintingEngine, legend: Legend) -> Iterator[Stage]:
    stage = Stage(painting, legend)
    with stage.client:
        yield stage


def test_a_player_is_welcomed_sees_the_seed_and_then_the_world_go_on(stage: Stage) -> None:
    with stage.player() as player:
        welcome = player.told()
        assert welcome["type"] == "welcome"
        assert [code["code"] for code in welcome["codes"]] == [0, 1, 2, 3]
        seed, age, _ = player.frame()
        assert seed in PaintingEngine.starts
        assert age == 0
        assert player.header["seed"] == seed
        player.frame_like(seed=seed, age=1, action=IDLE)
        assert player.header["seed"] is None
        assert set(player.header["ms"]) == {"tokenize", "dynamics", "pixels", "encode", "send"}


def test_an_action_is_in_force_while_it_is_held(stage: Stage) -> None:
    with stage.player() as player:
        player.say("press", code=3)
        player.frame_like(action=3)
        assert player.header["code"] == 3
        assert player.frame()[2] == 3
        player.say("release")
        player.frame_like(action=IDLE)


def test_reset_goes_back_to_the_seed_and_new_seed_to_another(stage: Stage) -> None:
    with stage.player() as player:
        seed, _, _ = player.frame()
        player.frame_like(age=3)
        player.say("reset")
        player.frame_like(seed=seed, age=0)
        others = set()
        for _ in range(8):
            player.say("new_seed")
            others.add(player.frame_like(age=0)[0])
        assert len(others) > 1


def test_players_do_not_disturb_each_other_and_share_a_decoding(
    stage: Stage, painting: PaintingEngine
) -> None:
    with stage.player() as one, stage.player() as other:
        one.say("press", code=3)
        mine, _, _ = one.frame_like(action=3)
        theirs, _, _ = other.frame()
        while theirs == mine:
            other.say("new_seed")
            theirs, _, _ = other.frame_like(age=0)
        other.say("reset")
        other.frame_like(seed=theirs, age=0)
        assert one.frame()[1] > 0
        for _ in range(5):
            seed, _, action = other.frame()
            assert seed == theirs
            assert action in (IDLE, 255)
            seed, _, action = one.frame()
            assert (seed, action) == (mine, 3)
        assert 2 in painting.batches
        assert one.header["players"] == 2


def test_one_player_too_many_is_told_so_and_may_come_when_another_leaves(stage: Stage) -> None:
    with stage.player() as first, stage.player() as second:
        first.frame()
        second.frame()
        with stage.player() as third:
            told = third.told()
            assert told["reason"] == "full"
            assert "2 places" in told["text"]
            assert third.gone() == 1013
    assert stage.conductor.players == 0
    with stage.player() as again:
        assert again.told()["type"] == "welcome"


def test_who_does_nothing_is_ended_and_who_plays_is_not(stage: Stage) -> None:
    with ExitStack() as coming:
        idle = coming.enter_context(stage.player())
        idle.told()
        busy = coming.enter_context(stage.player())
        busy.say("press", code=2)
        busy.frame_like(action=2)
        for session in stage.conductor._sessions:
            session.heard -= 200
        busy.say("press", code=3)
        busy.frame_like(action=3)
        stage.conductor._sessions[0].heard -= 200
        assert idle.told()["reason"] == "idle"
        assert idle.gone() == 1000
        assert busy.frame()[2] == 3


def test_a_recording_comes_as_mp4_with_every_frame(stage: Stage) -> None:
    with stage.player() as player:
        player.frame()
        player.say("record", on=True)
        while not player.header["recording"]:
            player.frame()
        first = player.header["number"]
        for _ in range(5):
            player.frame()
        player.say("record", on=False)
        while not player.recordings:
            player.frame()
        header, payload = player.recordings[0]
        assert 6 <= header["frames"] <= player.header["number"] - first + 1
        with av.open(BytesIO(payload)) as container:
            assert sum(1 for _ in container.decode(video=0)) == header["frames"]
        assert not player.header["recording"]


def test_an_encoder_that_fails_is_reported_and_play_goes_on(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise av.FFmpegError(1, "no encoder today")

    monkeypatch.setattr("services.inference.play.conductor.Movie", refuse)
    with stage.player() as player:
        player.told()
        player.say("record", on=True)
        assert "no encoder today" in player.told()["text"]
        player.frame()
        assert not player.header["recording"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[" * 1000,
        '{"type": "shutdown"}',
        '{"type": "press"}',
        '{"type": "press", "code": -1}',
        '{"type": "press", "code": 4}',
    ],
)
def test_what_no_page_of_ours_sends_ends_the_session_with_the_reason(stage: Stage, text: str) -> None:
    with stage.player() as player:
        player.told()
        for _ in range(3):  # the reason is told once
            player.socket.send_text(text)
        assert player.told()["reason"] == "invalid"
        assert player.gone() == 1000
        assert not player.letters
    assert stage.conductor.players == 0


def test_a_binary_message_ends_the_session_too(stage: Stage) -> None:
    with stage.player() as player:
        player.told()
        player.socket.send_bytes(b"\x00\xff")
        assert player.told()["reason"] == "invalid"


def test_a_recording_ends_by_itself_when_it_is_full(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.inference.play.movie.LARGEST", 0)
    with stage.player() as player:
        player.say("record", on=True)
        while not player.recordings:
            player.frame()
        player.frame()
        assert not player.header["recording"]


def test_when_decoding_fails_everybody_is_told_and_the_server_hears_of_it(
    stage: Stage, painting: PaintingEngine
) -> None:
    with stage.player() as player:
        player.frame_like(age=1)
        painting.problem = RuntimeError("the GPU fell off the bus")
        assert player.told()["type"] == "welcome"
        told = player.told()
        assert "the GPU fell off the bus" in told["text"]
        assert player.gone() == 1000
    assert stage.failures == [painting.problem]


@pytest.mark.parametrize("origin", [None, "http://evil.example", "null"])
def test_a_page_of_another_origin_gets_no_session(stage: Stage, origin: str | None) -> None:
    headers = {"host": HOST} if origin is None else {"host": HOST, "origin": origin}
    with (
        pytest.raises(WebSocketDisconnect) as refused,
        stage.client.websocket_connect("/play", headers=headers),
    ):
        pass
    assert refused.value.code == 1008
    assert stage.conductor.players == 0


def test_the_page_and_its_files_are_served_and_nothing_else(stage: Stage) -> None:
    page = stage.client.get("/")
    assert page.status_code == 200
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for path in ("/play.js", "/play.css", "/icon.svg"):
        assert path in page.text
        assert stage.client.get(path).status_code == 200
    assert "://" not in page.text  # works offline
    assert stage.client.get("/../app.py").status_code == 404
    assert stage.client.post("/").status_code == 405
    assert stage.client.get("/", headers={"host": "evil.example:8000"}).status_code == 403
    assert stage.conductor.players == 0
