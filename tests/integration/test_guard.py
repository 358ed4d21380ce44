"""The guard among real process trees: who is ended, who is left alone, and what is said about it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from structlog.testing import capture_logs

from services.trainer import gpu_memory, processes
from services.trainer.chunk import Chunk
from services.trainer.config import Policy
from services.trainer.crew import Crew
from services.trainer.guard import Guard, Swept
from services.trainer.wire import Run
from shared.bundle import Bundle
from shared.bus.memory import MemoryBus
from shared.events import CheckoutSpec, LauncherKilled
from shared.settings import Settings
from tests import needs
from tests.integration.stand import RUN, plan
from tests.messages import run_spec

NOBODY = 65534
SCRIPT = """
import os, signal, sys, time
if "stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "nobody" in sys.argv:
    os.setuid(65534)
if "elsewhere" in sys.argv:
    os.chroot(os.path.join(os.path.dirname(__file__), "..", "jail"))
print(os.getpid(), flush=True)
time.sleep(600)
"""
TORCHRUN = """
import subprocess, sys
program = [word for word in sys.argv[1:] if not word.startswith("--")]
ranks = [subprocess.Popen([sys.executable, "-S", *program]) for _ in range(2)]
for rank in ranks:
    rank.wait()
"""
"""Starts two ranks and waits, as the real one does."""
SWEEPS = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from services.trainer.guard import Guard, Swept
sweep = Guard(Path("state")).sweep(
    "20250101_000000", current=None, checkout=Path.cwd(), why="", end=True, grace_sec=20
)
assert asyncio.run(sweep) == Swept()
print("lives")
"""
STAGE_SCRIPT = "scripts/train_video_tokenizer.py"


class Checkout:
    """A directory with a stage's script and a torchrun, in which launchers are started."""

    def __init__(self, root: Path) -> None:
        self.root, self.started = root, list[subprocess.Popen[bytes]]()
        self.known: set[psutil.Process] = set()
        (root / "jail").mkdir(parents=True)
        for path, text in (
            (STAGE_SCRIPT, SCRIPT),
            ("tools/train_video_tokenizer.py", SCRIPT),
            ("bin/torchrun", TORCHRUN),
        ):
            (root / path).parent.mkdir()
            (root / path).write_text(text)

    def start(self, *words: str, up: int = 1, cwd: Path | None = None, **marks: str) -> list[psutil.Process]:
        """Start Python with these words; once `up` processes told their pids: the one started, then those."""
        process = subprocess.Popen(
            [sys.executable, "-S", *words],
            cwd=cwd or self.root,
            env={"PATH": os.environ["PATH"], **marks},
            stdout=subprocess.PIPE,
        )
        self.started.append(process)
        assert process.stdout is not None
        told = [psutil.Process(int(process.stdout.readline())) for _ in range(up)]
        first = psutil.Process(process.pid)
        self.known |= {first, *told}
        return [first, *(each for each in told if each != first)]

    def by_torchrun(self, **marks: str) -> list[psutil.Process]:
        words = str(self.root / "bin/torchrun"), "--standalone", STAGE_SCRIPT
        return self.start(*words, up=2, cwd=self.root, **marks)

    def edit(self) -> psutil.Process:
        """Start a program that has the script open and named in its command line."""
        return self._program("tail", "-f", STAGE_SCRIPT)

    def sleep(self) -> psutil.Process:
        return self._program("sleep", "600")

    def _program(self, *words: str) -> psutil.Process:
        process = subprocess.Popen(words, cwd=self.root, stdout=subprocess.PIPE)
        self.started.append(process)
        self.known.add(psutil.Process(process.pid))
        return psutil.Process(process.pid)

    def end(self) -> None:
        for each in self.known:
            if each.is_running():
                each.kill()
        for process in self.started:
            process.communicate(timeout=60)


@pytest.fixture
def checkouts(tmp_path: Path) -> Iterator[Callable[[str], Checkout]]:
    made: list[Checkout] = []

    def make(name: str) -> Checkout:
        made.append(Checkout(tmp_path / name))
        return made[-1]

    yield make
    for checkout in made:
        checkout.end()


@pytest.fixture
def mine(checkouts: Callable[[str], Checkout]) -> Checkout:
    return checkouts("mine")


@pytest.fixture
def guard(tmp_path: Path) -> Guard:
    (tmp_path / "state").mkdir()
    return Guard(tmp_path / "state")


async def sweep(guard: Guard, **given: Any) -> Swept:
    defaults = {"current": None, "checkout": None, "why": "in the way", "end": True, "grace_sec": 20.0}
    return await guard.sweep(RUN, **(defaults | given))


def about(logs: list[Any], *members: psutil.Process) -> list[Any]:
    """What was said about these; other tests on this machine have launchers too."""
    return [said for said in logs if said["pid"] in {each.pid for each in members}]


def alive(*members: psutil.Process) -> list[bool]:
    return [processes.lives(each) for each in members]


async def test_the_ranks_of_a_killed_launcher_are_ended(mine: Checkout, guard: Guard, tmp_path: Path) -> None:
    marks = {"WORLDLOOP_STACK": str(tmp_path / "state"), "WORLDLOOP_RUN": "20250101_000000"}
    launcher, *ranks = mine.by_torchrun(**marks)
    launcher.kill()  # a zombie, as nobody waits for it
    swept = await sweep(guard)
    assert {event.pid for event in swept.events} == swept.pids == {rank.pid for rank in ranks}
    assert {event.run_id for event in swept.events} == {"20250101_000000"}, "the run that they bear"
    assert alive(*ranks) == [False, False]


async def test_a_launcher_started_by_hand_in_the_checkout_is_ended_with_its_ranks(
    mine: Checkout, guard: Guard
) -> None:
    members = mine.by_torchrun()
    assert (await sweep(guard)).events == [], "no checkout, no claim on it"
    assert alive(*members) == [True] * 3
    swept = await sweep(guard, checkout=mine.root)
    (event,) = swept.events
    assert (event.pid, event.run_id, event.why) == (members[0].pid, RUN, "in the way")
    assert event.command_line.endswith(f"torchrun --standalone {STAGE_SCRIPT}")
    assert swept.pids == {each.pid for each in members}
    assert alive(*members) == [False] * 3


async def test_a_script_of_the_checkout_is_found_however_it_is_named(
    mine: Checkout, guard: Guard, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(mine.root)
    inside = mine.start("train_video_tokenizer.py", cwd=mine.root / "scripts")
    through_a_link = mine.start(str(tmp_path / "link" / STAGE_SCRIPT), cwd=tmp_path)
    swept = await sweep(guard, checkout=tmp_path / "link")
    assert {event.pid for event in swept.events} == {each.pid for each in (*inside, *through_a_link)}


async def test_a_launcher_in_another_checkout_is_left_alone_and_reported_once(
    mine: Checkout, checkouts: Callable[[str], Checkout], guard: Guard
) -> None:
    other = checkouts("another")
    members = other.by_torchrun()
    with capture_logs() as logs:
        for _ in range(2):
            assert await sweep(guard, checkout=mine.root) == Swept()
    assert alive(*members) == [True] * 3
    (said,) = about(logs, *members)
    assert (said["log_level"], said["pid"], said["directory"]) == ("warning", members[0].pid, str(other.root))
    assert "left alone" in said["event"]


async def test_the_launcher_of_another_user_is_left_alone_and_reported(
    mine: Checkout, guard: Guard, tmp_path: Path
) -> None:
    needs.root()
    (stranger,) = mine.start(STAGE_SCRIPT, "nobody", WORLDLOOP_STACK=str(tmp_path / "state"))
    assert stranger.uids().real == NOBODY
    with capture_logs() as logs:
        assert await sweep(guard, checkout=mine.root) == Swept()
    assert alive(stranger) == [True]
    assert [said["same_user"] for said in about(logs, stranger)] == [False]


async def test_a_launcher_of_another_stack_is_left_alone_though_it_works_in_the_checkout(
    mine: Checkout, guard: Guard, tmp_path: Path
) -> None:
    (tmp_path / "other state").mkdir()
    members = mine.by_torchrun(WORLDLOOP_STACK=str(tmp_path / "other state"))
    assert await sweep(guard, checkout=mine.root) == Swept()
    assert alive(*members) == [True] * 3


async def test_a_stack_is_known_by_its_directory_however_that_is_named(
    mine: Checkout, guard: Guard, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "state")
    (stray,) = mine.start(STAGE_SCRIPT, WORLDLOOP_STACK=str(tmp_path / "link"))
    assert (await sweep(guard)).pids == {stray.pid}


async def test_a_stack_in_a_container_that_names_its_directory_alike_is_another(
    mine: Checkout, guard: Guard, tmp_path: Path
) -> None:
    needs.root()
    (contained,) = mine.start(STAGE_SCRIPT, "elsewhere", WORLDLOOP_STACK=str(tmp_path / "state"))
    by_hand, *_ = mine.start(str(mine.root / STAGE_SCRIPT), "elsewhere", cwd=mine.root / "..")
    assert await sweep(guard, checkout=mine.root) == Swept()
    assert alive(contained, by_hand) == [True, True]


async def test_a_launcher_in_a_checkout_that_was_deleted_is_not_taken_for_one_in_its_successor(
    mine: Checkout, checkouts: Callable[[str], Checkout], guard: Guard, tmp_path: Path
) -> None:
    (old,) = mine.start(STAGE_SCRIPT)
    shutil.rmtree(mine.root)
    successor = checkouts("mine")
    assert await sweep(guard, checkout=successor.root) == Swept()
    assert alive(old) == [True]


def test_whoever_started_the_trainer_is_never_ended(mine: Checkout) -> None:
    """A script by hand that is a launcher in the checkout, and has a stack in it."""
    (mine.root / STAGE_SCRIPT).write_text(SWEEPS)
    words = [sys.executable, STAGE_SCRIPT, str(Path(__file__).parents[2])]
    said = subprocess.run(words, cwd=mine.root, check=True, capture_output=True).stdout
    assert said.endswith(b"lives\n")


async def test_who_ignores_being_asked_is_killed(mine: Checkout, guard: Guard) -> None:
    (stubborn,) = mine.start(STAGE_SCRIPT, "stubborn")
    swept = await sweep(guard, checkout=mine.root, grace_sec=0.1)
    assert [event.pid for event in swept.events] == [stubborn.pid]
    assert mine.started[0].wait() == -signal.SIGKILL


async def test_a_stopped_launcher_is_ended_too(mine: Checkout, guard: Guard) -> None:
    (stopped,) = mine.start(STAGE_SCRIPT)
    stopped.suspend()
    assert (await sweep(guard, checkout=mine.root, grace_sec=0.1)).pids == {stopped.pid}
    assert alive(stopped) == [False]


async def test_what_only_looks_like_a_launcher_is_neither_ended_nor_reported(
    mine: Checkout, guard: Guard
) -> None:
    elsewhere = mine.start("tools/train_video_tokenizer.py")
    reads_it = mine.start("-c", SCRIPT, STAGE_SCRIPT)
    editor = mine.edit()
    with capture_logs() as logs:
        assert await sweep(guard, checkout=mine.root) == Swept()
    assert about(logs, *elsewhere, *reads_it, editor) == []
    assert alive(*elsewhere, *reads_it, editor) == [True] * 3


async def test_the_current_launcher_lives_with_its_ranks_and_one_beside_it_does_not(
    mine: Checkout, guard: Guard
) -> None:
    current, beside = mine.by_torchrun(), mine.by_torchrun()
    swept = await sweep(guard, checkout=mine.root, current=current[0].pid)
    assert swept.pids == {each.pid for each in beside}
    assert alive(*current) == [True] * 3


async def test_with_the_cleanup_off_all_are_reported_and_none_is_ended(mine: Checkout, guard: Guard) -> None:
    members = mine.by_torchrun()
    with capture_logs() as logs:
        assert await sweep(guard, checkout=mine.root, end=False) == Swept()
    assert [said["pid"] for said in about(logs, *members)] == [members[0].pid]
    assert alive(*members) == [True] * 3


async def test_a_process_that_got_the_id_of_one_that_ended_is_left_alone(mine: Checkout) -> None:
    pids = Path("/proc/sys/kernel/ns_last_pid")
    if not os.access(pids, os.W_OK):
        needs.missing("root")
    first = mine.sleep()
    first.kill()
    mine.started[0].wait()
    for _ in range(200):  # others on this machine take ids too
        pids.write_text(str(first.pid - 1))
        second = mine.sleep()
        if second.pid == first.pid and second != first:  # not within the same tick of the kernel's clock
            break
        second.kill()
        mine.started[-1].wait()
    else:
        pytest.skip("needs a machine on which fewer processes are started")
    assert processes.tree([first]) == []
    assert await processes.end([first], grace_sec=20) == []
    assert alive(first, second) == [False, True]


async def test_a_survivor_is_told_from_those_that_ended(
    mine: Checkout, guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel may hold a process: nothing a test can have it do, so here nothing is sent."""
    (held,) = mine.start(STAGE_SCRIPT)
    with monkeypatch.context() as patched, capture_logs() as logs:
        for name in ("terminate", "kill"):
            patched.setattr(psutil.Process, name, lambda _: None)
        patched.setattr(processes, "KILLED_WITHIN_SEC", 0.1)
        assert await sweep(guard, checkout=mine.root, grace_sec=0.1) == Swept()
    (said,) = about(logs, held)
    assert said["event"] == "a training launcher could not be ended"


def chunk_in(mine: Checkout, tmp_path: Path, **changes: Any) -> Chunk:
    """A chunk that the checkout trains."""
    checkout = CheckoutSpec(directory=str(mine.root), python=sys.executable)
    spec = run_spec(tmp_path / RUN, stages=["video_tokenizer"], backend="checkout", checkout=checkout)
    bundle = Bundle(tmp_path / RUN, spec.run_name)
    return Chunk(RUN, plan("video_tokenizer", 0, 4, attempt=1, **changes), spec, bundle, Policy())


async def test_the_crew_sweeps_the_runs_checkout_and_tells_the_bus(mine: Checkout, tmp_path: Path) -> None:
    bus = MemoryBus("trainer")
    crew = Crew(bus, Settings(state_dir=tmp_path / "state"))
    launcher, *_ = mine.by_torchrun()
    await crew.sweep(chunk_in(mine, tmp_path), "too many")
    told = [record.message for record in await bus.events(RUN)]
    assert [(each.pid, each.why) for each in told if isinstance(each, LauncherKilled)] == [
        (launcher.pid, "too many")
    ]


@pytest.mark.parametrize("device", ["cuda", "cpu"])
async def test_before_a_launch_on_gpus_the_memory_of_all_that_was_ended_is_seen_to_be_free(
    mine: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    order: list[object] = []

    async def freed(pids: set[int]) -> bool:
        order.append(set(pids))
        return True

    async def launch(*_: Any) -> None:
        order.append("launch")

    monkeypatch.setattr(gpu_memory, "freed", freed)
    monkeypatch.setattr(Crew, "_launch", launch)
    chunk = chunk_in(mine, tmp_path, device=device)
    crew = Crew(MemoryBus("trainer"), Settings(state_dir=tmp_path / "state"))
    members = mine.by_torchrun()
    run = Run(
        run_id=RUN, run_name=chunk.spec.run_name, bundle=chunk.spec.bundle, plan=chunk.plan, launch=1,
        resume_from=None, resume_step=0,
    )  # fmt: skip
    await crew.ready_for(chunk, run)
    ended = {each.pid for each in members}
    assert order == ([ended, "launch"] if device == "cuda" else ["launch"])
