"""From everything that was found to the diagnosis."""

from __future__ import annotations

from services.diagnosis.core.actions import change_now, fallbacks, next_cycle
from services.diagnosis.core.cause import judge_cause
from services.diagnosis.core.evidence import RunEvidence
from services.diagnosis.core.judge import judge_stage
from services.diagnosis.core.model import SEVERITIES, Diagnosis, Finding, worst


def diagnose(run: RunEvidence) -> Diagnosis:
    """Judge a run: each stage, the whole, the cause, and what to do.

    Args:
        run: What the readers found.
    """
    stages = [judge_stage(found, run.policy) for found in run.stages]
    of_run = _findings(run)
    verdict = worst([*(stage.verdict for stage in stages), *(finding.severity for finding in of_run)])
    by_name = {stage.stage: stage for stage in stages}
    cause = judge_cause({found.stage: found for found in run.stages}, by_name, run.policy, verdict)
    wrong = [(f.severity, f"{stage.stage}: {f.text}") for stage in stages for f in stage.findings]
    wrong += [(finding.severity, finding.text) for finding in of_run]
    return Diagnosis(
        path=run.path,
        kind=run.kind,
        run_id=run.run_id,
        status=run.status,
        policy=run.policy_origin,
        verdict=verdict,
        wrong=[text for _, text in sorted(wrong, key=lambda pair: -SEVERITIES.index(pair[0]))],
        cause=cause,
        fallback=fallbacks(stages),
        change_now=change_now(run, by_name, cause),
        next_cycle=next_cycle(run, by_name, cause),
        findings=of_run,
        stages=stages,
        notes=list(run.notes),
    )


def _findings(run: RunEvidence) -> list[Finding]:
    found = []
    gate = run.inference_gate
    if gate is not None and gate.verdict != "continue":
        why = "; ".join(reason.text for reason in gate.reasons if not reason.ok) or gate.reason
        text = f"the inference gate is {gate.verdict}: {why}"
        evidence = [f"{run.root}/{path}" for path in gate.evidence_paths]
        found.append(Finding(name="inference", severity="watch", text=text, evidence=evidence))
    if run.status == "failed":
        text = f"the run failed: {run.reason}"
        found.append(Finding(name="failed", severity="watch", text=text))
    return found
