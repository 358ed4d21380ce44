"""Operators' commands: what is accepted as a wish, and why something is refused."""

from __future__ import annotations

from pydantic import JsonValue, ValidationError

from services.gatekeeper.config import Policy
from services.gatekeeper.core.state import RunState, StageState
from shared.config import ALIGNED, BACKBONE, KNOBS, RunConfig, StageConfig
from shared.errors import complaints
from shared.events import (
    STAGES,
    CommandRejected,
    Document,
    OperatorCommand,
    OperatorRequested,
    PauseRun,
    ResumeRun,
    RetuneRun,
    RunSpec,
    StartRun,
    StopRun,
)


class _RefusedError(Exception):
    """Why a command cannot be taken."""


def answer(state: RunState, command: OperatorCommand) -> OperatorRequested | CommandRejected | None:
    """The event to append for an operator's command; none if it was answered before.

    Args:
        state: The run, all its events folded; a new `RunState` when there are none.
        command: What the operator asks.
    """
    accepted = OperatorRequested(run_id=state.run_id, request=_name(command), request_id=command.request_id)
    refused = CommandRejected(
        run_id=state.run_id, request=command.name, request_id=command.request_id, reason=""
    )
    if accepted.id in state.seen or refused.id in state.seen:
        return None
    try:
        arguments = _arguments(state, command)
    except _RefusedError as reason:
        return refused.model_copy(update={"reason": str(reason)})
    return accepted.model_copy(update={"arguments": arguments})


def _name(command: OperatorCommand) -> str:
    return command.name


def _arguments(state: RunState, command: OperatorCommand) -> Document:
    if isinstance(command, StartRun):
        if state.spec is not None:
            raise _RefusedError(f"run {state.run_id} exists already; choose another run id, or resume it")
        _check_spec(command.spec)
        return {"spec": command.spec.model_dump(mode="json")}
    if state.spec is None:
        raise _RefusedError(f"there is no run {state.run_id}; see `worldloop status` for the runs there are")
    if state.finished is not None and state.finished.status in ("passed", "stage_completed"):
        raise _RefusedError(f"run {state.run_id} has ended as {state.finished.status}; start a new one")
    if isinstance(command, PauseRun):
        _check_pause(state)
    elif isinstance(command, ResumeRun):
        _check_resume(state)
    elif isinstance(command, StopRun):
        _check_stop(state)
        return {"reason": command.reason}
    elif isinstance(command, RetuneRun):
        return _retune(state, command)
    return {}


def _check_spec(spec: RunSpec) -> None:
    try:
        Policy.model_validate(spec.policy.get("gatekeeper", {}))
        configuration = RunConfig.model_validate(spec.configuration)
        for stage in spec.stages:
            configuration.stage(stage)
    except ValidationError as error:
        raise _RefusedError(f"the run's configuration cannot be used: {complaints(error)[0]}") from None
    needed = set(STAGES) if spec.inference else {"video_tokenizer", "latent_actions"} & _upstream(spec)
    lacking = sorted(needed - set(spec.stages) - set(spec.checkpoints))
    if lacking:
        raise _RefusedError(f"no checkpoint is given for {', '.join(lacking)}, and the run does not train it")
    if not spec.stages and not spec.inference:
        raise _RefusedError("the run trains no stage and tests no inference: there is nothing to do")
    unknown = sorted(set(spec.checkpoints) - set(spec.given_steps))
    if unknown:
        raise _RefusedError(
            f"given_steps lacks {', '.join(unknown)}: say how many updates its checkpoint has"
        )


def _upstream(spec: RunSpec) -> set[str]:
    return {"video_tokenizer", "latent_actions"} if "dynamics" in spec.stages else set()


def _check_pause(state: RunState) -> None:
    _check_goes_on(state)
    if state.paused == "operator" or state.pause_wanted:
        raise _RefusedError("the run is paused already, or will be at the next gate")


def _check_resume(state: RunState) -> None:
    if state.resume_wanted:
        raise _RefusedError("the run is resumed already")
    if state.ending is not None or (state.stop is not None and state.finished is None):
        raise _RefusedError("the run is ending; resume it when it has ended")
    if state.finished is None and state.paused is None and not state.pause_wanted:
        raise _RefusedError("the run is neither paused nor ended")


def _check_stop(state: RunState) -> None:
    _check_goes_on(state)
    if state.stop is not None:
        raise _RefusedError("the run is being stopped already")


def _check_goes_on(state: RunState) -> None:
    if state.finished is not None and not state.resume_wanted:
        raise _RefusedError(f"run {state.run_id} has ended as {state.finished.status}")
    if state.ending is not None:
        raise _RefusedError(f"the run is ending as {state.ending.outcome}: its reports are being written")


def _retune(state: RunState, command: RetuneRun) -> Document:
    if state.ending is not None:
        raise _RefusedError(f"the run is ending as {state.ending.outcome}: there is no next plan")
    stage = state.stages.get(command.stage) if command.stage is not None else state.current
    if stage is None:
        trained = ", ".join(state.stages) or "none"
        raise _RefusedError(
            f"{command.stage} is not trained in this run (trained: {trained})"
            if command.stage is not None
            else "no stage is left to train; name one with --stage"
        )
    if stage.completed and stage.stage != "dynamics":
        raise _RefusedError(f"{stage.stage} is completed: there is no next plan")
    if not command.changes:
        raise _RefusedError(f"nothing to change: give KEY=VALUE for one of {', '.join(KNOBS)}")
    for key in command.changes:
        if key in (*ALIGNED, *BACKBONE):
            raise _RefusedError(f"{key} decides the shapes of the weights and cannot change within a run")
        if key not in KNOBS:
            raise _RefusedError(f"{key} cannot be retuned; what can: {', '.join(KNOBS)}")
    changes = _validated(stage, command.changes)
    _check_floors(state, stage, changes)
    return {"stage": stage.stage, "changes": changes}


def _validated(stage: StageState, changes: dict[str, JsonValue]) -> Document:
    for key, value in changes.items():
        if isinstance(value, bool):
            raise _RefusedError(f"{key}: {value} is no number")
    try:
        config = StageConfig.model_validate({**stage.parameters, **changes})
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in problem["loc"])
        raise _RefusedError(f"{key}: {problem['msg']} (given: {problem['input']})") from None
    return {key: getattr(config, key) for key in changes}


def _check_floors(state: RunState, stage: StageState, changes: Document) -> None:
    floor = min(state.policy.min_batch_size.of(stage.stage), stage.batch)
    batch = changes.get("batch_size_per_gpu")
    if isinstance(batch, int) and batch < floor:
        raise _RefusedError(f"batch_size_per_gpu {batch} is below the floor of {stage.stage}, {floor}")
    rate = changes.get("learning_rate")
    if isinstance(rate, float) and not state.policy.min_learning_rate <= rate < 1:
        raise _RefusedError(f"learning_rate {rate:g} is not within {state.policy.min_learning_rate:g} and 1")
