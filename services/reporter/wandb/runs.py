"""What a W&B run's directory and file say of it: its id, where W&B has it, whether it was ever sent."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from shared.errors import BundleError
from shared.wandb_file import WandbFile

ID = re.compile(r"[\w-][\w.-]*")
"""Ids that may name a file."""
OFFLINE = "offline-run-"
"""Begins the directory of a run that was logged on this machine alone."""
UNSENT = "the run was logged offline; 'wandb sync' of its directory sends it"


def unsent(directory: Path) -> bool:
    """Whether a run was logged offline and has not been sent since; `wandb sync` leaves a mark."""
    return directory.name.startswith(OFFLINE) and not any(directory.glob("*.wandb.synced"))


def head_of(file: Path) -> WandbFile:
    """A `.wandb` file read up to the record that says whose it is.

    Raises:
        BundleError: It is none.
    """
    head = WandbFile(file)
    for _ in head.rows(()):
        if head.run_id is not None:
            break
    return head


def path_of(run_id: str, file: Path | None, project: str | None = None) -> str:
    """`[entity/][project/]id`, as W&B's API takes it: what the run's file says, else the given project."""
    entity = None
    if file is not None:
        with contextlib.suppress(BundleError):  # a broken file is told of where its rows are read
            head = head_of(file)
            project, entity = head.project or project, head.entity
    return "/".join(part for part in (entity, project, run_id) if part)
