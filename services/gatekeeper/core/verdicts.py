"""The numeric verdict of a gate: what a chunk's history says about a stage's health."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.gatekeeper.config import DynamicsLimits, LatentActionsLimits, Policy, VideoTokenizerLimits
from shared.events import HistoryStats, Reason, Stage, Verdict, WindowStats

CHECK = 6


@dataclass(frozen=True, slots=True)
class Numbers:
    """What a numeric verdict rests on. Losses are means over windows of the chunk's history."""

    final: float
    windows: WindowStats
    unique_actions: float | None
    action_entropy: float | None
    """Nats."""
    previous_late: float | None
    """Late mean of the last accepted gate; none at a stage's first."""
    binds: bool
    """Whether the absolute loss limits bind at this gate."""


@dataclass(frozen=True, slots=True)
class NumericVerdict:
    """Health by numbers, with the reasons."""

    verdict: Verdict
    severe: bool
    """The collapse is severe."""
    entropy_collapsed: bool
    reasons: tuple[Reason, ...]


def binds(policy: Policy, gate_step: int, target: int) -> bool:
    """Whether the absolute loss limits bind at a gate: from the fraction of the target on, inclusive."""
    return gate_step >= policy.absolute_loss_from * target


def numeric_verdict(
    stage: Stage, history: HistoryStats, policy: Policy, *, previous_late: float | None, binding: bool
) -> NumericVerdict:
    """Judge a chunk's history by the stage's row of limits.

    Args:
        stage: Whose limits apply.
        history: Statistics of the chunk's rows.
        policy: The limits.
        previous_late: Late mean of the last accepted gate of the stage, none at its first.
        binding: Whether the absolute loss limits bind (`binds`).
    """
    if history.final_loss is None or history.loss is None:
        reason = _reason("final_loss", None, "a finite number", ok=False, text="no row has a finite loss")
        return NumericVerdict("retune", severe=False, entropy_collapsed=False, reasons=(reason,))
    numbers = Numbers(
        history.final_loss,
        history.loss,
        history.unique_actions,
        history.action_entropy,
        previous_late,
        binding,
    )
    if stage == "video_tokenizer":
        return video_tokenizer_verdict(numbers, policy.limits.video_tokenizer)
    if stage == "latent_actions":
        return latent_actions_verdict(numbers, policy.limits.latent_actions)
    return dynamics_verdict(numbers, policy.limits.dynamics)


def video_tokenizer_verdict(numbers: Numbers, limits: VideoTokenizerLimits) -> NumericVerdict:
    """Continue: low, not rising within the chunk, trend down over two gates. Watch: low enough.

    Before the absolute limits bind, a loss that falls, or that only fails the trend, is watch at worst.
    """
    level = _at_most("final_loss", numbers.final, limits.continue_final_loss, numbers.binds)
    steady = _late_over_mid(numbers.windows, limits.continue_late_over_mid)
    trend = _trend(numbers)
    if numbers.binds:
        watch = _at_most("final_loss_watch", numbers.final, limits.watch_final_loss, binding=True)
        tolerable = [watch.ok]
        reasons = [level, steady, trend, watch]
    else:
        tolerable = [steady.ok or _falling(numbers.windows)]
        reasons = [level, steady, trend]
    return _verdict(_all(level, steady, trend), all(tolerable), reasons)


def latent_actions_verdict(numbers: Numbers, limits: LatentActionsLimits) -> NumericVerdict:
    """Continue: low, several actions in use, evenly enough. Watch: low enough, several actions in use."""
    level = _at_most("final_loss", numbers.final, limits.continue_final_loss, numbers.binds)
    unique = _at_least("unique_actions", numbers.unique_actions, limits.continue_unique_actions)
    entropy = _at_least("action_entropy", numbers.action_entropy, limits.continue_action_entropy)
    watch_level = _at_most("final_loss_watch", numbers.final, limits.watch_final_loss, numbers.binds)
    watch_unique = _at_least("unique_actions_watch", numbers.unique_actions, limits.watch_unique_actions)
    collapsed = numbers.action_entropy is not None and numbers.action_entropy < limits.continue_action_entropy
    severe = (
        numbers.unique_actions is not None
        and numbers.unique_actions <= limits.collapse_unique_actions
        and numbers.action_entropy is not None
        and numbers.action_entropy <= limits.collapse_action_entropy
    )
    return _verdict(
        _all(level, unique, entropy),
        _all(watch_level, watch_unique),
        [level, unique, entropy, watch_level, watch_unique],
        severe=severe,
        entropy_collapsed=collapsed,
    )


def dynamics_verdict(numbers: Numbers, limits: DynamicsLimits) -> NumericVerdict:
    """Continue: not rising, low enough. Watch: rising a little. Always retune: high and not falling."""
    windows = numbers.windows
    steady = _late_over_mid(windows, limits.continue_late_over_mid)
    delta = _at_most("delta", windows.delta, limits.continue_delta)
    level = _at_most("final_loss", numbers.final, limits.continue_final_loss, numbers.binds)
    watch_steady = _late_over_mid(windows, limits.watch_late_over_mid, name="late_over_mid_watch")
    watch_delta = _at_most("delta_watch", windows.delta, limits.watch_delta)
    severe = (
        numbers.binds
        and numbers.final >= limits.collapse_final_loss
        and windows.delta >= limits.collapse_delta
    )
    reasons = [steady, delta, level, watch_steady, watch_delta]
    if severe:
        text = (
            f"final loss {numbers.final:.4g} is at or above {limits.collapse_final_loss:g} "
            f"and delta {windows.delta:.4g} at or above {limits.collapse_delta:g}"
        )
        threshold = {"final_loss": limits.collapse_final_loss, "delta": limits.collapse_delta}
        value = {"final_loss": numbers.final, "delta": windows.delta}
        reasons.append(
            Reason(check=CHECK, name="collapse", value=value, threshold=threshold, ok=False, text=text)
        )
    tolerable = _all(watch_steady, watch_delta) or (not numbers.binds and _falling(windows))
    return _verdict(
        _all(steady, delta, level) and not severe, tolerable and not severe, reasons, severe=severe
    )


def _verdict(
    healthy: bool,
    tolerable: bool,
    reasons: Sequence[Reason],
    *,
    severe: bool = False,
    entropy_collapsed: bool = False,
) -> NumericVerdict:
    verdict: Verdict = "continue" if healthy else "watch" if tolerable else "retune"
    return NumericVerdict(verdict, severe, entropy_collapsed, tuple(reasons))


def _all(*reasons: Reason) -> bool:
    return all(reason.ok for reason in reasons)


def _falling(windows: WindowStats) -> bool:
    return windows.delta < 0


def _trend(numbers: Numbers) -> Reason:
    late, previous = numbers.windows.late, numbers.previous_late
    before = numbers.windows.early if previous is None else previous
    of = "early mean of the chunk" if previous is None else "late mean of the last accepted gate"
    ok = late < before
    text = f"late mean {late:.4g} is {'' if ok else 'not '}below the {of}, {before:.4g}"
    return _reason("trend", late, before, ok=ok, text=text)


def _late_over_mid(windows: WindowStats, limit: float, *, name: str = "late_over_mid") -> Reason:
    ok = windows.late <= limit * windows.mid
    where = "within" if ok else "above"
    text = f"late mean {windows.late:.4g} is {where} {limit:g} times the mid mean {windows.mid:.4g}"
    return _reason(name, windows.late, limit * windows.mid, ok=ok, text=text)


def _at_most(name: str, value: float, limit: float, binding: bool = True) -> Reason:
    ok = value <= limit
    text = f"{_words(name)} {value:.4g} is {'at or below' if ok else 'above'} {limit:g}"
    if not ok and not binding:
        return _reason(name, value, limit, ok=True, text=f"{text}, which does not bind yet")
    return _reason(name, value, limit, ok=ok, text=text)


def _at_least(name: str, value: float | None, limit: float) -> Reason:
    if value is None:
        return _reason(
            name, None, limit, ok=False, text=f"{_words(name)} is missing, {limit:g} or more is needed"
        )
    ok = value >= limit
    text = f"{_words(name)} {value:.4g} is {'at or above' if ok else 'below'} {limit:g}"
    return _reason(name, value, limit, ok=ok, text=text)


def _words(name: str) -> str:
    return name.removesuffix("_watch").replace("_", " ")


def _reason(name: str, value: float | None, threshold: float | str, *, ok: bool, text: str) -> Reason:
    return Reason(check=CHECK, name=name, value=value, threshold=threshold, ok=ok, text=text)
