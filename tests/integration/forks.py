"""Training processes without a trainer, forked from one that has torch imported: launches cost milliseconds.

Everything inside a rank is the product's (`services.trainer.worker`), its control connection too; the test
takes the trainer's end of it and can end the ranks at any report.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from services.trainer.wire import (
    CACHE,
    CONTROL,
    DEVICE,
    REPORT,
    THREADS,
    Exit,
    Finished,
    Hello,
    Run,
    Saved,
    line,
)

CONTEXT = multiprocessing.get_context("forkserver")
PRELOADED = ["services.trainer.worker.session", "services.trainer.worker.chunk", "torch._dynamo"]


def _rank(environment: dict[str, str], log: Path) -> None:
    """A training process, as launched: environment in, plans over the connection."""
    os.environ.update(environment)
    with log.open("ab") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    from services.trainer.worker.__main__ import main

    main()


@dataclass
class Ranks:
    """A process group, and the trainer's end of the connection to its rank 0."""

    processes: list[ForkServerProcess]
    connection: socket.socket
    log: Path

    def train(self, run: Run, *, kill_after: int | None = None) -> Finished | None:
        """Hand over a plan.

        Args:
            run: The plan.
            kill_after: Kill all ranks (SIGKILL) when the checkpoint of so many updates is written; training
                goes on until then.

        Returns:
            The last report; none from a group that was killed.
        """
        self.connection.sendall(line(run))
        with self.connection.makefile("rb") as lines:
            for text in lines:
                report = REPORT.validate_json(text)
                if isinstance(report, Finished):
                    return report
                if isinstance(report, Saved) and report.step == kill_after:
                    for process in self.processes:
                        process.kill()
        assert kill_after is not None, self.log.read_text()
        return None

    def end(self) -> list[int | None]:
        """Let the ranks go; their exit codes."""
        if self.processes[0].is_alive():
            self.connection.sendall(line(Exit()))
        for process in self.processes:
            process.join(100)
        return [process.exitcode for process in self.processes]


@contextmanager
def launched(root: Path, ranks: int) -> Iterator[Ranks]:
    """A process group; none of its processes outlives the block."""
    CONTEXT.set_forkserver_preload(PRELOADED)
    log = root / "ranks.txt"
    root.mkdir(parents=True, exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as server:
        group = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
        ours = {
            CONTROL: f"{server.getsockname()[1]}:token",
            DEVICE: "cpu",
            THREADS: "1",
            CACHE: str(root / "cache"),
        }
        processes = [
            CONTEXT.Process(
                target=_rank,
                args=(
                    {**group, **ours, "GLOO_SOCKET_IFNAME": "lo", "RANK": str(rank), "LOCAL_RANK": str(rank)},
                    log,
                ),
                daemon=True,
            )
            for rank in range(ranks)
        ]
        for process in processes:
            process.start()
        server.settimeout(300)
        connection, _ = server.accept()
        connection.settimeout(300)
    try:
        with connection:
            hello: Any = REPORT.validate_json(connection.makefile("rb").readline())
            assert isinstance(hello, Hello)
            yield Ranks(processes, connection, log)
    finally:
        for process in processes:
            process.kill()
            process.join()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
