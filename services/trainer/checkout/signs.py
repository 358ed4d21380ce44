"""Where a launch of a checkout's script is, as far as what it writes shows: it says nothing to us."""

from __future__ import annotations

import asyncio
import math
import time
from pathlib import Path

import structlog

from services.trainer.checkout.takeover import Takeover
from services.trainer.core.checkout.launch import Counts, ranks
from services.trainer.core.checkout.output import Told, told
from services.trainer.core.checkout.rows import LOSS, RATE
from services.trainer.wire import Progress, Run
from shared.config import StageConfig

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

FILES_SEC = 2.0
"""Between two looks at the files; ten times as long as one takes, where that is more."""
READ_BYTES = 1 << 20
"""Output that is read at once; a line that is longer is read in pieces."""


class Signs:
    """The progress bar in its output, the rows it logs to W&B, the checkpoints it writes.

    Args:
        run: What it was launched for.
        counts: What it was told to count to.
        takeover: Its directory.
        log_file: Its output.
    """

    def __init__(self, run: Run, counts: Counts, takeover: Takeover, log_file: Path) -> None:
        self._run, self._counts, self._takeover, self._log_file = run, counts, takeover, log_file
        self._config = StageConfig.recorded(run.plan.parameters)
        self._read, self._next_look = 0, 0.0
        self._told = Told()
        self._began: tuple[int, float] | None = None
        """Updates and time when updates were first seen."""
        self.updates = 0
        """Made by the launch; never falls."""

    @property
    def diverged(self) -> bool:
        """Whether a loss was printed or logged that is not finite."""
        return self._told.non_finite or self._takeover.logged.diverged

    async def look(self, *, over: bool) -> bool:
        """Read what was written since the last look.

        Args:
            over: The launch has ended: the last line is whole, and the files are looked at in any case.

        Returns:
            Whether there are more updates than before.
        """
        await asyncio.to_thread(self._read_output, over=over)
        began = time.monotonic()
        if over or began >= self._next_look:
            try:
                await asyncio.to_thread(self._takeover.look, over=over)
            except OSError as error:
                log.warning("what the launch wrote cannot be taken over yet", problem=str(error))
            self._next_look = time.monotonic() + max(FILES_SEC, 10 * (time.monotonic() - began))
        return self.count()

    def count(self) -> bool:
        """Take the furthest that anything shows; whether that is further than before."""
        start, rows, saved = self._run.resume_step, self._takeover.logged.rows, self._takeover.saved()
        logged = max(rows) + 1 - start if rows else 0
        written = max(saved) + 1 + self._counts.offset - start if saved else 0
        before = self.updates
        self.updates = max(before, min(max(self._told.updates, logged, written), self._counts.updates))
        if self.updates and self._began is None:
            self._began = self.updates, time.monotonic()
        return self.updates > before

    def progress(self) -> Progress:
        """For telemetry; the learning rate is the configured one until a row tells it.

        W&B writes its rows every 15 seconds: until then the loss is the one that was printed last.
        """
        updates, since = self._began or (0, time.monotonic())
        rows, passed = self._takeover.logged.rows, time.monotonic() - since
        newest = rows[max(rows)] if rows else {}
        printed = None if self._told.loss is None else self._told.loss * self._takeover.launch.loss_factor
        loss = newest.get(LOSS, printed)
        windows = self._config.windows_per_update(ranks(self._config))
        frames = (self.updates - updates) * windows * self._config.context_length
        return Progress(
            step=self._run.resume_step + self.updates,
            loss=loss if loss is not None and math.isfinite(loss) else None,
            learning_rate=newest.get(RATE, self._run.plan.schedule.peak),
            frames_per_sec=frames / passed if passed > 0 else 0.0,
        )

    def _read_output(self, *, over: bool) -> None:
        with self._log_file.open("rb") as stream:
            more = True
            while more:
                stream.seek(self._read)
                text = stream.read(READ_BYTES)
                more = len(text) == READ_BYTES
                end = max(text.rfind(b"\n"), text.rfind(b"\r")) + 1
                if (over and not more) or (more and end == 0):
                    end = len(text)
                self._told = self._told.then(told(text[:end].decode(errors="replace"), self._counts.updates))
                self._read += end
