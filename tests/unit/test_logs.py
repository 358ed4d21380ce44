"""Logging: where lines go, and what each of them has."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from shared import logs
from shared.events import StopChunk
from shared.settings import Settings

RUN = "20260101_000000"
STOP = StopChunk(run_id=RUN, stage="dynamics", attempt=3)


@pytest.fixture(autouse=True)
def configured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    logs.configure("trainer", Settings(state_dir=tmp_path / "state"))
    yield
    structlog.reset_defaults()
    root.handlers, root.level = handlers, level


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_line_has_run_stage_and_attempt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    structlog.get_logger().info("idle")
    with logs.bound(STOP):
        structlog.get_logger().warning("working", gpu=1)
    idle, working = lines(tmp_path / "state" / "logs" / "trainer.jsonl")
    assert (idle["run_id"], idle["stage"], idle["attempt"]) == (None, None, None)
    assert (working["run_id"], working["stage"], working["attempt"]) == (RUN, "dynamics", 3)
    assert (working["service"], working["level"], working["event"], working["gpu"]) == (
        "trainer",
        "warning",
        "working",
        1,
    )
    said = capsys.readouterr()
    assert "working" in said.err
    assert said.out == ""


def test_a_runs_lines_go_into_its_bundle_too_once_it_is_known(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    with logs.bound(STOP):
        structlog.get_logger().info("too early")
        logs.write_run(RUN, bundle / "Logs")
        structlog.get_logger().info("in time")
    structlog.get_logger().info("of no run")
    assert [line["event"] for line in lines(bundle / "Logs" / "trainer.jsonl")] == ["in time"]


def test_a_bundle_that_was_moved_away_is_not_brought_back(tmp_path: Path) -> None:
    logs.write_run(RUN, tmp_path / "gone" / "Logs")
    with logs.bound(STOP):
        structlog.get_logger().info("hello")
    assert not (tmp_path / "gone").exists()


def test_a_traceback_is_in_the_file(tmp_path: Path) -> None:
    try:
        _ = 1 / 0
    except ZeroDivisionError:
        structlog.get_logger().exception("it failed")
    (line,) = lines(tmp_path / "state" / "logs" / "trainer.jsonl")
    assert "ZeroDivisionError: division by zero" in line["exception"]


def test_what_libraries_log_goes_the_same_way(tmp_path: Path) -> None:
    logging.getLogger("somebody").warning("careful with %s", "that")
    (line,) = lines(tmp_path / "state" / "logs" / "trainer.jsonl")
    assert (line["event"], line["logger"], line["level"]) == ("careful with that", "somebody", "warning")


def test_a_long_log_makes_room_when_the_service_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    structlog.get_logger().info("old")
    monkeypatch.setattr(logs, "MAX_SERVICE_LOG_BYTES", 10)
    logs.configure("trainer", Settings(state_dir=tmp_path / "state"))
    structlog.get_logger().info("new")
    folder = tmp_path / "state" / "logs"
    assert [line["event"] for line in lines(folder / "trainer.jsonl")] == ["new"]
    assert [line["event"] for line in lines(folder / "trainer.1.jsonl")] == ["old"]
