"""Logging: readable lines on standard error, JSON lines into files, always with run_id, stage and attempt.

A process writes `<state_dir>/logs/<service>.jsonl`, and for every run whose bundle it knows
`<bundle>/Logs/<service>.jsonl` with that run's lines. What libraries log goes the same ways.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import structlog

from shared.events import Message
from shared.recent import Recent
from shared.settings import Settings

MAX_SERVICE_LOG_BYTES = 8 * 2**20
"""A service's own log larger than this when the process starts becomes `<service>.1.jsonl`."""
MOST_RUNS = 1000
"""Runs whose lines go into files of their own: those last worked on."""
CONTEXT = ("run_id", "stage", "attempt")
"""Keys every line has; null where there is none."""


NOISE = ("returning true from eof_received() has no effect when using ssl",)
"""What asyncio says each time a TLS connection of nats-py ends, and what nobody can do anything about."""


class _Files:
    """A structlog processor that copies each line as JSON into the files it belongs to."""

    def __init__(self) -> None:
        self.service = "worldloop"
        self.own: Path | None = None
        self.runs: Recent[str, Path] = Recent(MOST_RUNS)

    def __call__(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        line = structlog.processors.format_exc_info(logger, method, dict(event))
        line = (
            {"time": line.pop("timestamp", None), "service": self.service}
            | dict.fromkeys(CONTEXT)
            | dict(line)
        )
        text = json.dumps(line, default=str) + "\n"
        run = self.runs.get(str(event.get("run_id")))
        for path in (self.own, run):
            if path is None or (path is run and not path.parent.parent.is_dir()):
                continue  # never bring a bundle back that was moved away
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("a", encoding="utf-8") as stream:
                    stream.write(text)
            except OSError as error:  # a full disk must not end training; the terminal shows it
                event["log_file_problem"] = str(error)
        return event


class _Terminal:
    """The last processor: prints the line, so that there is nothing left for a logger behind it to do."""

    def __init__(self) -> None:
        self._render = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )

    def __call__(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> NoReturn:
        print(self._render(logger, method, event), file=sys.stderr, flush=True)  # noqa: T201
        raise structlog.DropEvent


class _Forward(logging.Handler):
    """Takes what libraries log with `logging` into structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg in NOISE:
            return
        structlog.get_logger().log(
            record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info or None
        )


_files = _Files()


def configure(service: str, settings: Settings) -> None:
    """Set up the process's logging; once, from `main()`.

    Args:
        service: Name of the log files and the `service` of every line.
        settings: Where the files go, and from which level on.
    """
    _files.service = service
    _files.own = settings.state_dir / "logs" / f"{service}.jsonl"
    if _files.own.exists() and _files.own.stat().st_size > MAX_SERVICE_LOG_BYTES:
        _files.own.replace(_files.own.with_suffix(".1.jsonl"))
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _files,
            _Terminal(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
    )
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[_Forward()], force=True)


def write_run(run_id: str, directory: Path) -> None:
    """From now on the run's lines go also into `<directory>/<service>.jsonl`.

    Args:
        run_id: The run.
        directory: Its bundle's `Logs/`; lines are dropped there while the bundle does not exist.
    """
    _files.runs.put(run_id, directory / f"{_files.service}.jsonl")


@contextmanager
def bound(message: Message) -> Iterator[None]:
    """Everything logged inside carries the message's run, stage and attempt; tasks started inside keep it."""
    holder = getattr(message, "plan", message)
    values = {key: getattr(holder, key) for key in ("stage", "attempt") if hasattr(holder, key)}
    with structlog.contextvars.bound_contextvars(run_id=message.run_id, **values):
        yield
