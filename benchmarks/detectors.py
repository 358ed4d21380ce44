"""How often the gatekeeper's numeric detectors are wrong: on healthy histories, and on sick ones by strength.

    python benchmarks/detectors.py

The corpus is that of `tests/unit/gatekeeper/histories.py`: two recorded runs, synthetic healthy histories
from the seed of the tests and from four others, and sick ones made of healthy ones. They are measured by the
monitor's statistics and judged gate by gate by the gatekeeper, with its default detectors and no limits else.

Last line: one JSON object with healthy, healthy_gates, false_retunes, false_flags (histories with any such
gate), and for each sickness and noise the share of histories that is caught at each strength.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable

from tests.unit.gatekeeper.histories import STRENGTHS, History, healthy, sick, synthetic
from tests.unit.gatekeeper.test_detectors import gates_of

SEEDS = (10_000, 20_000, 30_000, 40_000)
NOISES = ("gauss", "outliers", "small batch")
OTHERS = ("trend",)
"""Reasons of the stage's own verdict that stay when its limits are lifted."""


def verdicts(histories: Iterable[History]) -> list[tuple[int, bool, bool]]:
    """Gates, whether any was refused, whether any was flagged; for each history."""
    found = []
    for history in histories:
        gates = gates_of(history)
        refused = any(gate.accepted_checkpoint is None for gate in gates)
        flagged = any(
            not reason.ok and reason.name not in OTHERS for gate in gates for reason in gate.reasons
        )
        found.append((len(gates), refused, flagged))
    return found


def main() -> None:
    """Judge the corpus and print."""
    others = (history for seed in SEEDS for history in synthetic(seed))
    well = verdicts([*healthy(), *others])
    figures: dict[str, object] = {
        "healthy": len(well),
        "healthy_gates": sum(gates for gates, _, _ in well),
        "false_retunes": sum(refused for _, refused, _ in well),
        "false_flags": sum(flagged for _, _, flagged in well),
    }
    for name, value in figures.items():
        print(f"{name:22} {value}")
    for (sickness, strengths), noise in itertools.product(STRENGTHS.items(), NOISES):
        shares = {}
        for strength in strengths:
            cases = verdicts(sick(sickness, strength, noise))
            shares[f"{strength:g}"] = round(sum(flagged for _, _, flagged in cases) / len(cases), 3)
        figures[f"{sickness}, {noise}"] = shares
        caught = ", ".join(f"{strength}: {100 * share:.0f} %" for strength, share in shares.items())
        print(f"{sickness:20} {noise:12} {caught}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
