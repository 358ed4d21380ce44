"""What weights have seen: the recordings that a checkpoint was trained on, and how much of each.

A checkpoint keeps this under `Checkpoint.extra` (`state.pt`, where TinyWorlds does not look) and in its
manifest, all the way back: what a checkpoint was resumed from counts as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError

from shared.datasets.frames import FramesDataset
from shared.errors import CheckpointError
from shared.worldmodel.checkpoints import Checkpoint

KEY = "trained_on"
"""Key of `Checkpoint.extra`."""
DIGITS = 12
"""Of a fingerprint, enough to tell recordings apart in a sentence."""


class Seen(BaseModel):
    """A recording that weights were trained on."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    """The file, as it was called then."""
    fingerprint: str | None
    """Of its content; none where the checkpoint does not say, as TinyWorlds' own."""
    frames: int | None
    """Leading frames that training could see."""

    def __str__(self) -> str:
        told = f"fingerprint {self.fingerprint[:DIGITS]}" if self.fingerprint else "no fingerprint known"
        return f"{self.name} ({told})"


_LIST: TypeAdapter[list[Seen]] = TypeAdapter(Annotated[list[Seen], Field(min_length=1)])


def seen_in(dataset: FramesDataset) -> Seen:
    """What training on a dataset sees."""
    return Seen(name=dataset.path.name, fingerprint=dataset.fingerprint, frames=dataset.train_frames)


def seen_by(checkpoint: Checkpoint) -> list[Seen]:
    """What a checkpoint was trained on, oldest first; one without fingerprint if it keeps no record.

    Raises:
        CheckpointError: Its record cannot be read.
    """
    if KEY in checkpoint.extra:
        try:
            return _LIST.validate_python(checkpoint.extra[KEY])
        except ValidationError as error:
            raise CheckpointError(
                f"{checkpoint.directory} is damaged: its entry '{KEY}' cannot be read ({error})"
            ) from error
    return [Seen(name=str(checkpoint.config.get("dataset")), fingerprint=None, frames=None)]


def with_more(before: Iterable[Seen], now: Seen) -> list[Seen]:
    """The record after training on a recording as well."""
    same = [each for each in before if each.fingerprint == now.fingerprint]
    frames = max(each.frames or 0 for each in [*same, now])
    others = [each for each in before if each.fingerprint != now.fingerprint]
    return [*others, now.model_copy(update={"frames": frames})]


def record(seen: Iterable[Seen]) -> dict[str, JsonValue]:
    """As `save_checkpoint`'s `extra`: plain values."""
    return {KEY: _LIST.dump_python(list(seen), mode="json")}


def never_saw_held_out(seen: Iterable[Seen], dataset: FramesDataset) -> bool:
    """Whether weights were trained on this recording alone, and on no frame that it now holds out."""
    return all(
        each.fingerprint == dataset.fingerprint
        and each.frames is not None
        and each.frames <= dataset.held_out.start
        for each in seen
    )


def other_recording(who: str, seen: Sequence[Seen], dataset: FramesDataset) -> str | None:
    """A sentence for people when weights were last trained on another recording than this one, else none.

    Args:
        who: What to call the weights.
        seen: Their record.
        dataset: What they are to be used with.
    """
    before, now = seen[-1], seen_in(dataset)
    if before.fingerprint == now.fingerprint:
        return None
    return f"{who} was trained on {before}, and is now used with {now}: they may show different things"
