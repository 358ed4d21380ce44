"""Where bundles go, which run id is free, and which run a `RUN` argument means."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from services.commands.configuration.files import display, find_configs
from services.commands.configuration.yaml_file import read_mapping
from shared.bundle import Bundle, check_inside
from shared.errors import BundleError
from shared.events import RUN_ID
from shared.home import expanded

EVENTS_FILE = Bundle(Path(), "").events


@dataclass(frozen=True, slots=True)
class RunRef:
    """A run that was named, or found."""

    run_id: str
    bundle: Path | None
    """Its directory, if it is where we look."""


def output_root(flag: Path | None, configured: str | None, environ: Mapping[str, str] = os.environ) -> Path:
    """Where bundles go: `--output-root`, WORLDLOOP_OUTPUT_ROOT, training.yaml, ./runs; absolute."""
    named = flag or environ.get("WORLDLOOP_OUTPUT_ROOT") or configured or "runs"
    return expanded(named).absolute()


def root(flag: Path | None) -> Path:
    """Where commands that look at runs find bundles: where `train` with the same files would put them.

    Raises:
        ConfigurationError: training.yaml cannot be read.
    """
    configs = find_configs(None, beside_theirs=True)
    file = configs / "training.yaml"
    configured = read_mapping(file, display(file)).get("output_root")
    return output_root(flag, configured if isinstance(configured, str) else None)


def bundle_of(run_id: str, root: Path, environ: Mapping[str, str] = os.environ) -> Path:
    """The bundle of a new run: RUN_BUNDLE_ROOT is the bundle itself, else it lies under the output root."""
    given = environ.get("RUN_BUNDLE_ROOT")
    return expanded(given).absolute() if given else root / run_id


def run_ids(now: datetime) -> Iterator[str]:
    """The ids a run begun now may have: YYYYMMDD_HHMMSS, then the same with _2, _3, ...

    Args:
        now: UTC.
    """
    first = f"{now:%Y%m%d_%H%M%S}"
    yield first
    yield from (f"{first}_{number}" for number in itertools.count(2))


def run_name(now: datetime, game: str) -> str:
    """The run's directory name below `results/`."""
    return f"{now:%Y_%m_%d_%H_%M_%S}_{game}"


def bundles(root: Path) -> list[RunRef]:
    """The bundles under an output root, oldest first."""
    found = (
        [path for path in root.iterdir() if path.is_dir() and RUN_ID.fullmatch(path.name)]
        if root.is_dir()
        else []
    )
    return [RunRef(path.name, path) for path in sorted(found, key=lambda path: order(path.name))]


def order(run_id: str) -> tuple[str, int]:
    """Sorts run ids by age; `_10` comes after `_9`."""
    return run_id[:15], int(run_id[16:] or 1)


def find_run(argument: str, root: Path) -> RunRef:
    """The run that an argument names: a run id or a bundle's path.

    Raises:
        BundleError: It is neither, or something in the bundle leads out of it.
    """
    return checked(named_run(argument, root))


def checked(run: RunRef) -> RunRef:
    """The same run, whose bundle may be read.

    Raises:
        BundleError: Something in it leads out of it.
    """
    if run.bundle is not None and os.path.lexists(run.bundle / EVENTS_FILE):
        check_inside(run.bundle)
    return run


def named_run(argument: str, root: Path) -> RunRef:
    """As `find_run`, for those that need no more of the run than its id: its bundle is not looked into.

    Raises:
        BundleError: It is neither.
    """
    path = expanded(argument)
    if RUN_ID.fullmatch(argument):
        bundle = root / argument
        return RunRef(argument, bundle if bundle.is_dir() else None)
    if not path.is_dir():
        raise BundleError(f"{argument}: neither a run id (YYYYMMDD_HHMMSS) nor a bundle directory")
    path = path.absolute()
    if RUN_ID.fullmatch(path.name):
        return RunRef(path.name, path)
    return RunRef(_run_id_inside(path), path)


def bundle_found(argument: str | None, root: Path) -> Path:
    """The bundle of the run that an argument names, else of the newest one.

    Raises:
        BundleError: There is none.
    """
    newest = [str(run.bundle) for run in bundles(root)[-1:]]
    run = next((find_run(each, root) for each in ([argument] if argument is not None else newest)), None)
    if run is None or run.bundle is None:
        raise BundleError(f"{argument or 'no run'}: there is no bundle of it under {root}; give its path")
    return run.bundle


def _run_id_inside(bundle: Path) -> str:
    from shared.bus.journal import read_journal

    records = read_journal(bundle / EVENTS_FILE)
    if not records:
        raise BundleError(f"{bundle}: no run: {EVENTS_FILE} is empty")
    return records[0].message.run_id
