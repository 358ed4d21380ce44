"""What became of every message: none lost, no gate decided twice or not at all."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

import nats
from nats.js.api import AckPolicy, ConsumerConfig
from pydantic_core import from_json

from benchmarks.load.players import LIVE, Trainer
from benchmarks.load.tape import Tape
from services.schemas.traffic import consumers
from shared.bundle import Bundle
from shared.bus import streams
from shared.bus.deliveries import durable
from shared.bus.jetstream import JetStreamBus
from shared.bus.protocol import Consumer
from shared.service import ACK_WAIT_SEC

LEAVING = ("chunk_done", "run_finished", "run_paused")
"""What the trainer of a second host hears of."""
BATCH = 500
SETTLED_SEC = 120.0
"""How long is waited for the services to handle what is left."""


async def handled(url: str) -> None:
    """Have the services' durable consumers settle what is stored, as they would have in a day."""
    client = await nats.connect(url)
    js = client.jetstream()
    far = Consumer("trainer", "event", LEAVING, ack_wait_sec=ACK_WAIT_SEC, node_rank=1)
    for consumer in [*consumers(), far]:
        if consumer.kind == "event":
            info = await js.add_consumer(streams.EVENTS, durable(consumer))
            subscription = await js.pull_subscribe_bind(consumer.durable, stream=streams.EVENTS)
            left = info.num_pending or 0
            while left:
                for message in (found := await subscription.fetch(min(BATCH, left), timeout=30)):
                    await message.ack()
                left -= len(found)
            await client.flush()
    await client.close()


async def settled(bus: JetStreamBus) -> int:
    """Wait until the services have handled everything; how many messages are left."""
    until = time.monotonic() + SETTLED_SEC
    while True:
        before = [each for each in await bus.backlog() if each.service in ("reporter", "monitor")]
        left = sum(each.waiting + each.unsettled for each in before)
        if left == 0 or time.monotonic() > until:
            return left
        await asyncio.sleep(1.0)


async def audit(
    bus: JetStreamBus, url: str, tape: Tape, gates: Mapping[str, int], trainer: Trainer
) -> dict[str, int]:
    """Count what must not be.

    Args:
        bus: Read from.
        url: Of the server.
        tape: What was played, and where the reporter wrote it.
        gates: Played run -> gates of the tape that it has had; only those that went on under load.
        trainer: What the decided run's trainer saw.

    Returns:
        `events`: in the stream. `events_lost`: published and not there. `journal_lost`, `journal_twice`:
        there, and not, or more than once, in their run's file. `decided_twice`, `undecided`: gates.
        `commanded_twice`: chunks. `dead_letters`. `waiting`: not handled in the end.
    """
    waiting = await settled(bus)
    stream: dict[str, list[str]] = {}
    for subject, ident in await _events(url):
        stream.setdefault(subject.split(".")[1], []).append(ident)
    decided = Counter(each for ids in stream.values() for each in ids if each.endswith("/gate_decided"))
    lost = sum(len(_expected(tape, run, count) - set(stream[run])) for run, count in gates.items())
    journals = {run: _journal(tape.bundles / run) for run in (*gates, LIVE)}
    return {
        "events": sum(map(len, stream.values())),
        "events_lost": lost,
        "journal_lost": sum(len(set(stream[run]) - set(ids)) for run, ids in journals.items()),
        "journal_twice": sum(len(ids) - len(set(ids)) for ids in journals.values()),
        "decided_twice": sum(count - 1 for count in decided.values()),
        "undecided": sum(
            f"{LIVE}/video_tokenizer/{each}/gate_decided" not in decided for each in trainer.done
        ),
        "commanded_twice": trainer.again,
        "dead_letters": len(await bus.dead_letters()),
        "waiting": waiting,
    }


async def _events(url: str) -> list[tuple[str, str]]:
    """Subject and id of every event of the stream, in order."""
    client = await nats.connect(url)
    js = client.jetstream()
    config = ConsumerConfig(name="audit", ack_policy=AckPolicy.NONE, mem_storage=True, headers_only=True)
    left = (await js.add_consumer(streams.EVENTS, config)).num_pending or 0
    subscription = await js.pull_subscribe_bind(config.name, stream=streams.EVENTS)
    found: list[tuple[str, str]] = []
    while len(found) < left:
        messages = await subscription.fetch(min(BATCH, left - len(found)), timeout=30)
        found += [(each.subject, unquote((each.headers or {})["ce-id"])) for each in messages]
    await client.close()
    return found


def _expected(tape: Tape, run_id: str, gates: int) -> set[str]:
    played = (each for part in (tape.opening, *tape.gates[:gates]) for each in tape.of(run_id, part))
    return {unquote(each.headers["ce-id"]) for each in played}


def _journal(bundle: Path) -> list[str]:
    """Ids of the events in a run's file, in order."""
    path = Bundle(bundle, "").events
    if not path.is_file():
        return []
    with path.open(encoding="utf-8") as lines:
        return [from_json(line)["id"] for line in lines]
