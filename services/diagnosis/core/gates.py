"""A stage's gates: those that were recorded; for a run that is not ours, those its history would have had."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from services.diagnosis.core import measures
from services.diagnosis.core.evidence import StageEvidence
from services.diagnosis.core.model import Finding, Gate
from services.gatekeeper.config import Policy
from services.gatekeeper.core.verdicts import binds, numeric_verdict
from services.monitor.core.history import STEP
from shared.events import GateDecided, HistoryStats, Stage


def recorded_gate(gate: GateDecided, found: StageEvidence) -> Gate:
    """A gate of ours, as it was decided."""
    return Gate(
        name=f"attempt {gate.attempt}",
        step=gate.gate_step,
        verdict=gate.verdict,
        reason=gate.reason,
        failed=[reason.text for reason in gate.reasons if not reason.ok],
        severe="restart_stage" in (gate.decision, gate.decision_on_resume),
        entropy_collapsed=any(reason.name == "action_entropy" and not reason.ok for reason in gate.reasons),
        patch=gate.config_patch_applied,
        evidence=[f"{found.root}/{path}" for path in gate.evidence_paths] or list(found.histories),
    )


def foreign_gates(found: StageEvidence, policy: Policy, target: int | None) -> list[Gate]:
    """The last two thirds of a foreign history, each judged like a gate, by numbers alone."""
    if found.columns is None:
        return []
    pieces = measures.thirds(found.columns)
    names = ["middle third", "last third"] if len(pieces) == 2 else ["whole history"]
    gates: list[Gate] = []
    previous: float | None = None
    for name, piece in zip(names, pieces, strict=False):
        stats = measures.stats(piece)
        at = int(np.nanmax(piece[STEP])) + 1
        given, unseen = _without_actions(found.stage, stats, policy)
        verdict = numeric_verdict(
            found.stage, given, policy, previous_late=previous, binding=binds(policy, at, target or at)
        )
        previous = stats.loss.late if stats.loss is not None else previous
        gates.append(
            Gate(
                name=name,
                step=at,
                verdict="watch" if unseen and verdict.verdict == "continue" else verdict.verdict,
                failed=[*(reason.text for reason in verdict.reasons if not reason.ok), *unseen],
                severe=verdict.severe,
                entropy_collapsed=verdict.entropy_collapsed,
                evidence=list(found.histories),
            )
        )
    return gates


def _without_actions(stage: Stage, stats: HistoryStats, policy: Policy) -> tuple[HistoryStats, list[str]]:
    """Statistics in which actions that were not logged stand at their limits, and what to say of it.

    A foreign history may lack them, and absence is not collapse: it flags the gate, and fails nothing.
    """
    limits = policy.limits.latent_actions
    wanted = {
        "unique_actions": limits.continue_unique_actions,
        "action_entropy": limits.continue_action_entropy,
    }
    missing = {name: limit for name, limit in wanted.items() if getattr(stats, name) is None}
    if stage != "latent_actions" or not missing:
        return stats, []
    text = f"{' and '.join(missing)} not logged: whether the actions have collapsed cannot be told"
    return stats.model_copy(update=missing), [text]


def gate_findings(gates: Sequence[Gate], *, recorded: bool) -> list[Finding]:
    """What the newest gates say: two that are `retune` are critical, one not `continue` is `watch`."""
    if not gates or gates[-1].verdict == "continue":
        return []
    newest = gates[-1]
    why = "; ".join(dict.fromkeys(newest.failed)) or newest.reason
    if [gate.verdict for gate in gates[-2:]] == ["retune", "retune"]:
        both = "the newest two gates are retune" if recorded else "the last two thirds would each be retune"
        evidence = [*dict.fromkeys([*gates[-2].evidence, *newest.evidence])]
        return [Finding(name="gates", severity="critical", text=f"{both}: {why}", evidence=evidence)]
    where = (
        f"the newest gate ({newest.name}, step {newest.step}) is {newest.verdict}"
        if recorded
        else f"the {newest.name}, to step {newest.step}, would be {newest.verdict}"
    )
    return [Finding(name="gate", severity="watch", text=f"{where}: {why}", evidence=list(newest.evidence))]
