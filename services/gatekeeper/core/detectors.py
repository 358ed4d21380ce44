"""Check 6 beyond the stage's own limits: sickness of any training, told from robust numbers of its history.

What is not measured is not judged: a history without a clock, with too few rows or with empty cells trips
nothing. Each detector has its section in the policy and can be switched off there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from services.gatekeeper.config import Detectors, LossSpike, NonFinite, Stagnation, Throughput
from services.gatekeeper.core.state import StageState, effective_batch
from shared.events import ChunkPlan, HistoryStats, LossLevels, Reason

CHECK = 6
Trouble = Literal["non_finite", "loss_spike", "stagnation"]
STAGNATION = "stagnation"
"""Name of the reason by which the fold counts such gates."""


@dataclass(frozen=True, slots=True)
class Detected:
    """What the detectors found."""

    reasons: tuple[Reason, ...]
    trouble: Trouble | None
    """The first that fails the gate. A reason that is not ok without trouble flags it."""


def detect(stage: StageState, history: HistoryStats, plan: ChunkPlan, policy: Detectors) -> Detected:
    """Ask every detector that is on, in the order of the policy's sections.

    Args:
        stage: The stage before the gate.
        history: Statistics of the chunk's rows.
        plan: The chunk.
        policy: Which detectors are on, and their limits.
    """
    reasons: list[Reason] = []
    troubles: list[Trouble] = []
    if policy.non_finite.enabled and (found := non_finite(history, policy.non_finite)):
        reasons.append(found)
        troubles += [] if found.ok else ["non_finite"]
    levels = history.levels
    if policy.loss_spike.enabled and levels is not None:
        found = loss_spike(levels, policy.loss_spike)
        reasons.append(found)
        troubles += [] if found.ok else ["loss_spike"]
    initial = initial_level(stage, plan, levels)
    if policy.stagnation.enabled and levels is not None and initial is not None:
        share = plan.target_step / stage.target
        found = stagnation(levels.last, initial, share, policy.stagnation)
        reasons.append(found)
        lasting = stage.stagnant_gates + 1 >= policy.stagnation.in_a_row
        troubles += [] if found.ok or not lasting else ["stagnation"]
    if policy.throughput.enabled:
        before = stage.pace.get(effective_batch(plan.parameters))
        reasons += throughput(history, before, policy.throughput)
    return Detected(tuple(reasons), troubles[0] if troubles else None)


def non_finite(history: HistoryStats, limits: NonFinite) -> Reason | None:
    """The loss is lost: the newest rows, `tail_rows` or more, have a loss that is not finite; or all have.

    Weights that are not finite never recover, so divergence shows as a tail. Single such rows are what a
    gradient scaler does when it looks for its scale. Rows without any loss are no signal, and do not count.
    None where every row that has a loss has a finite one.
    """
    if history.non_finite_rows == 0:
        return None
    tail = history.non_finite_tail
    ok = tail < limits.tail_rows and history.rows > 0
    text = f"{history.non_finite_rows} rows have a loss that is not finite, {tail} of them at the end"
    return _reason("non_finite_tail", tail, limits.tail_rows, ok=ok, text=text)


def loss_spike(levels: LossLevels, limits: LossSpike) -> Reason:
    """The loss left the level it had reached, and had not come back at the gate.

    With medians over blocks of the chunk's rows: last > lowest + `min_noise` * noise and
    last > `min_ratio` * lowest. A spike that is over by the gate is none: training has absorbed it. The first
    condition keeps heavy-tailed noise out, the second what a rising learning rate does to a loss without
    noise. Rollback and a lower rate are what PaLM (Chowdhery et al. 2022, 5.1) and OPT (Zhang et al. 2022,
    2.5) did by hand.
    """
    noisy = levels.lowest + limits.min_noise * levels.noise
    high = limits.min_ratio * levels.lowest
    limit = max(noisy, high)
    ok = levels.last <= limit
    text = (
        f"the loss ends at a level of {levels.last:.4g}, "
        f"{'within' if ok else 'above'} {limit:.4g}, the limit for a lowest level of {levels.lowest:.4g} "
        f"and noise of {levels.noise:.2g}"
    )
    return _reason("loss_spike", levels.last, limit, ok=ok, text=text)


def initial_level(stage: StageState, plan: ChunkPlan, levels: LossLevels | None) -> float | None:
    """The loss with which the stage's lineage began; none if that began with a given checkpoint."""
    if plan.resume_from is None:
        return levels.first if levels is not None else None
    return stage.initial_level


def stagnation(last: float, initial: float, share: float, limits: Stagnation) -> Reason:
    """The stage learns nothing: last > (1 - `min_drop`) * initial, from `from_share` of the target on.

    Against the level the stage began with, not against the gates before: a healthy stage flattens out for
    good, and its absolute limits say whether it did so low enough.
    """
    limit = (1 - limits.min_drop) * initial
    fell, binds = last <= limit, share >= limits.from_share
    text = (
        f"the loss level {last:.4g} is {'at or below' if fell else 'above'} {limit:.4g}, "
        f"{100 * (1 - limits.min_drop):g} % of the {initial:.4g} it began with"
    )
    if not fell and not binds:
        text += f", which does not bind before {limits.from_share:g} of the target"
    return _reason(STAGNATION, last, limit, ok=fell or not binds, text=text)


def throughput(history: HistoryStats, before: float | None, limits: Throughput) -> list[Reason]:
    """Updates take `max_slowdown` times as long as they did, or longer.

    The chunk's end against its beginning, and the chunk against the stage's fastest of the same effective
    batch. Medians: pauses for checkpoints and the first updates' compilation do not count. A slowdown
    says something about the machine and nothing about the model: it flags the gate and never fails it.
    """
    found = []
    if history.slowdown is not None:
        ok = history.slowdown < limits.max_slowdown
        text = f"an update took {history.slowdown:.3g} times as long at the chunk's end as at its beginning"
        found.append(_reason("throughput", history.slowdown, limits.max_slowdown, ok=ok, text=text))
    if history.update_seconds is not None and before is not None:
        ratio = history.update_seconds / before
        ok = ratio < limits.max_slowdown
        text = f"an update took {ratio:.3g} times as long as in the stage's fastest chunk of this batch"
        found.append(_reason("throughput_of_stage", ratio, limits.max_slowdown, ok=ok, text=text))
    return found


def _reason(name: str, value: float, threshold: float, *, ok: bool, text: str) -> Reason:
    return Reason(check=CHECK, name=name, value=value, threshold=threshold, ok=ok, text=text)
