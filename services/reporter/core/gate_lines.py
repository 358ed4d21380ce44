"""How reports show gates: a line with what was decided on what, and every value against its limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from services.reporter.core.hostile import inline
from services.reporter.core.markdown import count_of, folded, number, shown, table
from services.reporter.core.material import Material
from shared.events import GateDecided, Reason, Withheld


def gate_line(gate: GateDecided, material: Material) -> str:
    """The line of a training gate: all it rests on, and what follows."""
    checkpoint = gate.accepted_checkpoint or gate.resume_from
    role = "" if gate.accepted_checkpoint is not None else " (goes on from)"
    degraded = ", degraded" if gate.degraded else ""
    return (
        f"- attempt {gate.attempt}, update {gate.gate_step} of {gate.target_step}: decision {gate.decision} "
        f"({inline(gate.reason)}), verdict {gate.verdict}, "
        f"checkpoint{role} {material.link(checkpoint, gate.attempt)}, "
        f"launcher {number(gate.launcher_pid)}, dual_gpu_ok {number(gate.dual_gpu_ok)}, "
        f"patch {patch_text(gate.config_patch_applied)}, effective batch {gate.effective_batch}, "
        f"retries {gate.retries_used} of {gate.retries_max}, restarts {gate.restarts_used}{degraded}"
    )


def patch_text(patch: Mapping[str, JsonValue]) -> str:
    """Knobs with their new values."""
    return ", ".join(f"{inline(key)}={shown(value)}" for key, value in patch.items()) or "none"


def reason_text(reason: Reason) -> str:
    """One check of a gate: what was measured against what."""
    return f"{_mark(reason)}: {_check(reason)}, {_measured(reason)}: {inline(reason.text)}"


def withheld_text(withheld: Withheld, material: Material) -> str:
    """What a gate of an observed run would have done."""
    start = material.link(withheld.resume_from) if withheld.resume_from is not None else "the beginning"
    where = f", from {start} to update {withheld.next_target_step}" if withheld.next_target_step else ""
    patch = patch_text(withheld.config_patch)
    return f"**observed only**: would have decided {withheld.decision}{where}, patch {patch}"


def checks(reasons: Sequence[Reason], indent: str = "") -> list[str]:
    """What failed, in sight; all values against their limits, folded away."""
    failed = [reason for reason in reasons if not reason.ok]
    lines = [f"- {reason_text(reason)}" for reason in failed]
    if reasons:
        told = "all ok" if not failed else f"{len(reasons) - len(failed)} ok, {len(failed)} failed"
        rows = [(_check(r), shown(r.value), shown(r.threshold), _mark(r), inline(r.text)) for r in reasons]
        values = table(("check", "value", "limit", "", "in words"), rows)
        lines += ["", *folded(f"{count_of(len(reasons), 'check')}, {told}", values), ""]
    return [f"{indent}{line}" if line else "" for line in lines]


def _check(reason: Reason) -> str:
    name = inline(reason.name)
    return f"check {reason.check} {name}" if reason.check else name


def _measured(reason: Reason) -> str:
    return f"{shown(reason.value)} against {shown(reason.threshold)}"


def _mark(reason: Reason) -> str:
    return "ok" if reason.ok else "**failed**"
