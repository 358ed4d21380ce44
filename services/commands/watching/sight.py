"""What is seen of a run that is watched: its page, and its loss curves from the histories in its bundle.

Only the curves need more than the command line's own packages: pandas, which the monitor and reporter have.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from services.commands.terminal.training import current
from services.reporter.core.page.fold import PageFold
from services.reporter.core.page.model import History, Page
from shared.bundle import Bundle
from shared.events import STAGES, Stage

if TYPE_CHECKING:
    from services.reporter.page.histories import Histories

COLUMN = "train/loss"
POINTS = 600
"""Of a curve: more than a wide terminal has dots."""
PAUSE_SEC = 3.0
SHARE = 20
"""A pause is at least so many times as long as a reading."""


class Sight:
    """A run that is being looked at.

    Args:
        fold: What is known of it.
        bundle: Where its bundle was found; none is where its events say it is.
        live: A server knows it.
    """

    def __init__(self, fold: PageFold, bundle: Path | None, *, live: bool) -> None:
        self.fold, self.live = fold, live
        self._bundle = bundle
        self._histories: Histories | None = None
        self._kept: dict[Stage, History] = {}
        self._next = 0.0

    def page(self) -> Page:
        """The page's document as of now."""
        page = self.fold.page(time.time(), live=self.live)
        return page if self._bundle is None else page.model_copy(update={"bundle": str(self._bundle)})

    def losses(self, page: Page) -> dict[Stage, History]:
        """Those of all stages that were trained, in order; none where the bundle is on another machine."""
        return self._read(page, self._trained)

    def newest_loss(self, page: Page) -> dict[Stage, History]:
        """That of the stage in work, read anew now and then."""
        row = current(page)
        wanted = [stage for stage in self._trained if row is not None and row.stage == stage]
        wanted = wanted or self._trained[-1:]
        if time.monotonic() >= self._next or set(wanted) != set(self._kept):
            began = time.monotonic()
            self._kept = self._read(page, wanted)
            self._next = time.monotonic() + max(PAUSE_SEC, SHARE * (time.monotonic() - began))
        return self._kept

    @property
    def _trained(self) -> list[Stage]:
        return [stage for stage in STAGES if self.fold.superseded(stage)]

    def _read(self, page: Page, stages: Sequence[Stage]) -> dict[Stage, History]:
        root = Path(page.bundle)
        if not stages or not page.bundle or not root.is_dir():
            return {}
        if self._histories is None:
            try:
                from services.reporter.page.histories import Histories
            except ModuleNotFoundError:  # worldloop without the reporter's packages
                return {}
            self._histories = Histories()
        bundle, histories = Bundle(root, page.run.run_name), self._histories
        return {
            stage: histories.read(bundle, stage, COLUMN, self.fold.superseded(stage), points=POINTS)
            for stage in stages
        }
