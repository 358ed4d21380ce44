"""Golden transcripts: how a run is told, event by event, and the index of all of them. `rows` has the runs.

    WORLDLOOP_WRITE_TRANSCRIPTS=1 pytest tests/unit/gatekeeper/test_transcripts.py

writes the files and the index anew; without it they are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.events import (
    ArtifactEvidence,
    ChunkCommand,
    ChunkDone,
    Command,
    EvaluateInference,
    Event,
    GateDecided,
    GpuEvidence,
    InferenceDone,
)
from tests.unit.gatekeeper.story import Story, describe

FOLDER = Path(__file__).with_name("transcripts")
INDEX = Path(__file__).parents[3] / "docs" / "decisions.md"
LINK = "../tests/unit/gatekeeper/transcripts"
"""From the index to the files."""

INTRO = """\
# Decisions

Every row of the gatekeeper's rules as a short run: what came in, what was decided and why, what was asked
for next. The real decision logic plays each, `tests/unit/gatekeeper/test_transcripts.py` compares that with
the file, and so these pages cannot go stale. The runs are tiny: 20 updates a stage, a gate after every 10,
batch 8, accumulation 2, two processes. Thresholds are those of `configs/policy.yaml`.

In a transcript `>` is a command and `=` a gate's record; below the record stand its checks that did not hold,
with value and threshold. All other lines are events of the operator and of other services.
"""


@dataclass(frozen=True)
class Transcript:
    """One row, played."""

    group: str
    name: str
    row: str
    play: Callable[[], Story]

    @property
    def text(self) -> str:
        """The file."""
        lines = [line for message in self.play().messages for line in tell(message)]
        return f"# {self.name.replace('_', ' ')}\n\n{self.row}\n\n```text\n" + "\n".join(lines) + "\n```\n"


def index(transcripts: Sequence[Transcript]) -> str:
    """`docs/decisions.md`."""
    parts = [INTRO]
    for group in dict.fromkeys(each.group for each in transcripts):
        parts.append(f"\n## {group}\n\n| rule | played |\n|---|---|\n")
        parts += [
            f"| {each.row} | [{each.name.replace('_', ' ')}]({LINK}/{each.name}.md) |\n"
            for each in transcripts
            if each.group == group
        ]
    return "".join(parts)


# --- how a message is told --------------------------------------------------------------------------------


def tell(message: Event | Command) -> list[str]:
    """The lines of a transcript that a message makes."""
    match message:
        case GateDecided():
            return _gate(message)
        case ChunkDone():
            shown = [f"{info.step}{'' if info.valid else ' (invalid)'}" for info in message.checkpoints]
            at = f"at {message.end_step} of {message.target_step}"
            return [f"chunk_done {message.reason} {at}, checkpoints at {', '.join(shown) or 'none'}"]
        case GpuEvidence() if message.evidence == "cpu_ranks" and message.observed:
            return []
        case GpuEvidence():
            seen = "" if message.observed else ", observed False"
            return [f"gpu_evidence dual_gpu_ok {message.dual_gpu_ok}{seen}"]
        case ArtifactEvidence():
            return [_artifacts(message)]
        case ChunkCommand():
            return [_command(message)]
        case EvaluateInference():
            return [f"> inference: evaluate_inference, try {message.inference_try}, sending {message.retry}"]
        case InferenceDone():
            gating, name = message.gating, message.gated_by
            found = f"{name} {gating:g}" if gating is not None else f"no {name}"
            picture = "a picture" if message.picture else "no picture"
            ended = f"{found}, {picture}" if message.ok else f"failed: {message.problem}"
            return [f"inference_done {ended}"]
        case _:
            line = describe(message)
            return [line.strip().replace("-> ", "> ")] if line is not None else []


def _gate(gate: GateDecided) -> list[str]:
    words = [f"= gate {gate.stage} #{gate.attempt} at {gate.gate_step}: decision {gate.decision}"]
    words += [f"verdict {gate.verdict}", f"reason {gate.reason}"]
    patch = {**gate.config_patch_applied, **gate.config_patch_on_resume}
    when = "on resume " if gate.decision == "stop" and patch else ""
    words += [f"{when}{key} {value:g}" for key, value in patch.items()]  # type: ignore[str-bytes-safe,unused-ignore]
    if gate.next_effective_batch is not None:
        words.append(f"effective batch {gate.effective_batch} -> {gate.next_effective_batch}")
    if gate.ladder and {"target", "chunk"} & set(gate.ladder):
        words.append(f"rungs {'+'.join(gate.ladder)}")
    if gate.retries_used:
        words.append(f"retry {gate.retries_used} of {gate.retries_max}")
    if gate.restarts_used:
        words.append(f"restart {gate.restarts_used}")
    if gate.degraded:
        words.append("degraded")
    lines = [", ".join(words)]
    lines += [f"    {reason.check} {reason.name}: {reason.text}" for reason in gate.reasons if not reason.ok]
    return lines + [f"    recommended: {text}" for text in gate.recommendations]


def _artifacts(found: ArtifactEvidence) -> str:
    history, visual = found.history, found.visual
    words = [found.history_problem or "no history"] if history is None else []
    if history is not None and history.final_loss is not None and history.loss is not None:
        windows = history.loss
        words.append(f"final loss {history.final_loss:.4g}")
        words.append(f"early {windows.early:.4g} mid {windows.mid:.4g} late {windows.late:.4g}")
        words.append(f"delta {windows.delta:.4g}")
    if history is not None and history.unique_actions is not None and history.action_entropy is not None:
        words.append(f"unique_actions {history.unique_actions:g} action_entropy {history.action_entropy:g}")
    if visual is not None:
        words.append(f"picture {'new' if visual.fresh else 'old'}, contrast {visual.contrast:g}")
    return f"artifact_evidence {', '.join(words)}"


def _command(command: ChunkCommand) -> str:
    plan = command.plan
    knobs = plan.parameters
    origin = f"from {Path(plan.resume_from).name}" if plan.resume_from is not None else "fresh"
    return (
        f"> trainer: {command.name} #{plan.attempt} {plan.start_step}..{plan.target_step} {origin}, "
        f"batch {knobs['batch_size_per_gpu']} x {knobs['gradient_accumulation_steps']}, "
        f"rate {plan.schedule.peak:g}, log every {knobs['log_interval']}"
    )
