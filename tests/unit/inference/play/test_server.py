"""The server and its command: ports, addresses, what is printed, and the line that a slow page gets."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from services.cli import app
from services.inference.play.controls import Controls
from services.inference.play.session import Session
from shared.errors import UsageError, WorldloopError
from shared.web.listen import STALLED_SEC, address, listen, own_names

FIXTURES = Path(__file__).parents[3] / "fixtures"
WORLD = [str(FIXTURES / "golden" / "tinyworlds_run"), "--dataset", str(FIXTURES / "pong_frames.h5")]


def test_a_port_that_is_taken_is_said_with_the_flag_that_helps() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UsageError, match="--port"):
        listen("127.0.0.1", [taken.getsockname()[1]], cure="Name another with --port or --host")


def test_the_url_can_be_opened() -> None:
    with listen("127.0.0.1", [0], cure="") as listener:
        assert address(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}/"
    with listen("0.0.0.0", [0], cure="") as everywhere:
        assert address(everywhere).startswith(f"http://{socket.gethostname()}:")


def test_a_loopback_server_goes_by_no_name_that_others_could_give_away() -> None:
    assert own_names("127.0.0.1") == set()
    assert socket.gethostname().lower() in own_names("0.0.0.0")


async def test_a_slow_line_gets_the_newest_frame_and_all_the_mail() -> None:
    session = Session(Controls(0), start=0, now=0.0)
    session.tell({"type": "welcome"})
    session.show(b"old")
    session.show(b"new")
    session.tell(b"recording")
    waiting = session.outbox()
    got = [await anext(waiting) for _ in range(3)]
    assert got == ['{"type": "welcome"}', b"recording", b"new"]
    session.tell(b"another")
    assert await anext(waiting) == b"another"
    following = asyncio.ensure_future(anext(waiting))
    for _ in range(3):
        await asyncio.sleep(0)
    assert not following.done()  # a frame is sent once
    session.show(b"never sent")
    session.end("idle", "bye")
    assert json.loads(await following)["reason"] == "idle"
    assert [each async for each in waiting] == []


async def test_mail_of_a_player_who_takes_none_does_not_pile_up() -> None:
    session = Session(Controls(0), start=0, now=0.0)
    for _ in range(100):
        session.tell(b"recording")
    assert session.over
    assert [each async for each in session.outbox()] == []


def test_whoever_takes_nothing_is_cut_off_by_the_kernel() -> None:
    with (
        listen("127.0.0.1", [0], cure="") as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as player,
    ):
        assert player.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1000 * STALLED_SEC


def test_check_prints_the_checklist_and_serves_nothing() -> None:
    found = CliRunner().invoke(app, ["play", *WORLD, "--check", "--json"])
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["playable"] is True


def test_a_world_that_cannot_be_played_is_refused_with_the_checklist(tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["play", WORLD[0], "--dataset", str(tmp_path / "no.h5"), "--port", "0"])
    assert isinstance(found.exception, WorldloopError)
    assert found.exception.exit_code == 2
    assert "no.h5" in str(found.exception)
