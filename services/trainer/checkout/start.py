"""Starting a checkout's script: told what to do by its own keys, made to write into the bundle alone."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import structlog

from services.trainer.checkout import takeover
from services.trainer.checkout.repository import Repository
from services.trainer.checkout.takeover import Takeover
from services.trainer.core.checkout.dialect import Dialect
from services.trainer.core.checkout.launch import Counts, Launch, command, counts, overrides, ranks
from services.trainer.launcher import Launched, launch, scratch_for
from services.trainer.wire import Run
from shared.bundle import Bundle
from shared.checkout import TRAINING, config, script
from shared.config import StageConfig
from shared.errors import ConfigurationError
from shared.events import CheckoutSpec
from shared.settings import Settings

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Started:
    """A launcher that runs."""

    launched: Launched
    takeover: Takeover
    counts: Counts
    dialect: Dialect
    """How its script is thought to count."""


async def start(
    run: Run,
    checkout: CheckoutSpec,
    bundle: Bundle,
    settings: Settings,
    log_file: Path,
    known: Dialect | None,
) -> Started:
    """Start a stage's script for a plan; returns as soon as the launcher has a pid.

    Args:
        run: The plan and where it goes on.
        checkout: The repository.
        bundle: The run's.
        settings: Of this service.
        log_file: Where launcher and ranks write.
        known: How the script counts, as a launch before has shown.

    Raises:
        ConfigurationError: The checkout cannot train this, or its launcher cannot be started; names file or
            key, and the cure.
        OSError: The disk refused.
    """
    plan, repository = run.plan, Repository(checkout)
    parameters = StageConfig.recorded(plan.parameters)
    believed = known or repository.dialect(plan.stage)
    # one that is not known: when fresh, the relative way ends with a save in either; when resumed, what an
    # absolute one is told shows at the first save which it is
    dialect: Dialect = believed or ("absolute" if run.resume_step else "relative")
    counted = counts(dialect, run.resume_step, plan.target_step, parameters.log_interval)
    arguments = overrides(
        parameters,
        counted,
        repository.keys(plan.stage),
        dataset=repository.dataset(parameters.dataset),
        checkpoint=str(bundle.resolve(run.resume_from)) if run.resume_from is not None else None,
        upstream={stage: str(bundle.resolve(path)) for stage, path in plan.upstream.items()},
    )
    files = ["--config", config(plan.stage), "--training_config", TRAINING]
    line = command(checkout, ranks(parameters), script(plan.stage), [*files, *arguments])
    meaning = Launch(
        stage=plan.stage,
        attempt=plan.attempt,
        start_step=run.resume_step,
        end_step=run.resume_step + counted.updates,
        offset=counted.offset,
        loss_factor=parameters.gradient_accumulation_steps if repository.divides_loss(plan.stage) else 1,
    )
    taking = Takeover(bundle, takeover.directory(bundle, plan.stage, plan.attempt, run.launch), meaning)
    taking.begin()
    scratch = scratch_for(settings)
    environment = {
        **_environment(checkout, taking.directory, parameters, settings),
        **_git_index(Path(checkout.directory), scratch),
    }
    log.info("launching the checkout's script", command=" ".join(line), directory=checkout.directory)
    try:
        launched = await launch(
            line, run, settings, log_file, scratch, environment,
            ranks=ranks(parameters), directory=checkout.directory,
        )  # fmt: skip
    except OSError as error:
        shutil.rmtree(taking.directory)
        raise ConfigurationError(
            f"--checkout {checkout.directory}",
            "",
            f"{line[0]} cannot be started: {error.strerror}",
            "Name the checkout's interpreter with --python-exec and its launcher with --torchrun",
        ) from None
    return Started(launched, taking, counted, dialect)


def _git_index(checkout: Path, scratch: Path) -> dict[str, str]:
    """A copy for git to write to: W&B asks it whether the checkout is clean, and git notes what it has seen.

    Neither `GIT_OPTIONAL_LOCKS` nor `WANDB_DISABLE_GIT` keeps wandb 0.19 from that.
    """
    index = checkout / ".git" / "index"
    return {"GIT_INDEX_FILE": str(shutil.copy(index, scratch))} if index.is_file() else {}


def _environment(
    checkout: CheckoutSpec, directory: Path, parameters: StageConfig, settings: Settings
) -> dict[str, str]:
    """Places to write to: nothing goes into the checkout."""
    wandb = settings.cache_dir / "wandb"
    return {
        "NG_RUN_ROOT_DIR": str(directory.absolute()),
        "WANDB_DIR": str(directory.absolute()),
        # a run that keeps nothing has no history: what stays on this machine is written in any case
        "WANDB_MODE": "online" if parameters.wandb == "online" else "offline",
        "WANDB_CACHE_DIR": str(wandb),
        "WANDB_CONFIG_DIR": str(wandb / "config"),
        "WANDB_DATA_DIR": str(wandb / "data"),
        "TORCHINDUCTOR_CACHE_DIR": str(settings.cache_dir / "inductor"),  # else compiled anew in each TMPDIR
        "MPLBACKEND": "Agg",
        "PYTHONPATH": checkout.directory,
        "PYTHONDONTWRITEBYTECODE": "1",
    }
