"""What a flag of `worldloop train` says of itself: its help, the key it sets, its default."""

from __future__ import annotations

from dataclasses import dataclass

from shared.events import Stage

OF_PROFILE, OF_TRAINING = "of the profile", "of training.yaml"


@dataclass(frozen=True, slots=True)
class Flag:
    """What the command line says of a field of `TrainOptions`."""

    help: str = ""
    key: str | None = None
    """Dotted key it sets, from the root of the configuration; none sets no key."""
    default: str | None = None
    """What holds without the flag, as --help says it."""
    names: tuple[str, ...] = ()
    """Other names than the field's own."""
    metavar: str | None = None
    min: int | None = None

    @property
    def text(self) -> str:
        """The line in --help: what it is for, its key, its default."""
        key = self.key.removeprefix("policy.") if self.key is not None else None
        default = f"default {self.default}" if self.default is not None else None
        known = ", ".join(part for part in (key, default) if part is not None)
        return " ".join(part for part in (self.help, f"({known})" if known else "") if part)


def gate_flag(key: str, default: str, text: str) -> Flag:
    """Of the gatekeeper's policy."""
    return Flag(text, f"policy.gatekeeper.{key}", default)


def report_flag(key: str, default: str, text: str) -> Flag:
    """Of a report: the run records what it is asked for."""
    return Flag(f"{text} Recorded with the run.", f"policy.reporter.{key}", default)


def stage_flag(group: str, stage: Stage, text: str = "Likewise.") -> Flag:
    """Of the gatekeeper's policy for one stage."""
    return Flag(text, f"policy.gatekeeper.{group}.{stage}", OF_PROFILE, min=1)


def flag_of(name: str) -> str:
    """How a flag is written on the command line."""
    return "--" + name.replace("_", "-")
