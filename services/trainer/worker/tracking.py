"""Weights & Biases, as far as training is concerned: rows go there too, and its failures end nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

Mode = Literal["offline", "online", "disabled"]


class Tracking:
    """The wandb run of this process.

    Steps of a wandb run only rise, so going back in steps begins a new one; chunks in a row share theirs.

    Args:
        bundle: Its files go to `wandb/` below.
        name: Shown for the run: run id and stage.
        config: The stage's configuration.
        mode: Policy of the run.
        project: wandb's project.
    """

    def __init__(
        self, bundle: Path, name: str, config: Mapping[str, Any], *, mode: Mode, project: str
    ) -> None:
        self._bundle, self._name, self._config = bundle, name, dict(config)
        self._mode, self._project = mode, project
        self._run: Any = None
        self._next = 0
        self.problems: list[str] = []
        """What went wrong, once each."""

    @property
    def run_id(self) -> str | None:
        """The run's id at wandb."""
        return self._run.id if self._run is not None else None

    @property
    def directory(self) -> Path | None:
        """The run's directory in the bundle."""
        return Path(self._run.dir).parent if self._run is not None else None

    def begin(self, step: int) -> None:
        """Be ready for the row of update `step`."""
        if self._mode == "disabled" or (self._run is not None and step >= self._next):
            return
        self.close()
        try:
            import wandb

            self._run = wandb.init(
                project=self._project,
                name=self._name,
                group=self._name.partition("/")[0],
                dir=self._bundle,
                config=self._config,
                mode=self._mode,
                settings=wandb.Settings(silent=True, console="off", disable_git=True, save_code=False),
            )
        except Exception as error:  # noqa: BLE001 - whatever wandb raises, training goes on and says so
            self._broken("could not begin a run", error)
        self._next = step

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Log the row of one update."""
        if self._run is None:
            return
        try:
            self._run.log(dict(values), step=step)
        except Exception as error:  # noqa: BLE001
            self._broken("stopped logging", error)
        self._next = step + 1

    def close(self) -> None:
        """Finish the run."""
        run, self._run = self._run, None
        if run is None:
            return
        try:
            run.finish()
        except Exception as error:  # noqa: BLE001
            self._broken("could not finish its run", error)

    def _broken(self, what: str, error: Exception) -> None:
        self._run = None
        self.problems.append(f"wandb {what}: {type(error).__name__}: {error}")


def confine(bundle: Path, cache: Path) -> None:
    """Keep everything wandb writes in the bundle and the cache."""
    os.environ.update(
        WANDB_DIR=str(bundle),
        WANDB_CACHE_DIR=str(cache / "wandb"),
        WANDB_CONFIG_DIR=str(cache / "wandb" / "config"),
        WANDB_DATA_DIR=str(cache / "wandb" / "data"),
        WANDB_SILENT="true",
        WANDB_ERROR_REPORTING="false",
    )
