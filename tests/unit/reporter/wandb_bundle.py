"""Runs of ours whose rows went to W&B, for tests of the analysis."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from services.reporter.core.story import Outcome, tell
from services.reporter.kinds import Request
from shared.bundle import Bundle
from shared.events import ChunkDone, Stage
from tests.unit import wandb_log

if TYPE_CHECKING:
    from tests.unit.reporter.conftest import Log

Loss = Callable[[int], float]


def logged(
    bundle: Bundle,
    run_id: str,
    steps: Iterable[int],
    loss: Loss = lambda step: 1 / (step + 1),
    *,
    offline: bool = True,
    end: bytes = b"",
) -> str:
    """Write a `.wandb` file as a launch leaves it; its directory as events name it."""
    name = f"{'offline-' if offline else ''}run-20260101_000000-{run_id}"
    place = bundle.root / "wandb" / name
    place.mkdir(parents=True)
    records = [wandb_log.run(1, run_id, "r/dynamics", {"learning_rate": 1e-3, "_wandb": {}}, "pong")]
    records += [
        wandb_log.history(
            number,
            step,
            {
                "train/loss": loss(step),
                "learning_rate/group_0": 1e-3,
                "action_entropy": 1.5,
                "unique_actions": 4,
                "_runtime": step / 10,
                "grad_norm": float(step),
            },
        )
        for number, step in enumerate(steps, 2)
    ]
    (place / f"run-{run_id}.wandb").write_bytes(wandb_log.log_of(records) + end)
    return f"wandb/{name}"


def went_to(log: Log, attempt: int, run_id: str, directory: str, stage: Stage = "dynamics") -> None:
    """Have an attempt's end say which W&B run its rows went to."""
    for place, record in enumerate(log.records):
        done = record.message
        if isinstance(done, ChunkDone) and (done.stage, done.attempt) == (stage, attempt):
            named = done.model_copy(update={"wandb_run_id": run_id, "wandb_dir": directory})
            log.records[place] = type(record)(record.sequence, record.time, record.source, named)


def request(log: Log, *, again: bool = False, bundle: Bundle | None = None) -> Request:
    """The request for its report."""
    story = tell(log.records)
    assert story is not None
    return Request(bundle or log.bundle, story, Outcome("passed", "", degraded=False), again=again)
