"""The three-level verdict on one stage.

`critical`: the newest two gates are `retune` (`gates`); divergence; no valid checkpoint that is new enough,
or many of them empty (`checkpoints`). `watch`: any single failed check. Whether a process still runs does not
matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from services.diagnosis.core import measures
from services.diagnosis.core.checkpoints import checkpoint_findings, fallback, spacing
from services.diagnosis.core.evidence import StageEvidence
from services.diagnosis.core.gates import foreign_gates, gate_findings, recorded_gate
from services.diagnosis.core.model import (
    SEVERITIES,
    Checkpoint,
    Finding,
    Gate,
    LossNumbers,
    Picture,
    Severity,
    StageDiagnosis,
    Throughput,
    Visuals,
    worst,
)
from services.gatekeeper.config import Policy, Visual
from services.gatekeeper.core.detectors import loss_spike, non_finite
from services.gatekeeper.core.visual import visual_reason
from shared.events import HistoryStats, Stage, VisualNumbers

FRAME_FACTORS = ("batch_size_per_gpu", "gradient_accumulation_steps", "nproc_per_node", "context_length")


def judge_stage(found: StageEvidence, policy: Policy) -> StageDiagnosis:
    """Measure and judge one stage.

    Args:
        found: Its evidence.
        policy: Thresholds.
    """
    stats = _whole(found)
    step = _progress(stats, found.checkpoints or ())
    target, interval = _whole_number(found, "n_updates"), _whole_number(found, "log_interval")
    checkpoints = list(found.checkpoints or ())
    interval = interval or spacing(checkpoints)
    gates = (
        [recorded_gate(gate, found) for gate in found.gates]
        if found.gates is not None
        else foreign_gates(found, policy, target)
    )
    visuals = _visuals(found, policy.visual)
    findings = [
        *gate_findings(gates, recorded=found.gates is not None),
        *_divergence(found, stats, policy, gates),
        *checkpoint_findings(found, step, interval),
        *_visual_findings(found, visuals, policy.visual),
    ]
    notes = [*found.history_problems]
    if found.columns is None and not found.history_problems:
        notes.append("no history was found: the loss is not judged")
    if found.checkpoints is None:
        notes.append("there is no place to look for checkpoints")
    if visuals.problem:
        notes.append(visuals.problem)
    if found.gates == []:
        notes.append("no gate was decided yet: only divergence and checkpoints are judged")
    if found.columns is None and found.checkpoints is not None:
        text = "; ".join(found.history_problems) or "no history: nothing says how the loss went"
        findings.append(Finding(name="no_history", severity="watch", text=text))
    return StageDiagnosis(
        stage=found.stage,
        verdict=worst([finding.severity for finding in findings]),
        step=step,
        target=target,
        log_interval=interval,
        findings=sorted(findings, key=lambda finding: -SEVERITIES.index(finding.severity)),
        notes=notes,
        histories=list(found.histories),
        loss=_loss(stats),
        actions=measures.actions(found.columns) if found.columns is not None else None,
        throughput=_throughput(found, checkpoints),
        gates=gates,
        checkpoints=checkpoints,
        visuals=visuals,
        fallback=fallback(checkpoints),
    )


# --- measure ----------------------------------------------------------------------------------------------


def _whole(found: StageEvidence) -> HistoryStats | None:
    return measures.stats(found.columns) if found.columns is not None else None


def _loss(stats: HistoryStats | None) -> LossNumbers | None:
    if stats is None or stats.loss is None or stats.first_step is None or stats.last_step is None:
        return None
    assert stats.final_loss is not None
    assert stats.min_loss is not None
    assert stats.median_loss is not None
    return LossNumbers(
        rows=stats.rows,
        dropped_rows=stats.dropped_rows,
        non_finite_rows=stats.non_finite_rows,
        first_step=stats.first_step,
        last_step=stats.last_step,
        final=stats.final_loss,
        min=stats.min_loss,
        median=stats.median_loss,
        windows=stats.loss,
    )


def _progress(stats: HistoryStats | None, checkpoints: Sequence[Checkpoint]) -> int | None:
    by_rows = stats.last_step + 1 if stats is not None and stats.last_step is not None else 0
    return max([by_rows, *(each.step for each in checkpoints)]) or None


def _whole_number(found: StageEvidence, key: str) -> int | None:
    value = found.config.get(key)
    return value if isinstance(value, int) and value > 0 else None


def _throughput(found: StageEvidence, checkpoints: Sequence[Checkpoint]) -> Throughput | None:
    frames = _frames_per_update(found.config)
    rate = measures.updates_per_sec(found.columns) if found.columns is not None else None
    if rate is not None:
        return Throughput(
            updates_per_sec=rate, frames_per_sec=rate * frames if frames else None, measured_on="_runtime"
        )
    if len(checkpoints) >= 2:
        first, last = checkpoints[0], checkpoints[-1]
        passed = last.modified - first.modified
        if passed > 0 and last.step > first.step:
            rate = (last.step - first.step) / passed
            return Throughput(
                updates_per_sec=rate,
                frames_per_sec=rate * frames if frames else None,
                measured_on="times of the checkpoints",
            )
    return None


def _frames_per_update(config: Mapping[str, Any]) -> int | None:
    """Training frames an update consumes, all ranks; none where the configuration does not say."""
    factors = [config.get(key) for key in FRAME_FACTORS]
    hosts = config.get("nnodes")
    known = [factor for factor in factors if isinstance(factor, int) and factor > 0]
    return prod(known) * (hosts if isinstance(hosts, int) else 1) if len(known) == len(factors) else None


# --- divergence -------------------------------------------------------------------------------------------


def _divergence(
    found: StageEvidence, stats: HistoryStats | None, policy: Policy, gates: Sequence[Gate]
) -> list[Finding]:
    """A loss that is lost, or has left for good the level it had reached."""
    if stats is None:
        return []
    detectors = policy.detectors
    lost = non_finite(stats, detectors.non_finite) if detectors.non_finite.enabled else None
    findings = []
    if lost is not None:
        severity: Severity = "watch" if lost.ok else "critical"
        findings.append(_found("non_finite" if lost.ok else "divergence", severity, lost.text, found))
    if gates and gates[-1].verdict == "continue":
        return findings
    if stats.levels is not None and detectors.loss_spike.enabled:
        spike = loss_spike(stats.levels, detectors.loss_spike)
        if not spike.ok:
            findings.append(_found("divergence", "critical", spike.text, found))
    limits, windows = policy.limits.dynamics, stats.loss
    if (
        found.stage == "dynamics"
        and windows is not None
        and not any(f.severity == "critical" for f in findings)
    ):
        rises = windows.late > limits.watch_late_over_mid * windows.mid and windows.delta > limits.watch_delta
        if rises:
            text = (
                f"the loss rises over the whole history: late mean {windows.late:.4g} is above "
                f"{limits.watch_late_over_mid:g} times the mid mean {windows.mid:.4g}, and the last 10 % are "
                f"{windows.delta:.4g} above the first (limit {limits.watch_delta:g})"
            )
            findings.append(_found("divergence", "critical", text, found))
    return findings


def _found(name: str, severity: Severity, text: str, found: StageEvidence) -> Finding:
    return Finding(name=name, severity=severity, text=text, evidence=list(found.histories))


# --- pictures ---------------------------------------------------------------------------------------------


def picture(stage: Stage, numbers: VisualNumbers, limits: Visual, path: str) -> Picture:
    """A sheet judged by the policy's limits, whether they bind for the stage or not."""
    reason = visual_reason(stage, numbers, limits.model_copy(update={"binds": (stage,)}))
    measured = {name: value for name, value in numbers.model_dump().items() if isinstance(value, float)}
    return Picture(
        path=path,
        step=numbers.step,
        numbers=measured,
        ok=reason.ok,
        text=reason.text,
    )


def _visuals(found: StageEvidence, limits: Visual) -> Visuals:
    early, late = found.early, found.late
    return Visuals(
        sheets=len(found.sheets),
        early=picture(found.stage, early, limits, found.sheets[0]) if early is not None else None,
        late=picture(found.stage, late, limits, found.sheets[-1]) if late is not None else None,
        problem=found.visual_problem,
    )


def _visual_findings(found: StageEvidence, visuals: Visuals, limits: Visual) -> list[Finding]:
    """A failed check where the limits bind; gates of ours have looked at the pictures themselves."""
    late = visuals.late
    if late is None or late.ok or found.gates or found.stage not in limits.binds:
        return []
    text = f"the newest pictures have lost their structure: {late.text}"
    return [Finding(name="visual_structure", severity="watch", text=text, evidence=[late.path])]
