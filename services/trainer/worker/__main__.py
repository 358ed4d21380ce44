"""Entry point of a training process: `python -m services.trainer.worker`, alone or under torchrun."""

from __future__ import annotations

import os
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from services.trainer.wire import CACHE, DEVICE, THREADS, Ready, Run
from services.trainer.worker.link import Link
from shared.errors import WorldloopError

if TYPE_CHECKING:
    from services.trainer.worker.ranks import Ranks
    from services.trainer.worker.session import Session
    from services.trainer.worker.tracking import Tracking


def main() -> None:
    """Train plan after plan until told to exit; an error of ours ends the process with its sentence alone."""
    try:
        _train_all()
    except WorldloopError as error:
        sys.exit(f"worldloop: {error}")


def _train_all() -> None:
    # Before torch is imported, so that the trainer's death ends this process even then.
    tie = Link.connect() if os.environ.get("LOCAL_RANK", "0") == "0" else None
    ranks = _join()
    pids = [pid for host, pid in ranks.gather((ranks.host, os.getpid())) if host == ranks.host]
    if tie is not None:
        tie.send(Ready(pids=pids))
    link = tie if ranks.first else None
    session: Session | None = None
    tracking: Tracking | None = None
    while (run := ranks.share(link.next_run() if link is not None else None)) is not None:
        run = run if ranks.host == 0 else _here(run)
        begun = time.process_time()
        if session is None:
            session = _session(ranks, run)
            tracking = _tracking(run) if link is not None else None
        _train(session, run, link, tracking, begun)
    if tracking is not None:
        tracking.close()
    ranks.leave()


def _join() -> Ranks:
    import torch

    from services.trainer.worker.ranks import Ranks

    torch.set_num_threads(int(os.environ[THREADS]))
    torch.set_num_interop_threads(1)
    warnings.filterwarnings("ignore", message="find_unused_parameters=True was specified")
    return Ranks(cuda=os.environ[DEVICE] == "cuda")


def _here(run: Run) -> Run:
    """The plan, with the places where this host has its files: rank 0's are those of node 0."""
    places = {"bundle": os.environ["RUN_BUNDLE_ROOT"], "data_dir": os.environ.get("WORLDLOOP_DATA_DIR")}
    return run.model_copy(update=places)


def _session(ranks: Ranks, run: Run) -> Session:
    import torch

    from services.trainer.worker.session import Session

    if run.plan.parameters.get("tf32"):
        torch.set_float32_matmul_precision("high")
    return Session(ranks, run, Path(os.environ[CACHE]))


def _tracking(run: Run) -> Tracking:
    from services.trainer.worker.tracking import Tracking, confine
    from shared.config import StageConfig

    config = StageConfig.recorded(run.plan.parameters)
    confine(Path(run.bundle), Path(os.environ[CACHE]))
    return Tracking(
        Path(run.bundle),
        f"{run.run_id}/{run.plan.stage}",
        run.plan.parameters,
        mode=config.wandb,
        project=config.wandb_project,
    )


def _train(session: Session, run: Run, link: Link | None, tracking: Tracking | None, begun: float) -> None:
    from services.trainer.worker.chunk import Chunk, Desk, finished
    from services.trainer.worker.history import History

    if link is None or tracking is None:
        Chunk(session, run, None).train()
        session.ranks.gather(time.process_time() - begun)
        return
    tracking.begin(run.resume_step)
    with History(session.bundle.history(run.plan.stage, run.plan.attempt), run.resume_step) as history:
        chunk = Chunk(session, run, Desk(link, history, tracking))
        end, step = chunk.train()
        history.flush()
    cpu_seconds = session.ranks.gather(time.process_time() - begun)
    link.send(finished(chunk, end, step, cpu_seconds, tracking))


if __name__ == "__main__":
    main()
