"""One launch of a checkout's stage: how many updates, which keys, which command line."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from services.trainer.core.checkout.dialect import Dialect
from services.trainer.core.launch import device, world_size
from shared.config import StageConfig
from shared.events import CheckoutSpec, Stage, Value

OURS = {"checkpoint", "device", "distributed", "nnodes", "output_root", "rdzv_endpoint", "wandb"}
"""Keys of the configuration that a launch sets itself, or that mean nothing to a checkout."""
PATHS: dict[Stage, str] = {
    "video_tokenizer": "video_tokenizer_path",
    "latent_actions": "latent_actions_path",
}
"""Keys under which dynamics takes the checkpoints of the stages before it."""
NOT_PLAIN = re.compile(r": |:$| #")
"""What YAML reads as something else within a path."""


class Launch(Value):
    """What the step numbers of a launch mean."""

    stage: Stage
    attempt: int
    start_step: int
    """Absolute updates done before it."""
    end_step: int
    """And after its last."""
    offset: int
    """Added to a step number of its files, it gives the absolute one."""
    loss_factor: int = 1
    """A logged loss times this is the loss."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What a launch is told to count to."""

    n_updates: int
    log_interval: int
    updates: int
    """Updates it makes."""
    offset: int
    """Added to the step numbers it writes, it gives absolute ones."""


def counts(dialect: Dialect, start_step: int, target_step: int, log_interval: int) -> Counts:
    """Make a launch end with an update that is saved, at or past the target by less than the log interval.

    A relative one saves updates 0, L, 2L, ..., so its last must be one of them: with k saves after the first,
    the smallest L that reaches the target goes past it by less than k. An absolute one saves its last update,
    but draws a picture at multiples of L only, so the chunk has to hold one.

    Args:
        dialect: How the script counts.
        start_step: Updates done.
        target_step: Updates wanted, more than those.
        log_interval: As configured; what is passed is never larger.
    """
    if dialect == "absolute":
        holds = (d for d in range(log_interval, 0, -1) if -(-start_step // d) * d < target_step)
        return Counts(target_step, next(holds), target_step - start_step, 0)
    after_first = target_step - start_step - 1
    saves = -(-after_first // log_interval)
    interval = -(-after_first // saves) if saves else 1
    updates = saves * interval + 1
    return Counts(updates, interval, updates, start_step)


def ranks(config: StageConfig) -> int:
    """Processes of a stage: TinyWorlds has several on CUDA only."""
    return world_size(config) if device(config) == "cuda" else 1


def overrides(
    config: StageConfig,
    counted: Counts,
    keys: Collection[str],
    *,
    dataset: str,
    checkpoint: str | None,
    upstream: Mapping[Stage, str],
) -> list[str]:
    """Arguments `key=value` for a stage's script: those that its schema has.

    Args:
        config: The stage's configuration.
        counted: What to count to.
        keys: Dotted keys of the schema.
        dataset: TinyWorlds' name of the dataset.
        checkpoint: Absolute path of the checkpoint to go on from; none starts fresh.
        upstream: Absolute paths of the checkpoints of earlier stages.
    """
    on_cuda, several = device(config) == "cuda", ranks(config) > 1
    values: dict[str, JsonValue] = config.model_dump(mode="json", exclude=OURS, exclude_none=True)
    if not on_cuda:
        values |= {"amp": False, "compile": False}
    values |= {
        "dataset": dataset,
        "n_updates": counted.n_updates,
        "log_interval": counted.log_interval,
        "checkpoint": checkpoint,
        "device": device(config),
        "distributed.use_ddp": several,
        "distributed.use_fsdp": False,
        "nproc_per_node": ranks(config),
        "use_wandb": True,  # its local file is the history, and pictures are drawn only with it
    }
    values |= {PATHS[stage]: path for stage, path in upstream.items()}
    return [f"{key}={_text(value)}" for key, value in values.items() if key in keys]


def command(checkout: CheckoutSpec, processes: int, script: str, arguments: Collection[str]) -> list[str]:
    """Command line of the launcher, to be run in the checkout."""
    if processes == 1:
        return [checkout.python, script, *arguments]
    torchrun = (
        [checkout.torchrun]
        if checkout.torchrun is not None
        else [checkout.python, "-m", "torch.distributed.run"]
    )
    return [*torchrun, "--standalone", f"--nproc_per_node={processes}", script, *arguments]


def warnings(dialect: Dialect, *, whole_stage: bool) -> list[str]:
    """What a person should know about training a stage in pieces this way.

    Args:
        dialect: How the script counts.
        whole_stage: One launch trains the stage from its beginning to its target.
    """
    if whole_stage:
        return []
    again = " and begins it with an empty optimizer" if dialect == "relative" else ""
    text = (
        f"the checkout makes its learning-rate schedule for one launch{again}, so in chunks the rate is a "
        "saw-tooth: larger chunks have fewer teeth, one chunk for the whole stage has none, and worldloop's "
        "own trainer (without --checkout) keeps one schedule over all chunks"
    )
    return [text]


def _text(value: JsonValue) -> str:
    """A value as YAML reads it back."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False) if NOT_PLAIN.search(value) else value
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
