"""The events of one run, recorded once and played as those of many."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nats

from shared.bus.wire import Envelope, encode
from shared.events import RunSpec
from tests.unit.gatekeeper.story import HEALTHY, RUN_ID, Story, chunk_done, chunk_started, only

CHUNK = 10
"""Updates to a gate."""
GATE_SEC = 60.0
"""Between two gates of a played run."""
IN_FLIGHT = 500
"""Events that are published before their answers are waited for."""
KEPT = 5
"""Checkpoints that a chunk's end lists."""


@dataclass(frozen=True, slots=True)
class Tape:
    """One run, cut at its gates."""

    bundles: Path
    opening: list[Envelope]
    """Until its first chunk has started."""
    gates: list[list[Envelope]]
    """Of each gate: the chunk's end, the evidence, the decision, and the start of the next chunk."""

    @classmethod
    def recorded(cls, bundles: Path, gates: int) -> Tape:
        """A healthy run of so many gates, that goes on.

        Args:
            bundles: Where the bundles of those that are played are said to lie.
            gates: How many.
        """
        story = Story(spec(bundles / RUN_ID, gates + 2)).start().settle()
        marks, lineage = list[int](), dict[int, bool]()
        for number in range(gates + 1):
            chunk = story.state.chunk
            assert chunk is not None
            story.record(chunk_started(chunk.plan, HEALTHY))
            marks.append(len(story.log))
            if number < gates:
                target = chunk.plan.target_step
                lineage = dict([*lineage.items(), (target, True)][-KEPT:])
                story.record(chunk_done(chunk.plan, HEALTHY, target, lineage))
                story.measure(chunk.plan, HEALTHY).settle()
        sent = [encode(each.message, source="/worldloop/script", time=each.time) for each in story.log]
        return cls(bundles, sent[: marks[0]], [sent[a:b] for a, b in itertools.pairwise(marks)])

    def of(self, run_id: str, envelopes: Sequence[Envelope]) -> Iterator[Envelope]:
        """The same events, of another run."""
        old, new = RUN_ID.encode(), run_id.encode()
        for each in envelopes:
            headers = each.headers | {"ce-id": each.headers["ce-id"].replace(RUN_ID, run_id)}
            yield Envelope(each.subject.replace(RUN_ID, run_id), each.data.replace(old, new), headers)


def spec(bundle: Path, gates: int) -> RunSpec:
    """A run of one stage with a gate every `CHUNK` updates."""
    found = only("video_tokenizer", config={"video_tokenizer": {"n_updates": CHUNK * gates}})
    policy = {"gatekeeper": {"chunk": {"video_tokenizer": CHUNK}, "absolute_loss_from": 1.0}}
    return found.model_copy(update={"bundle": str(bundle), "policy": policy})


async def preload(url: str, tape: Tape, runs: Sequence[str], gates: int) -> int:
    """Store the past of all runs as it came: gate by gate, one run after the other.

    Returns:
        Events stored.
    """
    client = await nats.connect(url)
    js = client.jetstream(publish_async_max_pending=IN_FLIGHT)
    for run_id in runs:
        (tape.bundles / run_id).mkdir(parents=True)
    stored = 0
    for part in (tape.opening, *tape.gates[:gates]):
        answers = [await _store(js, each) for run_id in runs for each in tape.of(run_id, part)]
        await asyncio.gather(*answers)
        stored += len(answers)
    await client.close()
    return stored


async def play_on(url: str, tape: Tape, runs: Sequence[str], begin: int, until: float) -> int:
    """The played runs go on, each with a gate every `GATE_SEC`, evenly spread.

    Args:
        url: The server.
        tape: What happens.
        runs: To whom.
        begin: The first gate that is played.
        until: Monotonic time of the end.

    Returns:
        Gates played, of all runs.
    """
    client = await nats.connect(url)
    js = client.jetstream(publish_async_max_pending=IN_FLIGHT)
    began, played = time.monotonic(), 0
    while time.monotonic() < until:
        due = int((time.monotonic() - began) * len(runs) / GATE_SEC)
        while played < due and time.monotonic() < until:
            gate, run = divmod(played, len(runs))
            for each in tape.of(runs[run], tape.gates[begin + gate]):
                await (await _store(js, each))
            played += 1
        await asyncio.sleep(0.05)
    await client.close()
    return played


async def _store(js: Any, each: Envelope) -> asyncio.Future[Any]:
    """Publish without waiting for the answer."""
    headers = each.headers | {"Nats-Msg-Id": each.headers["ce-id"]}
    found: asyncio.Future[Any] = await js.publish_async(each.subject, each.data, headers=headers)
    return found
