"""The reports and the page of a bundle, written again from its own files, wherever it lies."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.reporter.bundled import told
from services.reporter.core.story import Outcome, Story
from services.reporter.page.static_page import write_page
from services.reporter.reports import Written, required, write_reports
from shared.bundle import Bundle
from shared.bus.protocol import Recorded
from shared.errors import WorldloopError
from shared.events import ReportWritten, RunFinished


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """The reports of one ending of a run, or of where it is."""

    story: Story
    outcome: Outcome
    reports: list[Written]
    """With the page, kind `page`, where all reports were asked for."""


def rebuild(root: Path, kinds: Collection[str] = ()) -> list[Rebuilt]:
    """Write a run's reports and its page again, those of each time it ended; of one that goes on, as it is.

    Args:
        root: The bundle.
        kinds: Which ones; none are those that the run's policy requires, and the page.

    Raises:
        BundleError: The bundle's events cannot be read, or hold no run.
    """
    records, endings = told(root)
    found = []
    for story, outcome in endings:
        bundle, known = Bundle(root, story.spec.run_name), _known(root, records, story)
        written = write_reports(bundle, story, outcome, kinds or required(story), known=known, again=True)
        found.append(Rebuilt(story, outcome, [*written, *([] if kinds else [_page(bundle, records, story)])]))
    return found


def _page(bundle: Bundle, records: Sequence[Recorded], story: Story) -> Written:
    """The page of one ending: of the events up to it, as the reporter wrote it when it came."""
    ends = (place for place, each in enumerate(records, 1) if isinstance(each.message, RunFinished))
    shown = next((records[:end] for end in ends if records[end - 1].time >= story.decided), records)
    try:
        return Written("page", write_page(bundle, shown))
    except (WorldloopError, OSError) as problem:
        return Written("page", None, str(problem))


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
