"""The ladders: what a failed gate changes. Nothing here raises a learning rate or a log interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from services.gatekeeper.config import Ladder, Policy
from services.gatekeeper.core.state import StageState
from shared.events import Document

RUNGS = ("learning_rate", "gradient_accumulation_steps", "log_interval", "target", "chunk")
"""In the order in which they are climbed."""


@dataclass(frozen=True, slots=True)
class Climb:
    """What a ladder changes."""

    patch: Document = field(default_factory=dict)
    target: int = 0
    """Target of the stage afterwards."""
    chunk: int = 0
    """Chunk length afterwards."""
    rungs: tuple[str, ...] = ()


def smaller_batch(stage: StageState, policy: Policy) -> Document | None:
    """The batch divided, not below the floor; none when it is there already."""
    batch, floor = stage.batch, policy.min_batch_size.of(stage.stage)
    return {"batch_size_per_gpu": max(floor, batch // policy.batch_size_divisor)} if batch > floor else None


def slower(stage: StageState, policy: Policy) -> Climb:
    """What a loss spike changes: the learning rate alone. No rung: the ladder stays where it is."""
    factor = policy.detectors.loss_spike.learning_rate_factor
    rate = decayed(stage.learning_rate, factor, policy.min_learning_rate)
    return Climb({"learning_rate": rate}, stage.target, stage.chunk)


def halved(chunk: int, log_interval: int) -> int:
    """Half a chunk, not below the log interval, never longer than it was."""
    return min(chunk, max(chunk // 2, log_interval))


def decayed(learning_rate: float, factor: float, floor: float) -> float:
    """A lower learning rate, not below the floor, never higher than it was."""
    return min(learning_rate, max(floor, learning_rate * factor))


def rung_after(rung: int, climbed: Sequence[str]) -> int:
    """Where the next climb begins."""
    return (RUNGS.index(climbed[-1]) + 1) % len(RUNGS) if climbed else rung


def climb(stage: StageState, policy: Policy, *, falling: bool) -> Climb:
    """The stage's ladder: all rungs that change something, or with `one_rung` the next of them.

    Args:
        stage: Where it stands.
        policy: Ladders, mode, limits.
        falling: Whether the loss is still dropping.
    """
    ladder = policy.ladders.of(stage.stage)
    order: tuple[str, ...] = RUNGS
    if policy.ladder_mode == "one_rung":
        order = RUNGS[stage.rung :] + RUNGS[: stage.rung]
    result = Climb(target=stage.target, chunk=stage.chunk)
    for rung in order:
        changed = _STEPS[rung](result, stage, ladder, policy, falling)
        if changed is None:
            continue
        result = changed
        if policy.ladder_mode == "one_rung":
            break
    return result


def _learning_rate(result: Climb, stage: StageState, ladder: Ladder, policy: Policy, _: bool) -> Climb | None:
    value = decayed(stage.learning_rate, ladder.learning_rate_factor, policy.min_learning_rate)
    return _knob(result, stage, "learning_rate", value)


def _accumulation(result: Climb, stage: StageState, ladder: Ladder, _: Policy, __: bool) -> Climb | None:
    value = max(1, int(stage.knob("gradient_accumulation_steps")) + ladder.gradient_accumulation_change)
    return _knob(result, stage, "gradient_accumulation_steps", value)


def _log_interval(result: Climb, stage: StageState, ladder: Ladder, _: Policy, __: bool) -> Climb | None:
    own = int(stage.knob("log_interval"))
    return _knob(result, stage, "log_interval", max(min(ladder.log_interval_floor, own), own // 2))


def _target(result: Climb, stage: StageState, ladder: Ladder, policy: Policy, falling: bool) -> Climb | None:
    if not (ladder.extend_target and falling and stage.extensions < policy.max_retries):
        return None
    return Climb(
        result.patch, stage.target + policy.chunk.of(stage.stage), result.chunk, (*result.rungs, "target")
    )


def _chunk(result: Climb, stage: StageState, ladder: Ladder, _: Policy, __: bool) -> Climb | None:
    log_interval = result.patch.get("log_interval", stage.knob("log_interval"))
    assert isinstance(log_interval, int)
    chunk = halved(stage.chunk, log_interval)
    if not ladder.halve_chunk or chunk == stage.chunk:
        return None
    return Climb(result.patch, result.target, chunk, (*result.rungs, "chunk"))


def _knob(result: Climb, stage: StageState, name: str, value: float) -> Climb | None:
    if value == stage.knob(name):
        return None
    return Climb({**result.patch, name: value}, result.target, result.chunk, (*result.rungs, name))


_STEPS: dict[str, Callable[[Climb, StageState, Ladder, Policy, bool], Climb | None]] = {
    "learning_rate": _learning_rate,
    "gradient_accumulation_steps": _accumulation,
    "log_interval": _log_interval,
    "target": _target,
    "chunk": _chunk,
}
