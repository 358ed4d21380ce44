"""The progress bar of long work: on stderr, and only where somebody watches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from shared.datasets import progress

COUNT: tuple[ProgressColumn, ...] = (MofNCompleteColumn(),)
"""Things are done one by one."""
BYTES: tuple[ProgressColumn, ...] = (DownloadColumn(), TransferSpeedColumn())
SHARE: tuple[ProgressColumn, ...] = (TaskProgressColumn(),)
"""Only the share that is done means something."""


@contextmanager
def bar(what: str, columns: tuple[ProgressColumn, ...]) -> Iterator[progress.Progress]:
    """Show a bar while the context lasts.

    Args:
        what: What is going on.
        columns: How it is measured.

    Yields:
        To be called with what is done and what there is to do.
    """
    console = Console(stderr=True)
    shown = (TextColumn("{task.description}", markup=False), BarColumn(), *columns, TimeRemainingColumn())
    with Progress(*shown, console=console, disable=not console.is_terminal) as live:
        task = live.add_task(what, total=None)
        yield lambda done, total: live.update(task, completed=done, total=total or None)
