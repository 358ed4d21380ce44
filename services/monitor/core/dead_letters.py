"""What services could not handle, as alerts: so people are told of it as of other trouble."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from shared.bus.protocol import Backlog
from shared.events import AlertRaised

Raised = tuple[str, str]
"""Run and channel of an alert."""


def dead_letter_alerts(backlogs: Iterable[Backlog], raised: Mapping[Raised, int]) -> list[AlertRaised]:
    """The alerts that are due: at the first dead letter of a service in a run, then whenever they doubled.

    Doubling keeps an alert that itself becomes a dead letter from raising one for ever.

    Args:
        backlogs: What each service could not handle, by run.
        raised: Run and channel -> ordinal of the newest alert.
    """
    return [
        AlertRaised(
            run_id=run_id,
            channel=f"dead_letters_{backlog.service}",
            silence_sec=0.0,
            limit_sec=0.0,
            detail=f"{_became(count)}: the {backlog.service}'s log says which, and why",
            ordinal=count.bit_length(),
        )
        for backlog in backlogs
        for run_id, count in sorted(backlog.dead.items())
        if count.bit_length() > raised.get((run_id, f"dead_letters_{backlog.service}"), 0)
    ]


def _became(count: int) -> str:
    return "a message became a dead letter" if count == 1 else f"{count} messages became dead letters"
