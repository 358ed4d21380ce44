"""A gate as the page shows it: what was measured, and the sentence a person wants."""

from __future__ import annotations

from services.reporter.core.markdown import number
from services.reporter.core.page.model import GateRow, Link, Measured
from shared.events import GateDecided, Reason


def gate_id(gate: GateDecided) -> str:
    """Stage and attempt."""
    return f"{gate.stage}/{gate.attempt}"


def file_link(path: str) -> Link:
    """A link that says the last part of its path."""
    return Link(text=path.rpartition("/")[2], path=path)


def optional_link(path: str | None) -> Link | None:
    """The same, where there may be none."""
    return file_link(path) if path is not None else None


def gate_row(gate: GateDecided, time: float) -> GateRow:
    """The row of a gate, as of its decision.

    Args:
        gate: The decision.
        time: Unix time when it was decided.
    """
    patch = gate.config_patch_applied or gate.config_patch_on_resume
    return GateRow(
        id=gate_id(gate),
        time=time,
        stage=gate.stage,
        attempt=gate.attempt,
        start_step=gate.gate_step,
        step=gate.gate_step,
        decision=gate.decision,
        verdict=gate.verdict,
        reason=gate.reason,
        why=why(gate),
        values=[measured(reason) for reason in gate.reasons],
        metrics=gate.metrics,
        changes=patch,
        resume_from=optional_link(gate.resume_from),
        resume_step=gate.resume_step,
        accepted=gate.accepted_checkpoint is not None
        or (gate.stage == "inference" and gate.decision == "continue"),
        superseded=False,
        effective_batch=gate.effective_batch,
        retries_used=gate.retries_used,
        retries_max=gate.retries_max,
        dual_gpu_ok=gate.dual_gpu_ok,
        degraded=gate.degraded,
        observed=_observed(gate),
        evidence=[file_link(path) for path in gate.evidence_paths],
        recommendations=gate.recommendations,
    )


def measured(reason: Reason) -> Measured:
    """One check."""
    return Measured(
        name=reason.name,
        check=reason.check or None,
        value=number(reason.value),
        threshold=number(reason.threshold),
        ok=reason.ok,
        text=reason.text,
    )


def why(gate: GateDecided) -> str:
    """What decided a gate, and what follows from it."""
    return f"{_cause(gate)} {_effect(gate)}"


def _cause(gate: GateDecided) -> str:
    failed = [reason for reason in gate.reasons if not reason.ok]
    if failed:
        flagged = "Flagged: " if gate.decision == "continue" else ""
        return flagged + _sentence("; ".join(reason.text for reason in failed[:2]), capital=not flagged)
    telling = next((r for r in gate.reasons if r.name in ("final_loss", "mse", "mse_standard")), None)
    count = len(gate.reasons)
    if telling is None:
        return f"All {count} checks hold." if count else _sentence(gate.reason.replace("_", " "))
    return f"All {count} checks hold: {telling.text.rstrip('.')}."


def _effect(gate: GateDecided) -> str:
    if gate.observed is not None:
        return f"Only observed: nothing was changed. {_observed(gate)}"
    begin = f"from update {gate.resume_step}" if gate.resume_from is not None else "from the beginning"
    match gate.decision:
        case "continue" if gate.stage == "inference":
            return "The run has passed its test."
        case "continue" if gate.next_target_step is not None:
            return f"It goes on to update {gate.next_target_step}{_with(gate)}."
        case "continue":
            return "The stage's target is reached."
        case "retune" if gate.stage == "inference":
            return f"Dynamics trains on to update {gate.next_target_step}{_with(gate)}."
        case "retune" | "restart_stage":
            word = "Trained again" if gate.decision == "retune" else "The stage begins again"
            return f"{word} {begin}{_with(gate)}."
        case _ if gate.reason == "stopped" and any(reason.name == "files" for reason in gate.reasons):
            return "No step is lost."
        case _ if gate.reason == "stopped":
            return "The operator asked for it."
    if gate.decision_on_resume is not None:
        return "The budget is spent, so the run stops."
    return "The run stops."


def _with(gate: GateDecided) -> str:
    changes = [f"{key} {number(value)}" for key, value in gate.config_patch_applied.items()]
    return f" with {', '.join(changes)}" if changes else ""


def _observed(gate: GateDecided) -> str | None:
    if gate.observed is None:
        return None
    changes = [f"{key} {number(value)}" for key, value in gate.observed.config_patch.items()]
    what = f" with {', '.join(changes)}" if changes else ""
    where = f"going on from update {gate.observed.resume_step}"
    return f"Would have decided {gate.observed.decision}{what}, {where}."


def _sentence(text: str, *, capital: bool = True) -> str:
    text = text.rstrip(". ") + "."
    return text[:1].upper() + text[1:] if capital else text
