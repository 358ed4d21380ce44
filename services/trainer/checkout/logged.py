"""What a launch of a checkout's script logged to W&B, as its attempt's history."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import structlog

from services.trainer.core.checkout import rows
from services.trainer.core.checkout.launch import Launch
from services.trainer.core.checkout.rows import Row
from shared.bundle import Bundle, write_atomic
from shared.errors import BundleError
from shared.wandb_file import WandbFile, wait_until_settled

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Logged:
    """The rows of one launch.

    Args:
        bundle: Where the history goes.
        directory: Where W&B writes.
        launch: What its numbers mean.
    """

    def __init__(self, bundle: Bundle, directory: Path, launch: Launch) -> None:
        self._bundle, self._directory, self._launch = bundle, directory, launch
        self._read: tuple[Path, int] | None = None
        """File and size that was read last."""
        self._unreadable: str | None = None
        self.rows: dict[int, Row] = {}
        """Absolute step -> row, as last read."""
        self.diverged = False
        """A row has a loss that is not finite."""

    @property
    def problems(self) -> list[str]:
        """What a person should know about it, once the launch is over."""
        why = self._unreadable or (
            "it logged nothing to W&B, whose local file is the history. Look whether the checkout has "
            "use_wandb and its environment has wandb"
        )
        return [] if self.rows else [f"the launch left no history: {why}"]

    def runs(self) -> list[Path]:
        """Directories of W&B runs, oldest first; `latest-run` is a link to one of them."""
        found = [path for path in self._directory.glob("*run-*") if not path.is_symlink()]
        return sorted(found, key=lambda path: path.stat().st_mtime)

    def _files(self) -> list[Path]:
        return [path for run in self.runs() for path in run.glob("*.wandb")]

    def read(self, *, over: bool) -> None:
        """Read the W&B file if it has grown, and write the attempt's history.

        Args:
            over: The launch has ended.

        Raises:
            OSError: The disk refused.
        """
        files = self._files()
        if not files:
            return
        file, launch = WandbFile(files[-1]), self._launch
        try:
            if over:
                wait_until_settled(file.path)
            if self._read == (file.path, size := file.path.stat().st_size):
                return
            self._read = file.path, size
            self.rows = rows.by_update(
                file.rows(),
                launch.offset,
                first=launch.start_step,
                end=launch.end_step,
                loss_factor=launch.loss_factor,
            )
        except BundleError as error:
            self._unreadable = str(error)
        self.diverged = rows.diverged(self.rows.values())
        self._write_history()

    def bridge(self, reached: int) -> None:
        """Give updates a row that a checkpoint proves, and whose row W&B had not written yet.

        W&B writes its file every 15 seconds, and at the end; what a killed process logged after that is gone.
        Such a row has a step and no numbers: whoever counts the updates finds them, whoever means the losses
        leaves them out.

        Args:
            reached: Updates done in the newest checkpoint.
        """
        lost = [step for step in range(self._launch.start_step, reached) if step not in self.rows]
        if lost and any(self._files()):
            log.warning("W&B had not written the rows of these updates yet", first=lost[0], last=lost[-1])
            bare: dict[int, Row] = {step: {rows.STEP: step} for step in lost}
            self.rows = dict(sorted((self.rows | bare).items()))
            self._write_history()

    def _write_history(self) -> None:
        if self.rows:
            path = self._bundle.history(self._launch.stage, self._launch.attempt)
            before = _rows_before(path, self._launch.start_step)
            write_atomic(path, _table([*before, *self.rows.values()]))


def _rows_before(path: Path, step: int) -> list[dict[str, Any]]:
    """What earlier launches of the attempt wrote, up to the checkpoint that this one went on from."""
    if not path.exists():
        return []
    with path.open(newline="") as stream:
        return [row for row in csv.DictReader(stream) if int(row[rows.STEP]) < step]


def _table(found: list[dict[str, Any]]) -> str:
    names = dict.fromkeys(name for row in found for name in row)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return stream.getvalue()
