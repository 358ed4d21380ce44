"""The training process group: launched, given plans, heard, ended."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import secrets
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import structlog

import services
from services.trainer import processes
from services.trainer.config import Policy
from services.trainer.core.groups import requirements
from services.trainer.core.launch import command, device, local_ranks, world_size
from services.trainer.launcher import Launched, Launcher, launch, scratch_for
from services.trainer.meeting import interfaces, meeting_of
from services.trainer.wire import (
    CACHE,
    CONTROL,
    DEVICE,
    REPORT,
    Exit,
    Finished,
    Hello,
    Order,
    Progress,
    Ready,
    Report,
    Run,
    Saved,
    Stop,
    line,
)
from shared.config import StageConfig
from shared.settings import Settings

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

PARTING_SEC = 10.0
"""How long ranks may take to notice that those of another host are gone."""
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Gone:
    """The group did not finish its plan."""

    hung: bool
    """It lived, but its step did not advance, or it had lost another host's part."""
    exit_code: int | None
    stderr: str
    """The end of what it wrote since the plan began."""
    misjudged: bool = False
    """A checkout's script counts its updates another way than was thought; that is known now."""


class Group(Launcher):
    """One launcher and its ranks on this host. Make it with `launch`; after `Gone` or `end` it is used up."""

    def __init__(self, run: Run, policy: Policy, launched: Launched) -> None:
        super().__init__(run, policy, launched)
        self.requirements = requirements(run.run_id, run.plan)
        self.world_size = world_size(StageConfig.recorded(run.plan.parameters))
        self._listening: asyncio.Task[None] | None = None
        self._server: asyncio.Server | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._waiting: list[Order] = []
        self._reports: asyncio.Queue[Report | None] = asyncio.Queue()
        """What rank 0 says; None once another host's part is gone."""
        self._members: list[psutil.Process] = []

    @classmethod
    async def launch(cls, run: Run, policy: Policy, settings: Settings, log_file: Path) -> Group:
        """Start the processes for a plan; returns as soon as the launcher has a pid.

        Args:
            run: The first plan, not handed over yet.
            policy: The run's.
            settings: Of this service.
            log_file: Where launcher and ranks write.

        Raises:
            OSError: The launcher could not be started.
            ConfigurationError: The plan's `rdzv_endpoint` cannot be used from this host.
        """
        config = StageConfig.recorded(run.plan.parameters)
        meeting, ranks = await meeting_of(run, config, settings.node_rank), local_ranks(config)
        token = secrets.token_hex(16)
        connected: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        server = await asyncio.start_server(lambda r, w: connected.put_nowait((r, w)), LOOPBACK, 0)
        port = server.sockets[0].getsockname()[1]
        code = str(Path(services.__file__).parents[1])
        environment = {
            **interfaces(meeting),
            CONTROL: f"{port}:{token}",
            DEVICE: device(config),
            CACHE: str(settings.cache_dir),
            "PYTHONPATH": os.pathsep.join(filter(None, (code, os.environ.get("PYTHONPATH")))),
        }
        words, scratch = command(sys.executable, ranks, meeting), scratch_for(settings)
        try:
            launched = await launch(words, run, settings, log_file, scratch, environment, ranks=ranks)
        except OSError:
            server.close()
            raise
        group = cls(run, policy, launched)
        group._server = server
        group._listening = asyncio.create_task(group._listen(connected, token))
        return group

    def hand(self, run: Run) -> None:
        """Give it a plan; `finish` waits for its end."""
        self._read_from = self._launched.log_file.stat().st_size
        self._send(run)

    def stop(self) -> None:
        """Ask it to end the plan after the current update, with a checkpoint."""
        self._send(Stop())

    def lose(self) -> None:
        """Another host's part is gone: it cannot finish, whatever it is doing."""
        self._reports.put_nowait(None)

    async def gone(self, wait_sec: float = 0.0) -> Gone:
        """How it stands, as one that does not finish.

        Args:
            wait_sec: How long its launcher may take to end by itself.
        """
        if self.alive and wait_sec > 0:
            await asyncio.wait({self._exit}, timeout=wait_sec)
        return Gone(hung=self.alive, exit_code=self.exit_code, stderr=self.stderr())

    async def finish(
        self, heard: Callable[[Progress | Saved], Awaitable[None]], *, hang_timeout_sec: float
    ) -> Finished | Gone:
        """Wait until the plan is done or the group is gone.

        Args:
            heard: Told what it reports.
            hang_timeout_sec: How long its step may stand still.
        """
        last_step, advanced = -1, time.monotonic()
        while True:
            left = advanced + hang_timeout_sec - time.monotonic()
            report = await self._next(max(left, 0.0))
            match report:
                case Finished():
                    self.idle_since = time.monotonic()
                    return report
                case Progress(step=step) | Saved(step=step):
                    if step > last_step:
                        last_step, advanced = step, time.monotonic()
                    await heard(report)
                case Ready(pids=pids):
                    self._members = processes.tree(processes.alive([self.pid, *pids]))
                case Gone():
                    return report
                case None:
                    return await self.gone(PARTING_SEC)
                case _:
                    log.warning("the training process said something out of turn", report=repr(report))

    async def end(self, exit_grace_sec: float | None = None) -> set[int]:
        """End all its processes and wait until they are gone.

        Args:
            exit_grace_sec: How long it may take to leave by itself, 0 does not ask; none is the policy's.

        Returns:
            Their pids.
        """
        if exit_grace_sec is None:
            exit_grace_sec = self.policy.exit_grace_sec
        members = self._with_all(self._members)
        if self.alive and exit_grace_sec > 0:
            self._send(Exit())
            await asyncio.wait({self._exit}, timeout=exit_grace_sec)
        if self._writer is not None:
            self._writer.close()
        await self._end(members)
        if self._listening is not None:
            self._listening.cancel()
        if self._server is not None:
            self._server.close()
        return {self.pid, *(each.pid for each in self._members), *(each.pid for each in members)}

    async def _next(self, timeout_sec: float) -> Report | Gone | None:
        if self._reports.empty():
            getting = asyncio.ensure_future(self._reports.get())
            await asyncio.wait(
                {getting, self._exit}, timeout=timeout_sec, return_when=asyncio.FIRST_COMPLETED
            )
            if getting.done():
                return getting.result()
            getting.cancel()
            return await self.gone()
        return self._reports.get_nowait()

    def _send(self, order: Order) -> None:
        if self._writer is None:
            self._waiting.append(order)
        elif not self._writer.is_closing():
            self._writer.write(line(order))

    async def _listen(
        self, connected: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]], token: str
    ) -> None:
        """Accept the host's first rank, hand over what waits, and queue what it says."""
        while True:
            reader, writer = await connected.get()
            with contextlib.suppress(ValueError, OSError):
                hello = REPORT.validate_json(await reader.readline())
                if isinstance(hello, Hello) and hmac.compare_digest(hello.token, token):
                    break
            writer.close()
        self._writer = writer
        writer.write(b"".join(line(order) for order in self._waiting))
        with contextlib.suppress(OSError):
            async for text in reader:
                try:
                    self._reports.put_nowait(REPORT.validate_json(text))
                except ValueError as error:
                    log.error("the training process said something that is no report", problem=str(error))  # noqa: TRY400
