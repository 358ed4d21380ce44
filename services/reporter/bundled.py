"""A run as the event file of its bundle tells it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from services.reporter.core.endings import endings
from services.reporter.core.story import Outcome, Story
from services.reporter.kinds import Request
from shared.bundle import Bundle
from shared.bus.journal import read_journal
from shared.bus.protocol import Recorded
from shared.errors import BundleError


def told(root: Path) -> tuple[Sequence[Recorded], list[tuple[Story, Outcome]]]:
    """The events of a bundle, and each time the run ended or where it is, oldest first; never none.

    Raises:
        BundleError: The bundle's events cannot be read, or hold no run.
    """
    records = read_journal(Bundle(root, "").events)
    found = endings(records)
    if not found:
        raise BundleError(f"{root}: its events do not say what the run was asked to do")
    return records, found


def newest(root: Path) -> Request:
    """A request for a report of the run's newest ending, or of where it is.

    Raises:
        BundleError: The bundle's events cannot be read, or hold no run.
    """
    _, found = told(root)
    story, outcome = found[-1]
    return Request(Bundle(root, story.spec.run_name), story, outcome)
