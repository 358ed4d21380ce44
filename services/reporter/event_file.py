"""`Logs/events.jsonl`: every event of a run, in order, once. A torn end (a killed writer) is repaired."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from pydantic_core import from_json

from shared.bus.journal import last_line, to_line
from shared.bus.protocol import Recorded


def last_sequence(path: Path) -> int:
    """Sequence of the last event in the file, 0 for none; what is not a whole event at the end is cut off."""
    try:
        stream = path.open("r+b")
    except FileNotFoundError:
        return 0
    with stream:
        while True:
            start, line = last_line(stream)
            if line == b"":
                return 0
            if line.endswith(b"\n"):
                with contextlib.suppress(ValueError, KeyError, TypeError):  # torn, like one without an end
                    return int(from_json(line)["sequence"])  # be it of a version that says more than this one
            stream.truncate(start)


def append_events(path: Path, records: Sequence[Recorded]) -> None:
    """Add events at the end of the file, which ends with a whole event."""
    if records:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8", newline="\n") as stream:
            stream.writelines(to_line(record) + "\n" for record in records)
