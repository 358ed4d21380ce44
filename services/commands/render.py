"""How a run looks: a live panel on a terminal, plain lines elsewhere, a summary as JSON."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from services.commands.view import GOOD, RunView
from shared.bus.protocol import Recorded
from shared.events import (
    AlertRaised,
    ChunkDone,
    ChunkStarted,
    CommandRejected,
    CommandTimedOut,
    EvidenceTimedOut,
    GateDecided,
    InferenceDone,
    LauncherKilled,
    Message,
    OperatorRequested,
    ReportWritten,
    RunFinished,
    RunPaused,
    RunQueued,
    RunResumed,
    RunStarted,
    StageBlocked,
    StageCompleted,
    StageStarted,
    TrainProgress,
)

DECISIONS_SHOWN = 6
NOTES_SHOWN = 3
COLOURS = {
    "passed": "green", "stage_completed": "green", "running": "cyan", "queued": "yellow", "paused": "yellow",
    "failed": "red", "stopped": "red", "continue": "green", "watch": "yellow", "retune": "red",
}  # fmt: skip


def panel(view: RunView, *, hint: str = "") -> RenderableType:
    """The live view."""
    parts: list[RenderableType] = [_headline(view)]
    if view.stages:
        parts.append(_stages(view))
    if view.progress is not None and not view.ended:
        parts.append(_progress(view.progress))
    if view.decisions:
        parts.append(_decisions(view))
    if view.inference is not None:
        parts.append(Text(_inference(view.inference)))
    parts += [Text(note, style="yellow") for note in view.notes[-NOTES_SHOWN:]]
    return Panel(Group(*parts), title=f"worldloop {view.run_id}", subtitle=hint or None, title_align="left")


def line(recorded: Recorded) -> str | None:
    """One line for one message; none if it is not worth one."""
    text = _sentence(recorded.message)
    return f"{recorded.time.astimezone():%H:%M:%S}  {text}" if text else None


def progress_line(progress: TrainProgress) -> str:
    """Where the chunk is, for output that is no terminal."""
    return f"          {progress.stage} {progress.step}/{progress.stage_target}  " + "  ".join(
        _figures(progress)
    )


def summary(view: RunView) -> dict[str, Any]:
    """The run as one JSON object."""
    inference = view.inference
    return {
        "run_id": view.run_id,
        "status": view.status,
        "mode": view.mode,
        "degraded": view.degraded,
        "reason": view.reason,
        "phase": view.phase,
        "profile": view.spec.profile if view.spec else None,
        "bundle": view.bundle,
        "stage": view.stage,
        "attempt": view.attempt,
        "step": view.progress.step if view.progress else None,
        "stages": {
            stage.stage: {
                "step": stage.step,
                "target": stage.target,
                "gates": stage.gates,
                "retries_used": stage.retries_used,
                "retries_max": stage.retries_max,
                "restarts_used": stage.restarts_used,
                "completed": stage.completed,
                "checkpoint": stage.checkpoint,
            }
            for stage in view.stages.values()
        },
        "decisions": [
            {
                "stage": gate.stage,
                "attempt": gate.attempt,
                "gate_step": gate.gate_step,
                "decision": gate.decision,
                "verdict": gate.verdict,
                "reason": gate.reason,
            }
            for gate in view.decisions
        ],
        "inference": inference.model_dump(mode="json", exclude={"run_id"}) if inference else None,
        "reports": {report.report: report.path for report in view.reports if report.ok},
        "notes": list(view.notes),
        "updated": view.last.isoformat() if view.last else None,
    }


def ending(view: RunView) -> list[str]:
    """What to say when a run is over: how it ended, where the bundle is, what to open."""
    status = view.status if view.mode == "autoregressive" else f"{view.status} ({view.mode})"
    lines = [
        f"Run {view.run_id}: {status}{', degraded' if view.degraded else ''}"
        + (f" - {view.reason}" if view.reason else "")
    ]
    if view.inference is not None:
        lines.append(_inference(view.inference))
    if view.bundle:
        lines.append(f"Bundle: {view.bundle}")
        paths = list(
            {report.report: report.path for report in view.reports if report.ok and report.path}.values()
        )
        if view.inference is not None and view.inference.picture:
            paths.append(view.inference.picture)
        if paths:
            lines += ["Open:", *(f"  {view.bundle}/{path}" for path in paths)]
    return lines


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    whole = max(0, round(seconds))
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours >= 48:
        return f"{hours / 24:.1f} d"
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {whole % 60:02d} s"


def _headline(view: RunView) -> Text:
    text = Text.assemble(
        (view.status, COLOURS[view.status]),
        ("  degraded" if view.degraded else "", "yellow"),
        f"  {view.phase}",
    )
    if view.reason and view.status != "running":
        text.append(f"  ({view.reason})")
    return text


def _stages(view: RunView) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("stage", "step", "target", "gates", "retries", "restarts", ""):
        table.add_column(column, style=None, justify="left" if column in {"stage", ""} else "right")
    for stage in view.stages.values():
        here = stage.stage == view.stage and not view.ended
        table.add_row(
            Text(stage.stage, style="bold" if here else ""),
            "-" if stage.stage == "inference" else str(stage.step),
            "-" if stage.stage == "inference" else str(stage.target),
            str(stage.gates),
            f"{stage.retries_used}/{stage.retries_max}",
            str(stage.restarts_used),
            "complete" if stage.completed else "",
        )
    return table


def _progress(progress: TrainProgress) -> RenderableType:
    bar = Table.grid(padding=(0, 2))
    bar.add_row(
        ProgressBar(total=max(1, progress.stage_target), completed=progress.step, width=28),
        f"step {progress.step} of {progress.stage_target}, chunk to {progress.target_step}",
    )
    return Group(bar, Text("  ".join(_figures(progress))))


def _figures(progress: TrainProgress) -> tuple[str, str, str]:
    """Loss and learning rate, frames/s, ETA; the last two are unknown at a chunk's first update."""
    loss = "-" if progress.loss is None else f"{progress.loss:.5f}"
    known = progress.frames_per_sec > 0
    return (
        f"loss {loss}  lr {progress.learning_rate:.2e}",
        f"{progress.frames_per_sec:.0f} frames/s" if known else "- frames/s",
        f"ETA of the stage {duration(progress.eta_sec) if known else '-'}",
    )


def _decisions(view: RunView) -> Table:
    table = Table(box=None, pad_edge=False, title="last decisions", title_justify="left")
    for column in ("stage", "step", "decision", "verdict", "why"):
        table.add_column(column, justify="right" if column == "step" else "left", no_wrap=column != "why")
    for gate in view.decisions[-DECISIONS_SHOWN:]:
        table.add_row(
            gate.stage,
            str(gate.gate_step),
            Text(gate.decision, style=COLOURS.get(gate.decision, "red")),
            Text(gate.verdict, style=COLOURS.get(gate.verdict, "")),
            _why(gate),
        )
    return table


def _why(gate: GateDecided) -> str:
    failed = [reason.text for reason in gate.reasons if not reason.ok]
    patch = ", ".join(f"{key}={value}" for key, value in gate.config_patch_applied.items())
    if gate.decision == "stop":
        patch = ""
    withheld = gate.observed
    would = f"observed only, would {withheld.decision}" if withheld is not None else ""
    parts = [*(failed[:2] or [gate.reason]), f"now {patch}" if patch else "", would]
    return "; ".join(part for part in parts if part)


def _inference(done: InferenceDone) -> str:
    if not done.ok:
        return f"inference test failed: {done.problem}"
    numbers = {
        done.gated_by: done.gating,
        "mse": done.mse, "skill": done.skill, "mean frame's skill": done.mean_frame_skill, "psnr": done.psnr,
        "tokenizer mse": done.tokenizer_mse, "motion ratio": done.motion_ratio, "delta-psnr": done.delta_psnr,
    }  # fmt: skip
    text = "  ".join(f"{name} {value:.4g}" for name, value in numbers.items() if value is not None)
    codes = (
        "" if done.actions_in_use is None else f"  action codes {done.actions_in_use}/{done.actions_total}"
    )
    return f"inference  {text}{codes}"


def _sentence(message: Message) -> str | None:
    match message:
        case OperatorRequested(request=request):
            return f"operator: {request}"
        case CommandRejected(request=request, reason=reason):
            return f"refused {request}: {reason}"
        case RunQueued(behind=behind):
            return f"queued behind {', '.join(behind)}"
        case RunStarted(spec=spec):
            return f"run {message.run_id} started, profile {spec.profile}"
        case StageStarted(stage=stage, start_step=start, target_step=target):
            return f"{stage}: {start} to {target} updates"
        case ChunkStarted(stage=stage, attempt=attempt, plan=plan) as event:
            how = "warm" if event.warm else f"launcher {event.launcher_pid}, launch {event.launch}"
            return (
                f"{stage} attempt {attempt}: {plan.start_step} to {plan.target_step} "
                f"on {event.world_size} x {event.device} ({how})"
            )
        case ChunkDone(stage=stage, attempt=attempt, reason=reason, end_step=end, seconds=seconds):
            return f"{stage} attempt {attempt}: {reason} at {end} after {duration(seconds)}"
        case GateDecided() as gate:
            budget = f"retries {gate.retries_used}/{gate.retries_max}"
            what = f"gate {gate.stage} at {gate.gate_step}: {gate.decision} ({gate.verdict})"
            return f"{what} - {_why(gate)}; {budget}"
        case StageCompleted(stage=stage, step=step):
            return f"{stage} complete at {step}"
        case StageBlocked(stage=stage, blocking_factors=factors):
            return f"{stage} blocked: {'; '.join(factors)}"
        case InferenceDone() as done:
            return _inference(done)
        case ReportWritten(report=report, ok=ok, path=path, error=error):
            return f"report {report}: {path}" if ok else f"report {report} failed: {error}"
        case RunPaused(by=by, reason=reason):
            return f"paused by {by}: {reason}"
        case RunResumed(by=by, reason=reason):
            return f"resumed by {by}: {reason}"
        case RunFinished(status=status, degraded=degraded, reason=reason):
            return f"finished: {status}{', degraded' if degraded else ''} - {reason}"
        case LauncherKilled(pid=pid, why=why):
            return f"launcher {pid} ended: {why}"
        case EvidenceTimedOut(missing=missing, waited_sec=waited):
            return f"no evidence from {', '.join(missing)} for {waited:.0f} s"
        case CommandTimedOut(command=command, service=service):
            return f"nothing came of {command}; is the {service} alive?"
        case AlertRaised(channel=channel, silence_sec=silence, detail=detail):
            return f"alert: {detail or f'{channel}: silent for {silence:.0f} s'}"
        case _:
            return None


def exit_code(view: RunView) -> int:
    """0 good, 1 the answer is no."""
    return 0 if view.status in GOOD else 1
