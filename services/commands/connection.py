"""The bus a command works on: an existing server, else the embedded stack."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from services import stack, stack_state
from services.keys.permissions import OPERATOR
from shared import logs
from shared.bus.jetstream import JetStreamBus
from shared.bus.protocol import Bus
from shared.errors import BusError
from shared.settings import Settings

LOOK_SEC = 2.0
"""How long to look for a server whose absence is no error."""


@dataclass(frozen=True, slots=True)
class Server:
    """A NATS server, and how to get in."""

    url: str
    key: Path | None
    ca: Path | None = None


def server(nats_url: str | None, settings: Settings) -> Server | None:
    """`--nats-url` or WORLDLOOP_NATS_URL with the settings' keys, else the embedded stack's if that is up."""
    if named := nats_url or settings.nats_url:
        return Server(named, settings.nats_key, settings.nats_ca)
    running = stack_state.state(settings)
    if running is None or not running.alive:
        return None
    return Server(running.url, stack_state.key_file(settings, OPERATOR))


async def _open(found: Server, *, wait_sec: float = 5.0) -> JetStreamBus:
    logs.configure("cli", Settings())  # to stderr: stdout is the command's own
    return await JetStreamBus.connect(found.url, wait_sec=wait_sec, key=found.key, ca=found.ca)


@contextlib.asynccontextmanager
async def connect(nats_url: str | None) -> AsyncIterator[Bus]:
    """The bus of a server that must be there.

    Raises:
        BusError: There is none.
    """
    found = server(nats_url, Settings())
    if found is None:
        raise BusError("no server: start the embedded stack with `worldloop up`, or give --nats-url")
    bus = await _open(found)
    try:
        yield bus
    finally:
        await bus.close()


@contextlib.asynccontextmanager
async def connect_if_up(nats_url: str | None) -> AsyncIterator[Bus | None]:
    """The bus of a server if there is one; none otherwise, unless a server was named.

    Raises:
        BusError: The named server is not there.
    """
    settings = Settings()
    found = server(nats_url, settings)
    named = nats_url or settings.nats_url
    bus: JetStreamBus | None = None
    if found is not None:
        try:
            bus = await _open(found, wait_sec=LOOK_SEC)
        except BusError:
            if named:
                raise
    try:
        yield bus
    finally:
        if bus is not None:
            await bus.close()


def start_stack_if_needed(nats_url: str | None) -> stack_state.StackState | None:
    """Start the embedded stack unless there is a server. Not from inside an event loop.

    Returns:
        The stack, if it was started here.

    Raises:
        BusError: The stack, or a service of it, does not come up; names its log. What was started is ended.
    """
    settings = Settings()
    if server(nats_url, settings) is not None:
        return None
    try:
        started = stack.up(settings)
    except BaseException:
        stack.down(settings)
        raise
    if any(child.failing for child in started.children):
        stack.down(settings)
        raise BusError(f"the embedded stack does not come up: {'; '.join(started.problems)}")
    return started
