"""Writes a run's reports in processes that are killed, one in the middle of each kind. Run by a test.

Each process takes the command as it comes again after the death of the one before it. Prints the deaths, or
what was wrong after one.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path

from services.reporter.handlers import Deps, write_reports
from shared.bundle import Bundle
from shared.bus.memory import MemoryBus
from shared.events import Message, ReportWritten, WriteReports
from shared.service import Runs
from shared.settings import Settings
from tests.unit.reporter.conftest import NAME, RUN, Log

REPORTS = {
    "loop": "auto-training-loop-report-",
    "git": "-git-evidence-",
    "wandb": "wandb-analysis-",
    "retrospective": "train-to-inference-retrospective-",
    "inference": "train-to-inference-report-",
}
"""Kind -> what the names of its files have in common."""
COMMAND = WriteReports(
    run_id=RUN, kinds=list(REPORTS), outcome="passed", reason="the inference gate passed", degraded=False
)


async def handled(bus: MemoryBus) -> list[Message]:
    """What a reporter answers to the command."""
    return await write_reports(COMMAND, Deps(bus, Runs(bus, Settings())))


def begun(root: Path) -> MemoryBus:
    """The bus of a run that waits for its reports."""
    log = Log(Bundle(root, NAME))
    log.begin(policy={"reporter": {"history_repo": str(root.parent), "wandb_source": "local_only"}})
    log.chunk(1, 0, 50).chunk(2, 50, 100).inference()
    bus = MemoryBus("gatekeeper")

    async def publish() -> None:
        for record in log.records:
            await bus.publish(record.message)

    asyncio.run(publish())
    return bus


def die_in(name: str) -> None:
    """Have this process killed when half of a report of that name is on the disk."""
    whole = os.fsync

    def half(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink().name
        if name in path and ".md" in path:
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        whole(descriptor)

    os.fsync = half


def killed(bus: MemoryBus, name: str) -> bool:
    """Work on the command in a process of its own; whether that was killed."""
    child = os.fork()
    if child == 0:
        die_in(name)
        asyncio.run(handled(bus))
        os._exit(0)
    return os.waitpid(child, 0)[1] == signal.SIGKILL


def visible(root: Path) -> dict[str, bytes]:
    """The reports and their data, as people see them."""
    folder = root / "docs" / "action"
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def deaths(place: Path) -> int:
    """Die once in each kind, then write all; how many deaths there were."""
    root = place / RUN
    bus = begun(root)
    asyncio.run(handled(bus))
    expected = visible(root)
    shutil.rmtree(root / "docs")
    for kind, name in REPORTS.items():
        assert killed(bus, name), f"{kind}: it lived on"
        found = visible(root)
        assert found.items() <= expected.items(), f"{kind}: half a file is left"
        assert not any(name in path for path in found if path.endswith(".md")), f"{kind}: it was written"
    answers = asyncio.run(handled(bus))
    assert visible(root) == expected, "the reports are not what an undisturbed reporter writes"
    told = [answer.report for answer in answers if isinstance(answer, ReportWritten) and answer.ok]
    assert sorted(told) == sorted(REPORTS), told
    for answer in answers[:2]:  # the next one died between its answers
        asyncio.run(bus.publish(answer))
    rest = asyncio.run(handled(bus))
    assert [answer.id for answer in rest] == [answer.id for answer in answers[2:]], rest
    return len(REPORTS)


if __name__ == "__main__":
    print(deaths(Path(sys.argv[1])))
