"""Which files of a bundle its events and reports name, and which checkpoints its run still needs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from services.gatekeeper.core.state import RunState
from shared.events import (
    STAGES,
    ArtifactEvidence,
    ChunkDone,
    GateDecided,
    GpuEvidence,
    InferenceDone,
    Message,
    ReportWritten,
)

CHECKPOINT = re.compile(rf"(?<!\w)(?:superseded/\d+/checkpoints/)?(?:{'|'.join(STAGES)})_step_\d+(?!\w)")
LINK = re.compile(r"\]\(<?([^)#<>\s]+)")
"""Where a Markdown link leads, its fragment left out."""


def files_of(messages: Iterable[Message]) -> dict[str, str]:
    """Path in the bundle -> id of the first event that names it; checkpoints come and go and are left out."""
    found: dict[str, str] = {}
    for message in messages:
        for path in _paths(message):
            if path is not None and not is_checkpoint(path):
                found.setdefault(path, message.id)
    return found


def needed(state: RunState) -> set[str]:
    """Checkpoints without which the run could not go on or be tested: its lineage as it stands.

    Args:
        state: What the gatekeeper knows of the run.
    """
    found: set[str | None] = {*state.selected.values()}
    if state.spec is not None:
        found |= set(state.spec.checkpoints.values())
    for stage in state.stages.values():
        found |= {each.checkpoint for each in (stage.accepted, stage.best) if each is not None}
        if stage.next is not None:
            found.add(stage.next.resume_from)
        if stage.begin_at is not None:
            found.add(stage.begin_at[0])
    if state.chunk is not None:
        found |= {state.chunk.plan.resume_from, *state.chunk.plan.upstream.values()}
    return {path for path in found if path is not None}


def mentioned(report: str) -> set[str]:
    """The checkpoints a report speaks of: their names, or `superseded/<attempt>/checkpoints/<name>`."""
    return set(CHECKPOINT.findall(report))


def is_mentioned(path: str, names: set[str]) -> bool:
    """Whether a checkpoint in the bundle is among those."""
    place, _, name = path.rpartition("/checkpoints/")
    before, superseded, attempt = place.rpartition("/superseded/")
    return (f"superseded/{attempt}/checkpoints/{name}" if superseded and before else name) in names


def links_of(report: str) -> list[str]:
    """Where a report's relative links lead, as they stand there."""
    return [link for link in LINK.findall(report) if "://" not in link and not link.startswith("mailto:")]


def is_checkpoint(path: str) -> bool:
    """Whether a path is a checkpoint directory or lies in one."""
    return re.search(r"(?:^|/)checkpoints/\w+_step_\d+(?:/|$)", path) is not None


def _paths(message: Message) -> Iterator[str | None]:
    match message:
        case ChunkDone():
            yield from (message.visualization, message.history, message.wandb_dir)
        case GpuEvidence():
            yield message.file
        case ArtifactEvidence():
            yield from (each.file for each in (message.history,) if each is not None)
            yield from (each.sheet for each in (message.visual,) if each is not None)
        case GateDecided():
            yield from message.evidence_paths
        case InferenceDone():
            yield from (message.picture, message.video, message.preview)
        case ReportWritten(ok=True):
            yield message.path
        case _:
            pass
