"""The JetStream streams: what is kept, where, for how long; made or brought up to date on connecting."""

from __future__ import annotations

from dataclasses import replace

from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import NotFoundError

EVENTS = "WORLDLOOP_EVENTS"
COMMANDS = "WORLDLOOP_COMMANDS"
TELEMETRY = "WORLDLOOP_TELEMETRY"
DEAD = "WORLDLOOP_DEAD"
MAKERS = ("gatekeeper", "operator")
"""The users who may make the streams, where users are told apart."""
DUPLICATE_WINDOW_SEC = 120.0
"""Within this an id published again is not stored again; beyond it, folding ignores it."""

STREAMS: tuple[StreamConfig, ...] = (
    StreamConfig(
        name=EVENTS,
        description="Facts, append-only, for ever",
        subjects=["worldloop.*.event.*"],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        deny_delete=True,
        deny_purge=True,
        duplicate_window=DUPLICATE_WINDOW_SEC,
    ),
    StreamConfig(
        name=COMMANDS,
        description="Requests, until the service they are for has acked them",
        subjects=["worldloop.*.command.>"],
        retention=RetentionPolicy.WORK_QUEUE,
        storage=StorageType.FILE,
        discard=DiscardPolicy.NEW,
        max_msgs=100_000,
        duplicate_window=DUPLICATE_WINDOW_SEC,
    ),
    StreamConfig(
        name=TELEMETRY,
        description="Readings that may be lost: the last hour, of many runs less",
        subjects=["worldloop.*.telemetry.*"],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.MEMORY,
        max_age=3600.0,
        max_bytes=8 * 2**20,
        duplicate_window=DUPLICATE_WINDOW_SEC,
    ),
    StreamConfig(
        name=DEAD,
        description="Messages nobody could handle, with the reason",
        subjects=["worldloop.*.dead.>"],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        deny_delete=True,
        deny_purge=True,
        duplicate_window=DUPLICATE_WINDOW_SEC,
    ),
)


async def look(js: JetStreamContext) -> None:
    """See that the streams are there, but for those in memory, which a restart of the server forgets.

    Raises:
        nats.js.errors.NotFoundError: One is not.
        nats.js.errors.APIError: The server refuses, or cannot be reached.
    """
    for wanted in STREAMS:
        if wanted.storage is StorageType.FILE:
            await js.stream_info(wanted.name)


async def ensure(js: JetStreamContext, replicas: int | None = None) -> None:
    """Make the streams that are missing and bring the others up to date; what we do not set stays as it is.

    Args:
        js: The server.
        replicas: Servers of a cluster that keep each stream; none does not set it.

    Raises:
        nats.js.errors.APIError: The server refuses, or cannot be reached.
    """
    for stream in STREAMS:
        wanted = replace(stream, num_replicas=replicas)
        try:
            found = (await js.stream_info(wanted.name)).config
        except NotFoundError:
            await js.add_stream(wanted)
            continue
        ours = {key: value for key, value in vars(wanted).items() if value != getattr(StreamConfig(), key)}
        if any(getattr(found, key) != value for key, value in ours.items()):
            await js.update_stream(replace(found, **ours))
