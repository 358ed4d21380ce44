"""A stage's checkpoints: which one to trust, and whether they are written as they should be."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import pairwise

from services.diagnosis.core.evidence import StageEvidence
from services.diagnosis.core.model import Checkpoint, Finding
from services.monitor.core.checkpoints import FEW, MANY_EMPTY, STALE_INTERVALS, many_empty, too_far_behind


def fallback(checkpoints: Sequence[Checkpoint]) -> Checkpoint | None:
    """The newest valid checkpoint; never an empty one."""
    good = [each for each in checkpoints if each.valid and not each.empty]
    return max(good, key=lambda each: each.step, default=None)


def spacing(checkpoints: Sequence[Checkpoint]) -> int | None:
    """Log interval as the checkpoints' steps tell it, where no configuration does."""
    gaps = [
        later.step - earlier.step for earlier, later in pairwise(checkpoints) if later.step > earlier.step
    ]
    return int(statistics.median_low(gaps)) if gaps else None


def checkpoint_findings(found: StageEvidence, step: int | None, interval: int | None) -> list[Finding]:
    """What is wrong with the checkpoints.

    Args:
        found: The stage's evidence.
        step: Updates done, as far as the files tell.
        interval: Updates between checkpoints.
    """
    if found.checkpoints is None:
        return []
    findings = []
    empty = [each for each in found.checkpoints if each.empty]
    if many_empty(len(empty), len(found.checkpoints)):
        share = len(empty) / len(found.checkpoints)
        text = (
            f"{len(empty)} of {len(found.checkpoints)} checkpoints are empty or tiny ({share:.0%}, limit "
            f"{MANY_EMPTY:.0%} and {FEW}), the newest of them {empty[-1].path}: {empty[-1].problem}"
        )
        paths = [each.path for each in empty]
        findings.append(Finding(name="checkpoints_empty", severity="critical", text=text, evidence=paths))
    newest = fallback(found.checkpoints)
    behind = step - newest.step if newest is not None and step is not None else step
    if behind is not None and interval is not None and too_far_behind(behind, interval):
        last = (
            f"the newest valid checkpoint, {newest.path}," if newest is not None else "no valid checkpoint;"
        )
        text = (
            f"{last} lies {behind} updates behind step {step}, more than {STALE_INTERVALS} log intervals "
            f"of {interval}"
        )
        evidence = [newest.path] if newest is not None else [each.path for each in found.checkpoints]
        findings.append(Finding(name="checkpoints_stale", severity="critical", text=text, evidence=evidence))
    elif newest is None:
        text = "there is no valid checkpoint"
        evidence = [each.path for each in found.checkpoints]
        findings.append(Finding(name="no_valid_checkpoint", severity="watch", text=text, evidence=evidence))
    bad = [each for each in found.checkpoints if not each.valid]
    if bad and not any(finding.name == "checkpoints_empty" for finding in findings):
        text = f"{len(bad)} of {len(found.checkpoints)} checkpoints are not valid, the newest of them "
        text += f"{bad[-1].path}: {bad[-1].problem}"
        paths = [each.path for each in bad]
        findings.append(Finding(name="checkpoint_invalid", severity="watch", text=text, evidence=paths))
    return findings
