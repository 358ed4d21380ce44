"""A run's gates decided once more, under another policy: what would have been decided otherwise.

Recorded decisions are authoritative for everybody else; this is the one place that computes them again.

Two states are folded side by side. `recorded` is the run as it was. `replayed` is the run under the other
policy: it folds its own decisions in place of the recorded ones, so that retries, rungs and flags are those
the policy would have counted. It ends where the run would have gone elsewhere, because from there on there is
no evidence; the gates after that are judged on the recorded state, had the run been there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from services.gatekeeper.config import Policy
from services.gatekeeper.core.fold import fold
from services.gatekeeper.core.pipeline import decide
from services.gatekeeper.core.state import RunState
from shared.bus.protocol import Recorded
from shared.config import RunConfig
from shared.events import ChunkStarted, GateDecided, Message, OperatorRequested, RunPaused, RunSpec

JUDGEMENT = ("verdict", "reason", "observed")
"""Fields that say how healthy the gate was found, and what was withheld if the run was only observed."""
COURSE = (
    "decision",
    "config_patch_applied",
    "config_patch_on_resume",
    "resume_from",
    "resume_step",
    "next_target_step",
    "target_step",
)
"""Fields that say what happens next. With those of JUDGEMENT they are what makes two decisions differ."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One gate, as it was decided and as it would have been."""

    recorded: GateDecided
    replayed: GateDecided | None
    """None where the other policy would not have decided here."""
    instead: str = ""
    """What would have happened then."""
    elsewhere: bool = False
    """The run would not have come here: judged as recorded, had it been there."""

    @property
    def differing(self) -> tuple[str, ...]:
        """Fields that differ; none when it is the same decision."""
        if self.replayed is None:
            return ("decision",)
        fields = (*JUDGEMENT, *COURSE)
        return tuple(name for name in fields if getattr(self.recorded, name) != getattr(self.replayed, name))


@dataclass(frozen=True, slots=True)
class Replay:
    """All gates of a run, and where the run would have left its recorded way."""

    gates: tuple[Compared, ...]
    parting: str | None
    """The first point where the run would have gone elsewhere; none when it would have gone the same way."""


def replay(records: Iterable[Recorded], run_id: str, *, policy: Policy, max_mse: float) -> Replay:
    """Decide every recorded gate again.

    Args:
        records: The run's events in their order.
        run_id: The run.
        policy: The policy to judge under.
        max_mse: Limit of the inference gate.

    Raises:
        ValidationError: A recorded specification that cannot be used any more.
    """
    recorded, replayed = RunState(run_id), RunState(run_id)
    gates: list[Compared] = []
    parting: str | None = None
    for record in records:
        event = record.message
        if isinstance(event, GateDecided) and event.id not in recorded.seen:
            gate = _judge(_under(recorded, policy, max_mse) if parting else replayed, event)
            gates.append(replace(gate, elsewhere=parting is not None))
            if parting is None:
                parting = _parts(gate)
                replayed = fold(replayed, replace(record, message=gate.replayed or event))
        elif parting is None:
            replayed = fold(replayed, replace(record, message=_asked_for(event, policy, max_mse)))
            parting = _plan_parts(replayed, event)
        recorded = fold(recorded, record)
    return Replay(tuple(gates), parting)


def _judge(state: RunState, event: GateDecided) -> Compared:
    """What the state decides where `event` was recorded."""
    decided = next(iter(decide(state)), None)
    if isinstance(decided, GateDecided) and decided.id == event.id:
        return Compared(event, decided)
    if isinstance(decided, RunPaused):
        return Compared(event, None, f"the run would have paused: {decided.reason}")
    if state.ending is not None:
        return Compared(
            event, None, f"the run would have ended before, {state.ending.outcome}: {state.ending.reason}"
        )
    return Compared(event, None, "the gate would not have been decided here")


def _parts(gate: Compared) -> str | None:
    """Whether a gate sends the run elsewhere; a flag alone does not."""
    if not set(gate.differing) & set(COURSE):
        return None
    return f"at the gate of {gate.recorded.stage}, attempt {gate.recorded.attempt}"


def _plan_parts(state: RunState, event: Message) -> str | None:
    """Whether a chunk was trained that the other policy would not have planned."""
    if not isinstance(event, ChunkStarted):
        return None
    plan = state.chunk.plan if state.chunk is not None else None
    where = f"before {event.stage}, attempt {event.attempt}"
    if plan is None or (plan.stage, plan.attempt) != (event.stage, event.attempt):
        return f"{where}: it would not have been started"
    if plan.target_step != event.plan.target_step:
        return f"{where}: it would have trained to {plan.target_step} instead of {event.plan.target_step}"
    return None


def _under(state: RunState, policy: Policy, max_mse: float) -> RunState:
    """A recorded state, judged by other limits."""
    inference = state.inference.model_copy(update={"max_mse": max_mse})
    return replace(state, policy=policy, inference=inference)


def _asked_for(event: Message, policy: Policy, max_mse: float) -> Message:
    """The event; where it asks for the run, it asks for it under the other policy."""
    if not isinstance(event, OperatorRequested) or event.request != "start_run":
        return event
    spec = RunSpec.recorded(event.arguments.get("spec"))
    inference = RunConfig.recorded(spec.configuration).inference.model_copy(update={"max_mse": max_mse})
    under = spec.model_copy(
        update={
            "policy": {**spec.policy, "gatekeeper": policy.model_dump(mode="json")},
            "configuration": {**spec.configuration, "inference": inference.model_dump(mode="json")},
        }
    )
    return event.model_copy(update={"arguments": {**event.arguments, "spec": under.model_dump(mode="json")}})
