"""The errors of worldloop, drawn as one tree.

WorldloopError                 anything we raise on purpose; its text says what to do
├── UsageError                 bad flags or arguments (exit code 2)
├── ConfigurationError         a config, policy or profile: names file, key and cure (exit code 2)
├── DatasetError               a frames file that is missing, broken or does not fit (exit code 2)
├── CheckpointError            a checkpoint that is missing, invalid or does not fit (exit code 2)
├── BundleError                a run directory that is missing, broken or would be escaped (exit code 2)
├── GpuError                   GPUs that cannot be read
├── MessageError               bytes on the bus that are no message of ours
├── BusError                   the bus cannot be reached or refuses
│   └── SequenceConflict       somebody appended to the run's events first
└── HandlerOutcome             how a handler asks the runtime to settle its message
    ├── Retry                  deliver it again later
    └── Reject                 never deliver it again: dead letter, with the reason
"""

from __future__ import annotations

from pydantic import ValidationError


class WorldloopError(Exception):
    """Root of the tree. The text is a sentence for the person at the terminal."""

    exit_code = 1


class UsageError(WorldloopError):
    """Bad flags or arguments."""

    exit_code = 2


class ConfigurationError(WorldloopError):
    """A configuration that cannot be used.

    Args:
        source: The file or flag the value came from.
        key: Dotted key, empty when the file itself is at fault.
        problem: What is wrong, in a few words.
        cure: What to do about it.
    """

    exit_code = 2

    def __init__(self, source: str, key: str, problem: str, cure: str) -> None:
        super().__init__(f"{source}: {key}: {problem}. {cure}" if key else f"{source}: {problem}. {cure}")
        self.source, self.key, self.problem, self.cure = source, key, problem, cure


class DatasetError(WorldloopError):
    """A frames file that is missing, broken, empty or of the wrong kind."""

    exit_code = 2


class CheckpointError(WorldloopError):
    """A checkpoint that is missing, invalid, refused, or of another architecture."""

    exit_code = 2


class BundleError(WorldloopError):
    """A run directory that is missing or broken, or a path that would leave it."""

    exit_code = 2


class GpuError(WorldloopError):
    """GPUs that cannot be read; the text says why."""


class MessageError(WorldloopError):
    """Bytes on the bus that are no message of ours."""


class BusError(WorldloopError):
    """The bus cannot be reached or refuses what was asked."""


class SequenceConflict(BusError):
    """The run's events went on meanwhile: fold what came and decide again.

    Args:
        problem: What the bus said.
        last: Sequence the run's last event has, readable or not; none if the bus did not say.
    """

    def __init__(self, problem: str, *, last: int | None = None) -> None:
        super().__init__(problem)
        self.last = last


class HandlerOutcome(WorldloopError):
    """How a handler asks the runtime to settle its message, other than by acking it."""


class Retry(HandlerOutcome):
    """Deliver the message again.

    Args:
        reason: Why it could not be handled now.
        delay_sec: Seconds until the next delivery.
    """

    def __init__(self, reason: str, *, delay_sec: float = 1.0) -> None:
        super().__init__(reason)
        self.delay_sec = delay_sec


class Reject(HandlerOutcome):
    """Never deliver the message again; it goes to the dead letters with this reason."""


def complaints(error: ValidationError, whole: str = "") -> list[str]:
    """What a validation found: each time the key and the problem, never what was given.

    Args:
        error: The validation's.
        whole: Stands for the key where the problem is of no single one; empty for nothing.
    """
    found = []
    for problem in error.errors(include_url=False, include_input=False):
        key = ".".join(str(part) for part in problem["loc"]) or whole
        found.append(f"{key}: {problem['msg']}" if key else problem["msg"])
    return found
