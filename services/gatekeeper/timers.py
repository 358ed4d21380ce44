"""How long each wait has lasted. Time is what the caller says has passed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from services.gatekeeper.core.limits import Waiting


class Timers:
    """Seconds waited so far, per wait; one that is not waited for any more is forgotten."""

    def __init__(self) -> None:
        self._waited: dict[str, float] = {}
        self._work: dict[str, str] = {}
        """Key of a wait -> what the ids of commands begin with that hold it back."""

    def advance(self, waits: Sequence[Waiting], elapsed_sec: float) -> list[tuple[Waiting, float]]:
        """Let time pass.

        Args:
            waits: Everything that is waited for now.
            elapsed_sec: Seconds since the last call that count.

        Returns:
            Waits over their limit, with the seconds they lasted.
        """
        self._waited = {wait.key: self._waited.get(wait.key, -elapsed_sec) + elapsed_sec for wait in waits}
        self._work = {wait.key: wait.work for wait in waits if wait.work is not None}
        return [(wait, spent) for wait in waits if (spent := self._waited[wait.key]) >= wait.limit_sec]

    def hold_back(self, working_on: Iterable[str]) -> None:
        """A service says what it works on: those waits begin anew."""
        for command in working_on:
            for key, work in self._work.items():
                if command.startswith(work):
                    self._waited[key] = 0.0
