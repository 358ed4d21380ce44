"""What of a run is said in lines: one per event, one for progress, and the last words."""

from __future__ import annotations

from collections.abc import Mapping

from services.commands.terminal.text import duration, measurements
from services.reporter.core.page.inference import tested
from services.reporter.core.page.model import Page, RunRow
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


def line(recorded: Recorded) -> str | None:
    """One line for one message; none if it is not worth one."""
    text = _sentence(recorded.message)
    return f"{recorded.time.astimezone():%H:%M:%S}  {text}" if text else None


def progress_line(progress: TrainProgress) -> str:
    """Where the chunk is, for output that is no terminal."""
    return f"          {progress.stage} {progress.step}/{progress.stage_target}  " + "  ".join(
        _figures(progress)
    )


def ending(page: Page) -> list[str]:
    """What to say when a run is over: how it ended, where the bundle is, what to open."""
    run, test = page.run, page.inference
    status = run.status if page.mode == "autoregressive" else f"{run.status} ({page.mode})"
    lines = [
        f"Run {run.run_id}: {status}{', degraded' if run.degraded else ''}"
        + (f" - {page.reason}" if page.reason else "")
    ]
    if test is not None:
        lines.append(f"inference test failed: {test.problem}" if test.problem else _tested(test.numbers))
    if page.bundle:
        lines.append(f"Bundle: {page.bundle}")
        paths = [report.path for report in page.reports if report.path is not None]
        if test is not None and test.picture:
            paths.append(test.picture)
        if paths:
            lines += ["Open:", *(f"  {page.bundle}/{path}" for path in paths)]
    return lines


def _figures(progress: TrainProgress) -> tuple[str, str, str]:
    """Loss and learning rate, frames/s, ETA; the last two are unknown at a chunk's first update."""
    loss = "-" if progress.loss is None else f"{progress.loss:.5f}"
    known = progress.frames_per_sec > 0
    return (
        f"loss {loss}  lr {progress.learning_rate:.2e}",
        f"{progress.frames_per_sec:.0f} frames/s" if known else "- frames/s",
        f"ETA of the stage {duration(progress.eta_sec) if known else '-'}",
    )


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
    return _tested(tested(done, 0.0).numbers)


def _tested(numbers: Mapping[str, float | None]) -> str:
    return "inference  " + "  ".join(f"{name} {value}" for name, value in measurements(numbers))


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


def exit_code(run: RunRow) -> int:
    """0 good or not ended, 1 the answer is no."""
    return 1 if run.status in ("failed", "stopped") else 0
