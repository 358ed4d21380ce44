"""Which tokenizer and latent actions a dynamics was trained with, and whether given ones are those.

Our checkpoints keep a digest of the weights under `Checkpoint.extra`. TinyWorlds' own keep the paths in their
config, which tell the step. Tokens and actions are codes: with other weights they mean something else, though
every shape fits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from torch import Tensor

from shared.bundle import step_of
from shared.errors import CheckpointError
from shared.events import Stage
from shared.worldmodel.checkpoints import Checkpoint
from shared.worldmodel.merge import origin_of
from shared.worldmodel.seen import seen_by

KEY = "trained_with"
"""Key of `Checkpoint.extra`."""
PATHS: dict[Stage, str] = {"video_tokenizer": "video_tokenizer_path", "latent_actions": "latent_actions_path"}
"""Keys of TinyWorlds' config."""


class Upstream(BaseModel):
    """A checkpoint that a dynamics was trained with, as it says itself."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    path: str
    """Where it lay then."""
    digest: str | None = None
    """Of its weights; TinyWorlds' own do not say."""


def digest_of(weights: Mapping[str, Tensor]) -> str:
    """A digest of a state dict's names, shapes and values, whatever file and device it is in."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        tensor = tensor.float() if tensor.is_floating_point() else tensor
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def record(paths: Mapping[Stage, str], models: Mapping[Stage, Mapping[str, Tensor]]) -> dict[str, JsonValue]:
    """As `save_checkpoint`'s `extra`: plain values; empty for a stage that is trained with no other.

    Args:
        paths: Where the checkpoints lie.
        models: Their weights; only these stages are recorded.
    """
    if not models:
        return {}
    return {KEY: {stage: {"path": paths[stage], "digest": digest_of(models[stage])} for stage in models}}


def upstream_of(dynamics: Checkpoint) -> dict[Stage, Upstream]:
    """What a dynamics says that it was trained with.

    Raises:
        CheckpointError: Its record cannot be read.
    """
    recorded = dynamics.extra.get(KEY)
    if recorded is not None:
        try:
            return {stage: Upstream.model_validate(recorded[stage]) for stage in PATHS if stage in recorded}
        except (TypeError, ValidationError) as error:
            raise CheckpointError(
                f"{dynamics.directory} is damaged: its entry '{KEY}' cannot be read ({error})"
            ) from error
    paths = {stage: dynamics.config.get(key) for stage, key in PATHS.items()}
    return {stage: Upstream(path=path) for stage, path in paths.items() if isinstance(path, str)}


def check_trained_together(checkpoints: Mapping[Stage, Checkpoint]) -> list[str]:
    """Make sure that a dynamics was trained with the tokenizer and latent actions beside it.

    Args:
        checkpoints: One of each stage.

    Returns:
        A sentence for each of the two for which nothing tells.

    Raises:
        CheckpointError: It was trained with another one; says with which.
    """
    dynamics = checkpoints["dynamics"]
    told = upstream_of(dynamics)
    with_actions = dynamics.config.get("use_actions", True)
    needed: list[Stage] = ["video_tokenizer", "latent_actions"] if with_actions else ["video_tokenizer"]
    found = (_compare(dynamics, checkpoints[stage], told.get(stage)) for stage in needed)
    return [sentence for sentence in found if sentence is not None]


def _compare(dynamics: Checkpoint, given: Checkpoint, told: Upstream | None) -> str | None:
    if told is not None and told.digest is not None:
        if told.digest != digest_of(given.model):
            raise _other(dynamics, given, f"{told.path}, whose weights are others")
        return None
    ours, theirs = ({each.fingerprint for each in seen_by(one)} for one in (dynamics, given))
    if None not in ours | theirs and not ours & theirs:
        names = " and ".join(str(seen_by(one)[-1]) for one in (dynamics, given))
        raise _other(dynamics, given, f"another one: they have seen different recordings, {names}")
    if told is not None and (step := step_of(Path(told.path))) is not None:
        if step != given.step:
            raise _other(dynamics, given, told.path)
        if _run(Path(told.path)) == _run(origin_of(given.directory)):
            return None
    said = f"says only {told.path}" if told is not None else "does not say"
    return (
        f"{dynamics.directory.name} {said}: whether it was trained with {given.directory} is not known. "
        "If it was not, it plays noise"
    )


def _other(dynamics: Checkpoint, given: Checkpoint, by: str) -> CheckpointError:
    return CheckpointError(
        f"{dynamics.directory} was not trained with {given.directory}, but with {by}. "
        f"Take the {given.stage} it was trained with, or a dynamics that was trained with this one"
    )


def _run(step_directory: Path) -> str:
    """Name of the run directory around `<stage>/checkpoints/<stage>_step_N`."""
    return step_directory.parents[2].name if len(step_directory.parts) > 3 else ""
