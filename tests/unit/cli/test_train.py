"""train: everything is checked before anything starts; then the run is asked for and followed."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import Result

from services import cli
from services.commands.training.options import TrainOptions
from services.commands.training.start import create, prepare
from services.commands.training.train import new_run, recorded_in_bundle
from services.commands.watching.follow import Answer, Screen, follow
from services.commands.watching.news import from_bus
from services.commands.watching.sight import Sight
from services.reporter.core.page.fold import PageFold, fold_all
from shared.bus.memory import Broker, MemoryBus
from shared.bus.protocol import Consumer
from shared.errors import BundleError, ConfigurationError, DatasetError, UsageError
from shared.events import (
    CommandRejected,
    Event,
    OperatorRequested,
    RunFinished,
    RunStarted,
    StartRun,
    StopRun,
)

RUN = "20260102_030405"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
Invoke = Callable[..., Result]


def options(dataset: Path, **changes: object) -> TrainOptions:
    return TrainOptions(**{"profile": "demo", "dataset": str(dataset), **changes})  # type: ignore[arg-type]


# --- before anything starts -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["lerning_rate=1"], "lerning_rate: unknown key. Did you mean learning_rate?"),
        (["learning_rate=fast"], "learning_rate: 'fast' cannot be used. It should be a valid number"),
        (["dynamics.embed_dim=32"], "embed_dim: the stages must agree"),
        (["--dataset", "SONIC"], "data/sonic_frames.h5. Record one with `worldloop data record"),
        (["--profile", "dmeo"], "did you mean demo?"),
        (["--only-stage", "dynamics"], "--only-stage dynamics needs --video-checkpoint"),
        (["--train-stage", "none"], "no valid video_tokenizer checkpoint"),
        (["--resume", RUN, "--max-mse", "1"], "--resume goes on with the run's own configuration"),
        (["--device", "cuda"], "no usable GPU found"),
    ],
)
def test_what_cannot_be_used_stops_before_anything_starts(
    arguments: list[str],
    text: str,
    dataset: Path,
    worldloop: Invoke,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("services.commands.training.start.usable_gpus", lambda: 0)
    profile = [] if {"--profile", "--resume"} & set(arguments) else ["--profile", "demo"]
    given = [] if {"--dataset", "--resume"} & set(arguments) else ["--dataset", str(dataset)]
    result = worldloop("train", *profile, *given, *arguments)
    assert text in str(result.exception)
    assert not (place / "runs").exists()
    assert not (place / "state").exists()


def test_an_error_is_one_line_on_stderr_with_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["worldloop", "train", "lerning_rate=1"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr() == (
        "",
        "worldloop: command line: lerning_rate: unknown key. Did you mean learning_rate?\n",
    )


def test_the_command_line_starts_without_torch() -> None:
    code = (
        "import sys, services.cli, services.commands.training.train as t; "
        "print([m for m in ('torch', 'h5py', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


def test_a_recording_of_another_size_is_refused(dataset: Path) -> None:
    with pytest.raises(DatasetError, match="frame_size is 128"):
        prepare(options(dataset, assignments=("frame_size=128",)), gpus=0)


def test_a_missing_recording_names_the_file_that_asked_for_it(place: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"--dataset: dataset: nowhere\.h5: there is no file"):
        prepare(TrainOptions(profile="demo", dataset="nowhere.h5"), gpus=0)


def test_the_run_is_resolved_to_what_this_machine_has(dataset: Path) -> None:
    prepared = prepare(options(dataset, allow_single_gpu=True, device="auto"), gpus=1)
    training = prepared.resolution.run.training
    assert (training.dataset, training.device, training.nproc_per_node) == (str(dataset), "cuda", 1)
    assert prepared.resolution.run.inference.device == "cuda"
    assert prepared.resolution.origins["training.nproc_per_node"] == "--allow-single-gpu"
    assert prepared.game == "pong"


def test_the_spec_of_a_run_is_complete(dataset: Path, place: Path) -> None:
    spec = create(prepare(options(dataset), gpus=0), RUN, NOW)
    assert spec.bundle == str(place / "runs" / RUN)
    assert spec.run_name == "2026_01_02_03_04_05_pong"
    assert spec.stages == ["video_tokenizer", "latent_actions", "dynamics"]
    assert set(spec.policy) == {"gatekeeper", "trainer", "monitor", "inference", "reporter"}
    assert spec.origins["training.dataset"] == "--dataset"


def test_a_bundle_root_that_holds_a_run_is_refused(
    dataset: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUN_BUNDLE_ROOT", str(place / "mine"))
    prepared = prepare(options(dataset), gpus=0)
    assert create(prepared, RUN, NOW).bundle == str(place / "mine")
    (place / "mine" / "Logs").mkdir()
    (place / "mine" / "Logs" / "events.jsonl").touch()
    with pytest.raises(BundleError, match="holds a run already"):
        create(prepared, RUN, NOW)


async def test_a_run_id_that_a_bundle_or_the_stream_has_is_not_taken_again(
    dataset: Path, place: Path
) -> None:
    bus = MemoryBus()
    prepared = prepare(options(dataset), gpus=0)
    (place / "runs" / RUN).mkdir(parents=True)
    await bus.publish(RunFinished(run_id=f"{RUN}_2", status="failed", degraded=False, reason=""))
    command = await new_run(bus, prepared, NOW)
    assert command.run_id == f"{RUN}_3"
    assert (place / "runs" / f"{RUN}_3").is_dir()


# --- while it goes ----------------------------------------------------------------------------------------


async def gatekeeper(broker: Broker, *, status: str = "passed", refuse: str | None = None) -> StartRun:
    """Takes one start_run, and the run with it to its end (or refuses it)."""
    bus = MemoryBus("gatekeeper", broker=broker)
    async for delivery in bus.subscribe(Consumer("gatekeeper", "command")):
        command = delivery.message()
        await delivery.ack()
        assert isinstance(command, StartRun)
        run, request = command.run_id, command.request_id
        if refuse is not None:
            await bus.publish(
                CommandRejected(run_id=run, request="start_run", request_id=request, reason=refuse)
            )
        else:
            await bus.publish(OperatorRequested(run_id=run, request="start_run", request_id=request))
            await bus.publish(RunStarted(run_id=run, spec=command.spec))
            finished = {"run_id": run, "status": status, "degraded": False, "reason": "as it went"}
            await bus.publish(RunFinished.model_validate(finished))
        return command
    raise AssertionError


@pytest.mark.parametrize(
    ("status", "code"), [("passed", 0), ("stage_completed", 0), ("failed", 1), ("stopped", 1)]
)
def test_train_asks_for_a_run_and_follows_it_to_its_end(
    status: str, code: int, server: Broker, dataset: Path, worldloop: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_gatekeeper(monkeypatch, server, status=status)
    result = worldloop("train", "--profile", "demo", "--dataset", str(dataset), "--device", "cpu", "--json")
    assert result.exit_code == code
    summary = json.loads(result.stdout)
    assert summary["run"]["status"] == status
    assert f"finished: {status} - as it went" in result.stderr
    assert f"Bundle: {summary['bundle']}" in result.stderr


def test_a_refused_run_is_bad_usage(
    server: Broker, dataset: Path, worldloop: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_gatekeeper(monkeypatch, server, refuse="no room")
    result = worldloop("train", "--profile", "demo", "--dataset", str(dataset), "--device", "cpu")
    assert isinstance(result.exception, UsageError)
    assert "no room" in str(result.exception)


def with_gatekeeper(
    monkeypatch: pytest.MonkeyPatch, broker: Broker, *, status: str = "passed", refuse: str | None = None
) -> None:
    """Let a gatekeeper work beside the command, in its event loop."""
    from services.commands.training import train

    ask_and_follow = train.ask_and_follow

    async def beside(*arguments: object) -> tuple[PageFold, bool]:
        service = asyncio.create_task(gatekeeper(broker, status=status, refuse=refuse))
        try:
            return await ask_and_follow(*arguments)  # type: ignore[arg-type]
        finally:
            await service

    monkeypatch.setattr(train, "ask_and_follow", beside)


async def followed(
    broker: Broker, *answers: Answer, story: list[Event]
) -> tuple[PageFold, bool, list[StopRun]]:
    """Follow the story's run while Ctrl-C comes once per answer, before its last event."""
    bus = MemoryBus(broker=broker)
    for event in story[:-1]:
        await bus.publish(event)
    interrupted = asyncio.Event()
    left = list(answers)

    async def ask() -> Answer:
        answer = left.pop(0)
        if left:
            interrupted.set()
        elif answer != "detach":
            asyncio.get_running_loop().call_soon(lambda: asyncio.ensure_future(bus.publish(story[-1])))
        return answer

    interrupted.set()
    fold = PageFold(RUN)
    screen = Screen(Console(stderr=True), Sight(fold, None, live=True))

    async def stop() -> None:
        await bus.publish(StopRun(run_id=RUN, request_id="r"))

    news = from_bus(bus, RUN, after=0)
    gone = await asyncio.wait_for(follow(news, fold, screen, interrupted=interrupted, ask=ask, stop=stop), 60)
    queued = broker.queues.get(("gatekeeper", "gatekeeper-commands"), [])
    return fold, gone, [StopRun.model_validate_json(item.envelope.data) for item in queued]


async def test_a_run_whose_bundle_the_services_keep_elsewhere_leaves_no_empty_directory_here(
    broker: Broker, story: list[Event], tmp_path: Path
) -> None:
    bus, elsewhere = MemoryBus(broker=broker), tmp_path / RUN
    for event in story:
        moved = event
        if isinstance(event, RunStarted):
            spec = event.spec.model_copy(update={"bundle": str(elsewhere)})
            moved = event.model_copy(update={"spec": spec})
        await bus.publish(moved)
    fold = fold_all(RUN, await bus.events(RUN))
    elsewhere.mkdir()
    assert await recorded_in_bundle(bus, fold)
    assert not elsewhere.exists()


async def test_ctrl_c_and_detach_leaves_the_run_alone(broker: Broker, story: list[Event]) -> None:
    _, gone, stops = await followed(broker, "detach", story=story)
    assert gone
    assert stops == []


async def test_ctrl_c_and_stop_asks_the_gatekeeper_and_waits_for_the_end(
    broker: Broker, story: list[Event]
) -> None:
    fold, gone, stops = await followed(broker, "stop", story=story)
    assert not gone
    assert fold.ended
    assert [stop.run_id for stop in stops] == [RUN]


async def test_ctrl_c_by_mistake_goes_on(broker: Broker, story: list[Event]) -> None:
    fold, gone, stops = await followed(broker, "go on", "go on", story=story)
    assert not gone
    assert fold.ended
    assert stops == []
