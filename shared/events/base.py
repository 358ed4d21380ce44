"""The words of the glossary and the base of its messages: run ids, paths, events, commands, telemetry."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, JsonValue

Stage = Literal["video_tokenizer", "latent_actions", "dynamics"]
STAGES: tuple[Stage, ...] = get_args(Stage)
GateStage = Literal["video_tokenizer", "latent_actions", "dynamics", "inference"]
Service = Literal["trainer", "monitor", "gatekeeper", "inference", "reporter"]
SERVICES: tuple[Service, ...] = ("gatekeeper", "trainer", "monitor", "inference", "reporter")
Status = Literal["queued", "running", "paused", "passed", "stage_completed", "failed", "stopped"]
ENDED: tuple[Status, ...] = ("passed", "stage_completed", "failed", "stopped")
"""Of a run that is over, until it is resumed."""
Verdict = Literal["continue", "watch", "retune"]
Decision = Literal["continue", "retune", "restart_stage", "stop"]
ChunkEnd = Literal["completed", "oom", "runtime_error", "non_finite", "stopped"]
Kind = Literal["event", "command", "telemetry"]

RUN_ID = re.compile(r"[0-9]{8}_[0-9]{6}(_[0-9]{1,6})?")
MOST_IN_PATH, MOST_IN_NAME = 2048, 255
"""Characters of a path, and bytes of a file's name: no file system of ours has longer ones."""
VERSION = 1
"""Of all schemas: rises when a field goes away or changes its meaning; a new one with a default leaves it."""
NO_RUN = "idle"  # stands for the run in a service's heartbeat while it works on none


def _run_id(value: str) -> str:
    if value != NO_RUN and not RUN_ID.fullmatch(value):
        raise ValueError(f"{value[:50]!r} is no run id: expected YYYYMMDD_HHMMSS or YYYYMMDD_HHMMSS_2")
    return value


def _inside(value: str) -> str:
    parts = value.split("/")
    odd = {"", ".", ".."} & set(parts) or "\\" in value or "\0" in value or ":" in parts[0]
    if odd or len(value) > MOST_IN_PATH or any(len(each.encode()) > MOST_IN_NAME for each in parts):
        text = f"{value[:200]!r} is no path inside the bundle: expected a relative path without '..'"
        raise ValueError(text)
    return value


RunId = Annotated[str, AfterValidator(_run_id)]
BundlePath = Annotated[str, AfterValidator(_inside)]
Document = dict[str, JsonValue]


class Value(BaseModel):
    """Base of everything that travels: frozen, and unknown fields are errors, but in what was recorded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def recorded(cls, values: object) -> Self:
        """Read back what an event holds; fields that only another version knows are dropped.

        Raises:
            ValidationError: A value that this version cannot use.
        """
        return cls.model_validate(values, extra="ignore")


class Message(Value):
    """Base of all messages. `name` and `kind` are the class's, `id` is computed."""

    name: ClassVar[str]
    kind: ClassVar[Kind]

    run_id: RunId

    @property
    def id(self) -> str:
        """Deterministic id, unique within the deployment."""
        return "/".join((self.run_id, *(str(part) for part in self.id_parts()), self.name))

    def id_parts(self) -> tuple[object, ...]:
        """What tells two messages of this name apart within a run."""
        return ()


class Event(Message):
    """A fact."""

    kind: ClassVar[Kind] = "event"


class Command(Message):
    """A request to one service."""

    kind: ClassVar[Kind] = "command"
    service: ClassVar[Service]


class Telemetry(Message):
    """A reading that may be lost."""

    kind: ClassVar[Kind] = "telemetry"

    @property
    def id(self) -> str:
        """Telemetry is not deduplicated."""
        return ""
