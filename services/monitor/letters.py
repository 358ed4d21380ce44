"""Raises an alert when a service could not handle a message; what was raised before is in the log."""

from __future__ import annotations

import asyncio

import structlog

from services.monitor.core.dead_letters import Raised, dead_letter_alerts
from services.monitor.watch import Deps
from shared.bus.protocol import Backlog, Bus
from shared.errors import BusError, Retry
from shared.events import RUN_ID, AlertRaised

LOOK_SEC = 10.0
"""Between two looks at the dead letters."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


async def watch_dead_letters(deps: Deps) -> None:
    """Look at them for ever."""
    raised = await raised_before(deps.bus)
    while True:
        try:
            await check_dead_letters(deps, await deps.bus.backlog(), raised)
        except BusError as error:  # the server is slow or away: they are still there at the next look
            log.warning("dead letters cannot be counted", problem=str(error))
        await asyncio.sleep(LOOK_SEC)


async def raised_before(bus: Bus) -> dict[Raised, int]:
    """Run and channel -> ordinal of the newest alert in the log."""
    found: dict[Raised, int] = {}
    for record in await bus.events(name=AlertRaised.name):
        if isinstance(record.message, AlertRaised):
            place = (record.message.run_id, record.message.channel)
            found[place] = max(record.message.ordinal, found.get(place, 0))
    return found


async def check_dead_letters(deps: Deps, backlogs: list[Backlog], raised: dict[Raised, int]) -> None:
    """Raise what is due, and note it; dead letters of runs that nobody started have nobody to tell."""
    known = [
        Backlog(each.service, dead={run: n for run, n in each.dead.items() if RUN_ID.fullmatch(run)})
        for each in backlogs
    ]
    for alert in dead_letter_alerts(known, raised):
        try:
            await deps.runs.spec(alert.run_id)
        except Retry:
            continue
        await deps.bus.publish(alert)
        raised[alert.run_id, alert.channel] = alert.ordinal
        log.warning("alert", run_id=alert.run_id, channel=alert.channel, detail=alert.detail)
