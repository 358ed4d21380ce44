"""A bundle's run as its event file tells it, and whether the bundle may be touched."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from pathlib import Path

from pydantic import ValidationError

from services.gatekeeper.core.fold import fold
from services.gatekeeper.core.state import RunState
from shared.bundle import Bundle
from shared.bus.journal import read_journal
from shared.bus.protocol import Recorded
from shared.errors import BundleError, MessageError, UsageError
from shared.events import Status

EVENTS = Bundle(Path(), "").events
GOING_ON: tuple[Status, ...] = ("queued", "running", "paused")


@dataclass(frozen=True, slots=True)
class Run:
    """A run and its bundle."""

    bundle: Bundle
    records: list[Recorded]
    state: RunState

    @property
    def run_id(self) -> str:
        """Its id."""
        return self.state.run_id


def read_run(root: Path) -> Run:
    """The run of a bundle.

    Raises:
        BundleError: It is no bundle, or its events cannot be read.
    """
    if not root.is_dir():
        raise BundleError(f"{root}: there is no such bundle")
    records = read_journal(root / EVENTS)
    if not records:
        raise BundleError(f"{root}: no run: {EVENTS} is empty")
    state = state_of(records)
    return Run(Bundle(root, state.spec.run_name if state.spec is not None else ""), records, state)


def state_of(records: list[Recorded]) -> RunState:
    """What the gatekeeper knows after events; there is at least one.

    Raises:
        BundleError: The run asks for what cannot be used, or an event contradicts itself.
    """
    run_id = records[0].message.run_id
    try:
        return reduce(fold, records, RunState(run_id))
    except MessageError as error:
        raise BundleError(str(error)) from None
    except ValidationError as error:
        raise BundleError(f"{run_id}: the run asks for what cannot be used: {error}") from None


def check_over(run: Run, known: list[Recorded]) -> None:
    """Make sure that nothing works in a bundle, or will go on to.

    Args:
        run: The bundle's run.
        known: Its events as the server has them; empty where there is no server, or it does not know it.

    Raises:
        UsageError: The run goes on, by the bundle's events or by the server's; says how to end it.
    """
    states = [run.state, *([state_of(known)] if known else [])]
    for state, source in zip(states, (EVENTS, "the server"), strict=False):
        elsewhere = state.spec is not None and Path(state.spec.bundle).resolve() != run.bundle.root.resolve()
        if source != EVENTS and elsewhere:
            continue  # what goes on is another copy
        if state.status in GOING_ON:
            raise UsageError(
                f"{run.run_id} is {state.status} (says {source}), and its bundle is left alone: end it with "
                f"`worldloop stop {run.run_id}` and wait until it is over"
            )
