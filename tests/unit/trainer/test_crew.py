"""Which group a plan is given to."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from services.trainer.config import Policy
from services.trainer.core.groups import requirements
from services.trainer.crew import AnyGroup, Crew
from services.trainer.guard import Guard, Swept
from services.trainer.wire import Run
from shared.bus.memory import MemoryBus
from shared.settings import Settings
from tests.integration.stand import RUN, Stand, plan


class Group:
    """Takes its time to end."""

    alive, pid, exit_code = True, 1, 0

    def __init__(self, run: Run) -> None:
        self.requirements = requirements(run.run_id, run.plan)
        self.asked, self.may_end = asyncio.Event(), asyncio.Event()

    async def end(self, exit_grace_sec: float | None = None) -> set[int]:
        self.asked.set()
        await self.may_end.wait()
        return {self.pid}


async def test_a_group_that_is_being_ended_takes_no_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nobody(*_: Any, **__: Any) -> Swept:
        return Swept()

    monkeypatch.setattr(Guard, "sweep", nobody)
    stand = Stand(tmp_path, {}, MemoryBus())
    wanted = plan("video_tokenizer", 0, 4, attempt=1)
    run = Run(
        run_id=RUN, run_name=stand.bundle.run_name, bundle=str(stand.bundle.root), plan=wanted, launch=1,
        resume_from=None, resume_step=0,
    )  # fmt: skip
    chunk: Any = SimpleNamespace(
        run_id=RUN, policy=Policy(), spec=SimpleNamespace(checkout=None), bundle=stand.bundle,
        config=SimpleNamespace(device="cpu"),
    )  # fmt: skip
    crew, old, new = Crew(MemoryBus(), Settings(state_dir=tmp_path)), Group(run), Group(run)

    async def launch(*_: Any) -> AnyGroup:
        return cast("AnyGroup", new)

    monkeypatch.setattr(crew, "_launch", launch)
    crew.group = cast("AnyGroup", old)
    ending = asyncio.create_task(crew.end())
    await old.asked.wait()
    asking = asyncio.create_task(crew.ready_for(chunk, run))
    await asyncio.sleep(0)
    old.may_end.set()
    group, warm = await asking
    assert (cast("object", group), warm) == (new, False)
    await ending
