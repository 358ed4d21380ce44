"""Events as lines of JSON: the CloudEvents 1.0 JSON format, one event per line (`Logs/events.jsonl`).

What `worldloop events --json` prints and what the bundle's file holds is the same text, so that a run can be
read without a server.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from pydantic_core import from_json

from shared.bus.protocol import Recorded
from shared.bus.wire import decode
from shared.errors import BundleError, MessageError
from shared.events import as_document, schema_urn, subject

TAIL_BYTES = 64 * 1024
"""What is looked at first to find the last line."""
MOST_IN_LINE = 16 * 1024 * 1024
"""Characters of a line; a message has at most 8 MB."""


def as_cloudevent(recorded: Recorded) -> dict[str, Any]:
    """A recorded message as a CloudEvent; `sequence` (extension) is its position in the log of all runs."""
    message = recorded.message
    return {
        "specversion": "1.0",
        "id": message.id,
        "type": f"worldloop.{message.kind}.{message.name}",
        "source": recorded.source,
        "time": recorded.time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "subject": subject(message),
        "datacontenttype": "application/json",
        "dataschema": schema_urn(type(message)),
        "sequence": recorded.sequence,
        "data": as_document(message),
    }


def to_line(recorded: Recorded) -> str:
    """One line, newline not included."""
    return json.dumps(as_cloudevent(recorded), ensure_ascii=False, separators=(",", ":"))


def from_line(line: str) -> Recorded:
    """The recorded message behind a line.

    Raises:
        MessageError: The line is no event of ours; the text says why.
    """
    try:
        found = from_json(line)
        time = datetime.fromisoformat(found["time"])
        sequence, source = int(found["sequence"]), str(found["source"])
        on_subject, data = str(found["subject"]), json.dumps(found["data"]).encode()
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise MessageError(f"no CloudEvent of a run: {error!r}") from None
    return Recorded(sequence, time, source, decode(on_subject, data))


def read_journal(path: Path) -> list[Recorded]:
    """All events of a bundle's file, in order.

    A last line without its newline was being written when the writer died, or is just being written: it is no
    event yet.

    Raises:
        BundleError: The file is missing, or a line is no event; names the line.
    """
    return list(journal(path))


def journal(path: Path, names: Collection[str] = ()) -> Iterator[Recorded]:
    """The same one by one, none kept; of some event names only, if there are any.

    Raises:
        BundleError: As of `read_journal`, as soon as it comes there.
    """
    if path.exists() and not path.is_file():
        raise BundleError(f"{path}: the run's events cannot be read (it is no file)")
    try:
        with path.open(encoding="utf-8", newline="\n") as stream:
            lines = iter(lambda: stream.readline(MOST_IN_LINE), "")
            for number, line in enumerate(lines, start=1):
                if len(line) == MOST_IN_LINE and not line.endswith("\n"):
                    raise BundleError(f"{path}, line {number}: no event has {MOST_IN_LINE >> 20} MB")
                if line.endswith("\n") and (not names or any(name in line for name in names)):
                    recorded = _from_line(path, number, line)
                    if not names or recorded.message.name in names:
                        yield recorded
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{path}: the run's events cannot be read ({error})") from None


def _from_line(path: Path, number: int, line: str) -> Recorded:
    try:
        return from_line(line)
    except MessageError as error:
        raise BundleError(f"{path}, line {number}: {error}") from None


def last_event(path: Path) -> Recorded | None:
    """The last event of a bundle's file, without reading the others; none if there is none in its last line.

    A line without its newline is just being written and does not count.
    """
    try:
        with path.open("rb") as stream:
            start, line = last_line(stream)
            if line and not line.endswith(b"\n"):
                _, line = last_line(stream, before=start)
    except FileNotFoundError:
        return None
    try:
        return from_line(line.decode()) if line else None
    except (MessageError, UnicodeDecodeError):
        return None  # the reporter repairs it


def last_line(stream: BinaryIO, *, before: int | None = None) -> tuple[int, bytes]:
    """Where the last line begins, and the line with its end if it has one.

    Args:
        stream: An open file.
        before: Where the file is taken to end; none is its end.
    """
    size = stream.seek(0, os.SEEK_END) if before is None else before
    length = 0
    while True:
        length = min(size, length + TAIL_BYTES)
        stream.seek(size - length)
        block = stream.read(length)
        found = block[:-1].rfind(b"\n")
        if found >= 0 or length == size or length >= MOST_IN_LINE:
            return size - length + found + 1, block[found + 1 :]
