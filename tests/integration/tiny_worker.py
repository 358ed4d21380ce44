"""A training process group without torch: `python tiny_worker.py RANKS`. Only what the trainer sees is real.

Rank 0 speaks the wire and saves a file in place of a checkpoint; it makes a step together with rank 1. Its
steps take long until there is the file that `GO` names: whoever wants to hear of one has the time to listen.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from services.trainer.core.launch import ENTRY
from services.trainer.wire import Finished, Progress, Ready, Run, Saved
from services.trainer.worker.link import Link
from shared.bundle import Bundle

EVERY = 10
GO = "TINY_WORKER_GO"


def main() -> None:
    """Be the rank that the environment says, or start as many as asked for."""
    rank = os.environ.get("RANK")
    if rank is None and sys.argv[1] == "2":
        launch()
    elif rank == "1":
        answer(socket.socket(fileno=0))
    else:
        signal.signal(signal.SIGUSR2, lambda *_: threading.Event().wait())
        link = Link.connect()
        link.send(Ready(pids=[os.getpid()]))
        peer = socket.socket(fileno=0) if rank is not None else None
        while (run := link.next_run()) is not None:
            train(run, link, peer)


def launch() -> None:
    """Two ranks with a connection between them; each ends with the other."""
    ends = socket.socketpair()
    words = [sys.executable, __file__, "2", ENTRY]
    ranks = [
        subprocess.Popen(words, stdin=end.fileno(), env={**os.environ, "RANK": str(rank)})
        for rank, end in enumerate(ends)
    ]
    for end in ends:
        end.close()
    for process in ranks:
        process.wait()


def answer(peer: socket.socket) -> None:
    """Do rank 1's part of each step."""
    while step := peer.recv(1):
        peer.sendall(step)


def train(run: Run, link: Link, peer: socket.socket | None) -> None:
    """Make the plan's updates."""
    bundle, plan = Bundle(Path(run.bundle), run.run_name), run.plan
    for step in range(run.resume_step + 1, plan.target_step + 1):
        if peer is not None:
            peer.sendall(b".")
            peer.recv(1)
        time.sleep(0.002 if may_go() else 0.05)
        link.send(Progress(step=step, loss=1.0, learning_rate=1e-3, frames_per_sec=1.0))
        if step % EVERY == 0:
            path = bundle.checkpoint(plan.stage, step)
            path.mkdir(parents=True, exist_ok=True)
            (path / "model_state_dict.pt").touch()
            link.send(Saved(path=bundle.relative(path), step=step))
    link.send(
        Finished(
            reason="completed", end_step=plan.target_step, cpu_seconds=[0.0], timing={}, problems=[],
            wandb_run_id=None, wandb_dir=None,
        )
    )  # fmt: skip


def may_go() -> bool:
    """Whether nobody holds it back."""
    return GO not in os.environ or Path(os.environ[GO]).exists()


if __name__ == "__main__":
    main()
