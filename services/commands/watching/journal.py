"""What `worldloop watch --every` keeps: `Logs/monitor_latest.info` and `Logs/monitor_<time>.log`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from services.commands.terminal.text import clean
from shared.bundle import write_atomic
from shared.errors import UsageError

LATEST = "monitor_latest.info"


class Journal:
    """The latest look whole, and all looks one after the other.

    Args:
        logs: Directory of both.
    """

    def __init__(self, logs: Path) -> None:
        self.latest = logs / LATEST
        self.log = logs / f"monitor_{datetime.now(UTC):%Y_%m_%d_%H_%M_%S}.log"

    def write(self, lines: Iterable[str], new: Sequence[str]) -> None:
        """Keep a look.

        Args:
            lines: What was seen.
            new: Alerts that were not there at the look before.

        Raises:
            UsageError: It cannot be written.
        """
        text = "".join(f"{clean(line)}\n" for line in lines)
        try:
            write_atomic(self.latest, text)
            with self.log.open("a", encoding="utf-8") as stream:
                stream.write(text + "".join(f"NEW ALERT {clean(each)}\n" for each in new) + "\n")
        except OSError as error:
            raise UsageError(f"{error.filename or self.log}: {error.strerror}") from error
