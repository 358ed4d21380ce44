"""Declarations of `worldloop diagnose`, `gate`, `replay` and `policy`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from services.commands import places
from services.commands.groups.arguments import Configs, Json, OutputRoot
from services.commands.groups.overview import group
from services.commands.training.options import TrainOptions
from shared.events import Stage

policy = group("Show what a run would be decided by.")


def replay(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run id or bundle directory, also a moved one.")],
    assignments: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Keys of the policy, or max_mse, on top of the rest."),
    ] = None,
    policy_file: Annotated[
        Path | None,
        typer.Option(
            "--policy", metavar="FILE", help="Sections of policy.yaml; what it leaves out is as recorded."
        ),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(help="Judge under the policy of this profile. (default the run's own policy)"),
    ] = None,
    configs: Configs = None,
    output_root: OutputRoot = None,
    as_json: Json = False,
) -> None:
    """Decide a finished run's gates once more, under another policy, beside what was decided.

    Works on the bundle alone. Exit code 0: the same decisions; 1: some would have been others.
    """
    from services.commands.judging import replay as command

    code = command.replay(
        run,
        policy=policy_file,
        profile=profile,
        configs=configs,
        texts=assignments or [],
        root=places.root(output_root),
        as_json=as_json,
    )
    raise typer.Exit(code)


@policy.command("show")
def policy_show(
    assignments: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="As `train` takes them.")
    ] = None,
    profile: Annotated[str, typer.Option(help="Named parameter set in configs/profiles.")] = "inference-safe",
    configs: Configs = None,
    section: Annotated[
        list[str] | None,
        typer.Option(help="Only keys that begin so, e.g. dynamics or policy.gatekeeper; may be repeated."),
    ] = None,
    video_checkpoint: Annotated[
        str | None, typer.Option(metavar="CHECKPOINT", help="As `train` takes it.")
    ] = None,
    latent_checkpoint: Annotated[
        str | None, typer.Option(metavar="CHECKPOINT", help="As `train` takes it.")
    ] = None,
    dynamics_checkpoint: Annotated[
        str | None, typer.Option(metavar="CHECKPOINT", help="As `train` takes it.")
    ] = None,
    checkout: Annotated[
        Path | None,
        typer.Option("--checkout", "--repo-root", metavar="DIR", help="As `train` takes it."),
    ] = None,
    output_root: OutputRoot = None,
    as_json: Json = False,
) -> None:
    """Show every value that `train` would start with, and what set it: flag, checkpoint, profile or file."""
    from services.commands.configuration import policy_show as command

    options = TrainOptions(
        assignments=tuple(assignments or ()),
        profile=profile,
        configs=configs,
        video_checkpoint=video_checkpoint,
        latent_checkpoint=latent_checkpoint,
        dynamics_checkpoint=dynamics_checkpoint,
        checkout=checkout,
        output_root=output_root,
    )
    raise typer.Exit(command.policy_show(options, sections=section or [], as_json=as_json))


def diagnose(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|PATH",
            help="Run id, bundle, results or TinyWorlds run directory, .wandb file or directory, history.",
        ),
    ],
    stage: Annotated[
        Stage | None, typer.Option(help="Only this stage; or the stage a history is of.")
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(help="Judge by this profile's policy. (default the run's own, else policy.yaml)"),
    ] = None,
    output_root: OutputRoot = None,
    as_json: Json = False,
) -> None:
    """Say what is wrong with a run, which stage began it, what to trust and what to do next.

    Needs files alone. Exit code 0: normal; 1: watch; 2: critical; 3: bad input or usage.
    """
    from services.commands.judging import diagnose as command

    raise typer.Exit(
        command.diagnose(path, stage=stage, profile=profile, output_root=output_root, as_json=as_json)
    )


def gate(
    history: Annotated[Path, typer.Argument(metavar="HISTORY", help="CSV, JSON or .wandb.")],
    stage: Annotated[
        Stage | None, typer.Option(help="Whose limits apply; default as the file tells.")
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="Judge by this profile's policy. (default policy.yaml)")
    ] = None,
    as_json: Json = False,
) -> None:
    """Give the numeric verdict of a gate on a history, taken as one chunk. Exit code 1: retune."""
    from services.commands.judging import diagnose as command

    raise typer.Exit(command.gate(history, stage=stage, profile=profile, as_json=as_json))
