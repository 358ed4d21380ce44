"""Whatever is published, by whomever: the next run is served, and no service dies of it again and again.

A handler that fails makes a dead letter. What runs beside the handlers, and what is read at a start, has
nobody to catch it: that is what is held here against messages that are valid and absurd.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given

from services.bundles.run import state_of
from services.commands.terminal.view import view
from services.commands.watching.render import line, progress_line
from services.gatekeeper.keeper import Keeper
from services.monitor.core.chunks import Chunks
from services.monitor.gpus import Nvml
from services.monitor.watch import MOST_NOTED, Deps, check_freshness, watch_progress
from services.reporter.core.notices import Place, notice
from services.reporter.core.page.fold import PageFold
from services.reporter.core.page.listing import Listing
from services.reporter.core.story import tell
from services.reporter.page.lines import plain
from services.trainer.core import ledger
from services.trainer.inventory import Inventory
from services.trainer.trainer import Trainer
from shared.bundle import Bundle
from shared.bus.jetstream import JetStreamBus
from shared.bus.memory import MemoryBus
from shared.errors import BundleError, Reject
from shared.events import Event, GateDecided, Message, OperatorRequested, RunStarted, StopChunk, TrainProgress
from shared.service import App, Jobs, Runs, serve
from shared.settings import Settings
from tests.conftest import NatsServer
from tests.fuzz.absurd import NOON, ORDINARY, OTHER_RUN, histories, recorded
from tests.fuzz.effort import tries
from tests.messages import progress
from tests.unit.gatekeeper.story import RUN_ID, chunk_started, run_spec

NEXT = "20261121_130000"
thoroughly = tries()


def asked(request: Any, **arguments: Any) -> OperatorRequested:
    """What the gatekeeper never wrote down."""
    return OperatorRequested(run_id=RUN_ID, request=request, request_id="x", arguments=arguments)


def first_gate(**changes: Any) -> list[Message]:
    """The ordinary run up to its first gate, which decided something else."""
    at, gate = next((at, each) for at, each in enumerate(ORDINARY) if isinstance(each, GateDecided))
    return [*ORDINARY[:at], gate.model_copy(update=changes), *ORDINARY[at + 1 : at + 3]]


@thoroughly
@example(first_gate(decision="stop"))
@example(first_gate(decision_on_resume="stop"))
@example([*ORDINARY[:4], progress(ORDINARY[0].run_id, stage="video_tokenizer", eta_sec=1.7e308)])
@example([asked("start_run", spec={}), *ORDINARY[1:9]])
@example([*ORDINARY[:5], asked("stop_run", spec=[]), asked("retune_run", stage=[1], changes={"a": 1})])
@given(histories(ORDINARY))
def test_what_is_told_of_a_run_can_always_be_folded_and_shown(messages: list[Message]) -> None:
    records = recorded(messages)
    page, listing = PageFold(RUN_ID), Listing()
    for record in records:
        page.take(record)
        listing.take(record)
        notice(record.message, records, Place("/runs", None))
        line(record)
        if isinstance(record.message, TrainProgress):
            progress_line(record.message)
    json.loads(plain(page.patch(NOON.timestamp())), parse_constant=pytest.fail)  # browsers know no NaN
    shown = page.page(NOON.timestamp(), live=True)
    json.loads(plain(shown), parse_constant=pytest.fail)
    view(shown, {}, width=100)
    tell(records)
    Chunks().fold_all(records)
    ledger.fold(records).unfinished()
    with contextlib.suppress(BundleError):
        state_of([record for record in records if isinstance(record.message, Event)])


@thoroughly
@example(first_gate(decision_on_resume="stop"))
@given(histories(ORDINARY))
def test_the_next_run_gets_its_turn_whatever_is_said_of_the_one_before(messages: list[Message]) -> None:
    async def live() -> None:
        bus = MemoryBus("gatekeeper")
        for message in messages:
            await bus.publish(message)
        spec = run_spec().model_dump(mode="json")
        asked = OperatorRequested(run_id=NEXT, request="start_run", request_id="1", arguments={"spec": spec})
        await bus.publish(asked)
        keeper = Keeper(bus, lambda: 0.0)
        async with at_work(keeper.follow, keeper.work):
            async with asyncio.timeout(60):
                async for record in bus.follow(run_id=NEXT):
                    if record.message.name in ("run_queued", "run_started"):
                        return

    asyncio.run(live())


@contextlib.asynccontextmanager
async def at_work(*work: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Work goes on beside the block; what it raises ends the block."""

    async def awaited(each: Callable[[], Awaitable[None]]) -> None:
        await each()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(awaited(each)) for each in work]
        yield
        for task in tasks:
            task.cancel()


def monitor(bus: MemoryBus, tmp_path: Path) -> Deps:
    config = Settings(state_dir=tmp_path / "state", output_root=tmp_path / "runs")
    return Deps(bus, Runs(bus, config), Chunks(), Nvml(), clock=NOON.timestamp, since=NOON.timestamp())


async def test_a_chunk_that_cannot_be_looked_at_leaves_the_others_watched(tmp_path: Path) -> None:
    started = next(each for each in ORDINARY if each.name == "chunk_started").model_dump()
    plan: dict[str, Any] = started["plan"]
    bus = MemoryBus("monitor")
    deps = monitor(bus, tmp_path)
    begun = RunStarted(run_id=RUN_ID, spec=run_spec())
    await bus.publish(begun)
    await bus.publish(begun.model_copy(update={"run_id": NEXT}))
    cls = type(next(each for each in ORDINARY if each.name == "chunk_started"))
    for changes in (
        {"run_id": OTHER_RUN},
        {"run_id": NEXT, "plan": plan | {"parameters": {"nnodes": 10**9}}},
        {},
    ):
        deps.chunks.fold(cls.model_validate(started | changes), NOON.timestamp() - 86_400)
    await check_freshness(deps)
    assert set(deps.unwatched) == {(OTHER_RUN, plan["stage"], 1), (NEXT, plan["stage"], 1)}
    alerts = [record.message for record in await bus.events(name="alert_raised")]
    assert {alert.run_id for alert in alerts} == {RUN_ID}


async def test_news_of_chunks_that_never_were_are_not_kept_without_bound(tmp_path: Path) -> None:
    bus = MemoryBus("monitor")
    deps = monitor(bus, tmp_path)
    many = 3 * MOST_NOTED
    async with at_work(lambda: watch_progress(deps)):
        while not bus.broker.listeners:  # noqa: ASYNC110 - a list fills
            await asyncio.sleep(0)
        for attempt in range(many):
            await bus.publish(progress(OTHER_RUN, attempt=attempt))
        while len(deps.progress) < many:  # noqa: ASYNC110 - a dictionary fills
            await asyncio.sleep(0)
    await check_freshness(deps)
    assert not deps.progress


@pytest.mark.parametrize(
    ("policy", "parameters"), [({"trainer": {"keep_last": "many"}}, None), ({}, {"batch_size_per_gpu": -1})]
)
async def test_a_plan_that_cannot_be_trained_is_refused_not_begun_again_and_again(
    policy: dict[str, Any], parameters: Any, tmp_path: Path
) -> None:
    config = Settings(state_dir=tmp_path / "state", output_root=tmp_path / "runs")
    bus = MemoryBus("trainer")
    spec = run_spec().model_copy(update={"policy": policy})
    started: Any = next(each for each in ORDINARY if each.name == "chunk_started")
    plan = started.plan if parameters is None else started.plan.model_copy(update={"parameters": parameters})
    await bus.publish(RunStarted(run_id=RUN_ID, spec=spec))
    await bus.publish(chunk_started(plan))
    jobs = Jobs(bus)
    trainer = Trainer(bus, config, ledger.fold(await bus.events()), jobs)
    with pytest.raises(Reject, match="cannot be trained"):
        await trainer.take(RUN_ID, plan, "a job")
    watching = asyncio.create_task(trainer.watch())
    done, _ = await asyncio.wait({watching}, timeout=0.3)
    assert not done, "it ended, and would as often as it is started"
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert not jobs.running


async def test_a_checkpoint_behind_a_link_out_of_the_bundle_is_no_checkpoint_of_the_run(
    tmp_path: Path,
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    bundle = Bundle(tmp_path / "runs" / RUN_ID, "2026_11_21_12_00_00_pong")
    folder = bundle.checkpoints("dynamics")
    folder.mkdir(parents=True)
    (folder / "dynamics_step_9").symlink_to(outside)
    inventory = Inventory()
    (found,) = await inventory.look(bundle, "dynamics")
    assert not found.valid
    assert "leads out of" in str(found.problem) or "outside the bundle" in str(found.problem)
    await inventory.delete(bundle, [found.path])
    assert (outside / "kept").exists()


HUGE = 5_000_000
ARRIVALS: dict[str, tuple[str, bytes, dict[str, str] | None]] = {
    "a name of megabytes": (f"{RUN_ID}.command.trainer.stop", json.dumps({"a" * HUGE: 1}).encode(), None),
    "the largest message": (f"{RUN_ID}.command.trainer.stop", b"x" * (8 * 2**20 - 200), None),
    "many headers": (f"{RUN_ID}.command.trainer.stop", b"y", {f"h{n}": "y" * 900 for n in range(60)}),
    "a long subject": (f"{RUN_ID}.command.trainer.{'z' * 3900}", b"x", None),
    "a long run": (f"{'r' * 3900}.command.trainer.stop", b"x", None),
}


async def test_whatever_cannot_be_read_fits_into_a_dead_letter(
    fresh_nats_server: NatsServer, tmp_path: Path
) -> None:
    async def stop(_: StopChunk, __: None) -> list[Message]:
        return []

    bus = await JetStreamBus.connect(fresh_nats_server.url, source="trainer")
    app: App[None] = App("trainer", None, {StopChunk: stop})
    async with at_work(lambda: serve(app, bus, Settings(state_dir=tmp_path))):
        outsider = await JetStreamBus.connect(fresh_nats_server.url, source="cli")
        for subject, data, headers in ARRIVALS.values():
            await outsider._connection.js.publish(f"worldloop.{subject}", data, headers=headers)
        async with asyncio.timeout(60):
            while len(letters := await outsider.dead_letters()) < len(ARRIVALS):  # noqa: ASYNC110 - a stream
                await asyncio.sleep(0.02)
        assert all(letter.reason for letter in letters)
        await outsider.close()
    await bus.close()
