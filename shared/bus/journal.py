"""Events as lines of JSON: the CloudEvents 1.0 JSON format, one event per line (`Logs/events.jsonl`).

What `worldloop events --json` prints and what the bundle's file holds is the same text, so that a run can be
read without a server.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shared.bus.protocol import Recorded
from shared.bus.wire import decode
from shared.errors import BundleError, MessageError
from shared.events import as_document, subject


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
        found = json.loads(line)
        time = datetime.fromisoformat(found["time"])
        sequence, source = int(found["sequence"]), str(found["source"])
        on_subject, data = str(found["subject"]), json.dumps(found["data"]).encode()
    except (ValueError, KeyError, TypeError) as error:
        raise MessageError(f"no CloudEvent of a run: {error!r}") from None
    return Recorded(sequence, time, source, decode(on_subject, data))


def read_journal(path: Path) -> list[Recorded]:
    """All events of a bundle's file, in order.

    A last line without its newline was being written when the writer died, or is just being written: it is no
    event yet.

    Raises:
        BundleError: The file is missing, or a line is no event; names the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{path}: the run's events cannot be read ({error})") from None
    found: list[Recorded] = []
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        try:
            found.append(from_line(line))
        except MessageError as error:
            raise BundleError(f"{path}, line {number}: {error}") from None
    return found
