"""The reports of a bundle, written again from its own files: without a server, wherever it lies."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.reporter.core.endings import endings
from services.reporter.core.story import Outcome, Story
from services.reporter.reports import Written, required, write_reports
from shared.bundle import Bundle
from shared.bus.journal import read_journal
from shared.bus.protocol import Recorded
from shared.errors import BundleError
from shared.events import ReportWritten


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """The reports of one ending of a run, or of where it is."""

    story: Story
    outcome: Outcome
    reports: list[Written]


def rebuild(root: Path, kinds: Collection[str] = ()) -> list[Rebuilt]:
    """Write a run's reports again, those of each time it ended; of one that goes on, as it is.

    Args:
        root: The bundle.
        kinds: Which ones; none are those that the run's policy requires.

    Raises:
        BundleError: The bundle's events cannot be read, or hold no run.
    """
    records = read_journal(Bundle(root, "").events)
    told = endings(records)
    if not told:
        raise BundleError(f"{root}: its events do not say what the run was asked to do")
    found = []
    for story, outcome in told:
        bundle, known = Bundle(root, story.spec.run_name), _known(root, records, story)
        written = write_reports(bundle, story, outcome, kinds or required(story), known=known, again=True)
        found.append(Rebuilt(story, outcome, list(written)))
    return found


def _known(root: Path, records: Sequence[Recorded], story: Story) -> dict[str, str]:
    """Reports of the same ending that were written before and are there."""
    return {
        event.report: event.path
        for event in (record.message for record in records)
        if isinstance(event, ReportWritten)
        and event.path is not None
        and story.stamp in event.path
        and (root / event.path).is_file()
    }
