"""The causal verdict: did latent actions or dynamics begin it?

Each stage has a list of criteria, each one a test with its number. A stage is primary when most of the
criteria that can be measured hold, at least `LEAST` of them. Where both are, the verdict is mixed.
Correlations point at a suspect and prove nothing: no single criterion decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from services.diagnosis.core import measures
from services.diagnosis.core.evidence import StageEvidence
from services.diagnosis.core.model import Cause, Criterion, Role, Severity, StageDiagnosis
from services.gatekeeper.config import Policy
from services.monitor.core.history import ACTION_ENTROPY, RATE
from shared.events import Stage

ACCUSED: tuple[Stage, Stage] = ("latent_actions", "dynamics")
LEAST = 2
"""Criteria that must hold, however few can be measured."""
LONG_SPAN = 0.2
"""Unbroken share of a history with one action in use that is a long span."""
NO_ENTROPY = 0.1
"""Nats; a batch that uses two actions 98 to 2 has as much."""
LOW_USAGE = 0.5
"""Share of the action codes."""
UNRELATED, RELATED = 0.2, 0.5
"""Size of a correlation that is barely one, and that is one."""
FLATTENED = 0.7
"""Late contrast over early contrast below which pictures drift flat."""


def judge_cause(
    evidence: Mapping[Stage, StageEvidence],
    stages: Mapping[Stage, StageDiagnosis],
    policy: Policy,
    verdict: Severity,
) -> Cause:
    """Weigh the criteria of both stages.

    Args:
        evidence: What was found of each stage.
        stages: What was made of it.
        policy: Thresholds of the windows and pictures.
        verdict: Of the run: where it is normal, there is nothing to find a cause for.
    """
    latent = latent_criteria(stages, policy)
    dynamics = dynamics_criteria(evidence.get("dynamics"), stages.get("dynamics"), policy)
    if verdict == "normal":
        nothing = _role(latent, guilty=False, involved=False), _role(dynamics, guilty=False, involved=False)
        return _cause("none", *nothing, "nothing is wrong that needs a cause", latent, dynamics)
    guilty = most_hold(latent), most_hold(dynamics)
    if all(guilty):
        return _cause("mixed", "primary", "primary", "both stages' criteria mostly hold", latent, dynamics)
    roles = (
        _role(latent, guilty=guilty[0], involved=guilty[1] and _ill(stages.get("latent_actions"), latent)),
        _role(dynamics, guilty=guilty[1], involved=guilty[0] and _ill(stages.get("dynamics"), dynamics)),
    )
    if guilty[0]:
        return _cause("latent_actions", *roles, f"{_count(latent)} of latent actions hold", latent, dynamics)
    if guilty[1]:
        return _cause("dynamics", *roles, f"{_count(dynamics)} of dynamics hold", latent, dynamics)
    ill = [stage.stage for stage in stages.values() if stage.verdict != "normal"]
    own, other = ("unknown" if name in ill else role for name, role in zip(ACCUSED, roles, strict=True))
    text = (
        f"not normal: {', '.join(ill) or 'no stage'}; but only {_count(latent)} of latent actions "
        f"and {_count(dynamics)} of dynamics hold"
    )
    return _cause("undetermined", own, other, text, latent, dynamics)


def most_hold(criteria: Sequence[Criterion]) -> bool:
    """More than half of those that can be measured, at least `LEAST`."""
    measured = [each.holds for each in criteria if each.holds is not None]
    return sum(measured) >= LEAST and 2 * sum(measured) > len(measured)


def latent_criteria(stages: Mapping[Stage, StageDiagnosis], policy: Policy) -> list[Criterion]:
    """Collapse of the actions, on the stage's own history, else on what dynamics logged of them."""
    own, other = stages.get("latent_actions"), stages.get("dynamics")
    source = own if own is not None and own.actions is not None else other
    numbers = source.actions if source is not None else None
    files = source.histories if source is not None else []
    late = own.visuals.late if own is not None else None
    of = "" if source is own else " (from the history of dynamics)"
    span = numbers.longest_at_one if numbers is not None else None
    share = numbers.share_at_one if numbers is not None else None
    entropy = numbers.entropy_late if numbers is not None else None
    early, usage = (numbers.codebook_early, numbers.codebook_late) if numbers is not None else (None, None)
    shrinks = early is not None and usage is not None and usage < early
    return [
        Criterion(
            name="one_action",
            question="is unique_actions at 1 for long spans?",
            holds=None if span is None else span >= LONG_SPAN,
            value=span,
            threshold=LONG_SPAN,
            text=f"the longest span with one action is {span:.1%} of the rows, {share:.1%} in all{of}"
            if span is not None and share is not None
            else "unique_actions was not logged",
            evidence=files,
        ),
        Criterion(
            name="no_entropy",
            question="is action_entropy near 0?",
            holds=None if entropy is None else entropy <= NO_ENTROPY,
            value=entropy,
            threshold=NO_ENTROPY,
            text=f"mean entropy of the last third is {entropy:.3g} nats{of}"
            if entropy is not None
            else "action_entropy was not logged",
            evidence=files,
        ),
        Criterion(
            name="codebook_shrinks",
            question="is codebook usage low and shrinking?",
            holds=None if usage is None else usage <= LOW_USAGE and shrinks,
            value=usage,
            threshold=LOW_USAGE,
            text=f"usage goes from {early:.3g} in the first third to {usage:.3g} in the last{of}"
            if early is not None and usage is not None
            else "codebook usage was not logged",
            evidence=files,
        ),
        Criterion(
            name="visuals_lost",
            question="have its pictures lost their structure?",
            holds=None if late is None else not late.ok,
            value=None if late is None else late.numbers["contrast"],
            threshold=policy.visual.min_contrast,
            text="no picture can be judged" if late is None else late.text,
            evidence=[] if late is None else [late.path],
        ),
    ]


def dynamics_criteria(
    found: StageEvidence | None, stage: StageDiagnosis | None, policy: Policy
) -> list[Criterion]:
    """Divergence of dynamics on its own account."""
    columns = found.columns if found is not None else None
    files = stage.histories if stage is not None else []
    windows = stage.loss.windows if stage is not None and stage.loss is not None else None
    limits = policy.limits.dynamics
    ratio = windows.late / windows.mid if windows is not None and windows.mid > 0 else None
    delta = windows.delta if windows is not None else None
    diversity = measures.correlation(columns, ACTION_ENTROPY) if columns is not None else None
    rate = measures.correlation(columns, RATE) if columns is not None else None
    no_loss = "there is no loss to look at"
    return [
        Criterion(
            name="windows_rise",
            question="do the windows of the loss rise?",
            holds=None if ratio is None else ratio > limits.continue_late_over_mid,
            value=ratio,
            threshold=limits.continue_late_over_mid,
            text=f"early {windows.early:.4g}, mid {windows.mid:.4g}, late {windows.late:.4g}"
            if windows is not None
            else no_loss,
            evidence=files,
        ),
        Criterion(
            name="delta_positive",
            question="is last 10 % - first 10 % strongly positive?",
            holds=None if delta is None else delta > limits.watch_delta,
            value=delta,
            threshold=limits.watch_delta,
            text=f"first 10 % {windows.first10:.4g}, last 10 % {windows.last10:.4g}"
            if windows is not None
            else no_loss,
            evidence=files,
        ),
        Criterion(
            name="ignores_actions",
            question="does the loss barely correlate with action diversity?",
            holds=None if diversity is None else abs(diversity) < UNRELATED,
            value=diversity,
            threshold=UNRELATED,
            text=f"correlation of loss and action_entropy is {diversity:.2f}"
            if diversity is not None
            else "action_entropy was not logged, or does not vary",
            evidence=files,
        ),
        Criterion(
            name="follows_rate",
            question="does the loss correlate with the learning rate?",
            holds=None if rate is None else abs(rate) >= RELATED,
            value=rate,
            threshold=RELATED,
            text=f"correlation of loss and learning rate is {rate:.2f}"
            if rate is not None
            else "the learning rate was not logged, or does not vary",
            evidence=files,
        ),
        _drift(stage),
    ]


def _drift(stage: StageDiagnosis | None) -> Criterion:
    early, late = (stage.visuals.early, stage.visuals.late) if stage is not None else (None, None)
    kept, text = None, "no picture can be judged"
    if early is not None and late is not None:
        before, after = early.numbers["contrast"], late.numbers["contrast"]
        kept = after / before if before > 0 else None
        text = f"contrast was {before:.3g} at step {early.step}, {after:.3g} at step {late.step}; {late.text}"
    drifts = kept is not None and kept < FLATTENED
    return Criterion(
        name="visuals_drift_flat",
        question="do its pictures drift flat?",
        holds=None if late is None else drifts or not late.ok,
        value=kept,
        threshold=FLATTENED,
        text=text,
        evidence=list(dict.fromkeys(picture.path for picture in (early, late) if picture is not None)),
    )


def _ill(stage: StageDiagnosis | None, criteria: Sequence[Criterion]) -> bool:
    """Whether a stage shows anything at all: then it follows from the other, and is secondary."""
    return (stage is not None and stage.verdict != "normal") or any(each.holds for each in criteria)


def _role(criteria: Sequence[Criterion], *, guilty: bool, involved: bool) -> Role:
    if guilty:
        return "primary"
    if involved:
        return "secondary"
    return "unknown" if all(each.holds is None for each in criteria) else "not_involved"


def _count(criteria: Sequence[Criterion]) -> str:
    measured = [each.holds for each in criteria if each.holds is not None]
    return f"{sum(measured)} of {len(measured)} measurable criteria"


def _cause(
    primary: str, latent: Role, dynamics: Role, text: str, own: list[Criterion], others: list[Criterion]
) -> Cause:
    return Cause.model_validate(
        {
            "primary": primary,
            "latent_actions": latent,
            "dynamics": dynamics,
            "text": text,
            "latent_criteria": own,
            "dynamics_criteria": others,
        }
    )
