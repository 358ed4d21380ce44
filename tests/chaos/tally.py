"""How often each fault was injected, and how often all ended right."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FILE = "CHAOS_TALLY"
"""Environment: the file that a line per test is added to."""


@dataclass
class Tally:
    """Faults of one test. They ended right if the test passes."""

    faults: dict[str, int] = field(default_factory=dict)
    recovery: dict[str, list[float]] = field(default_factory=dict)
    """Fault -> seconds from each death to the beginning of recovery."""

    def fault(self, name: str, times: int = 1, recovery_sec: float | None = None) -> None:
        """It was injected."""
        self.faults[name] = self.faults.get(name, 0) + times
        if recovery_sec is not None:
            self.recovery.setdefault(name, []).append(round(recovery_sec, 2))

    def keep(self, *, right: bool) -> None:
        """Write it down."""
        if FILE in os.environ:
            with Path(os.environ[FILE]).open("a") as stream:
                print(
                    json.dumps({"faults": self.faults, "recovery": self.recovery, "right": right}),
                    file=stream,
                )


def summary(lines: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Fault -> how often it was injected, how often all ended right, slowest beginning of a recovery."""
    found: dict[str, dict[str, Any]] = {}
    for each in map(json.loads, lines):
        for fault, times in each["faults"].items():
            row = found.setdefault(fault, {"injected": 0, "right": 0})
            row["injected"] += times
            row["right"] += times if each["right"] else 0
            if seconds := each["recovery"].get(fault):
                row["slowest_recovery_sec"] = max([row.get("slowest_recovery_sec", 0.0), *seconds])
    return found


def table(found: dict[str, dict[str, Any]]) -> str:
    """The same for `docs/reliability.md`."""
    rows = ["| fault | injected | ended right | slowest begin of recovery |", "|---|---:|---:|---:|"]
    for fault, row in found.items():
        slowest = row.get("slowest_recovery_sec")
        rows.append(f"| {fault} | {row['injected']} | {row['right']} | {f'{slowest} s' if slowest else ''} |")
    return "\n".join(rows)
