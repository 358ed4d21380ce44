"""Declarations of `worldloop infer` and `play`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from services.commands import places
from services.commands.groups.arguments import Json, OutputRoot
from shared.events import Stage


def infer(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN] [KEY=VALUE]...",
            help="Run id, bundle or TinyWorlds run directory, default the newest valid run; then keys of "
            "inference.yaml, e.g. clips=16, or how the recording is read, e.g. fps=60.",
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="A dataset's name or a file. (default the recording the models were trained on)"),
    ] = None,
    video_checkpoint: Annotated[
        str | None, typer.Option(metavar="CHECKPOINT", help="Instead of the run's own.")
    ] = None,
    latent_checkpoint: Annotated[str | None, typer.Option(metavar="CHECKPOINT", help="Likewise.")] = None,
    dynamics_checkpoint: Annotated[str | None, typer.Option(metavar="CHECKPOINT", help="Likewise.")] = None,
    tokenizer_b: Annotated[
        str | None,
        typer.Option(
            metavar="CHECKPOINT",
            help="No test: compare how the run's tokenizer (A) and this one show the same frames.",
        ),
    ] = None,
    actions: Annotated[
        Literal["inferred", "random", "given"] | None,
        typer.Option(help="given: with action_codes=[0,1,...]. (inference.actions, default inferred)"),
    ] = None,
    teacher_forced: Annotated[
        bool, typer.Option("--teacher-forced", help="Give true frames as context. (inference.teacher_forced)")
    ] = False,
    sample_index: Annotated[
        int | None,
        typer.Option(min=0, help="The number of this window alone gates. (inference.sample_index)"),
    ] = None,
    max_mse: Annotated[
        float | None, typer.Option(help="Limit of the test. (inference.max_mse, default 0.03)")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where pictures go. (default inference_results, in the bundle or, for other runs, here)",
        ),
    ] = None,
    output_root: OutputRoot = None,
    as_json: Json = False,
) -> None:
    """Run the standard inference test on a run's models, without a server.

    Exit code 0: passed, or tokenizers compared; 1: not passed; 2: something cannot be used.
    """
    from services.commands import infer as command

    given: dict[Stage, str | None] = {
        "video_tokenizer": video_checkpoint,
        "latent_actions": latent_checkpoint,
        "dynamics": dynamics_checkpoint,
    }
    options = command.InferOptions(
        words=tuple(words or ()),
        checkpoints={stage: text for stage, text in given.items() if text is not None},
        dataset=dataset,
        tokenizer_b=tokenizer_b,
        actions=actions,
        teacher_forced=teacher_forced,
        sample_index=sample_index,
        max_mse=max_mse,
        out=out,
        root=places.root(output_root),
    )
    raise typer.Exit(command.infer(options, as_json=as_json))


def play(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="[zelda|sonic|pole|pong|picodoom|RUN|DIR]",
            help="A game: the newest run whose name contains it; or a run id, bundle, TinyWorlds or merged "
            "run directory. Default the newest whole run.",
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help='Print the "trained but not playable" checklist, serve nothing.')
    ] = False,
    dataset: Annotated[
        str | None,
        typer.Option(help="Seed frames: a dataset's name or a file. (default what the run was trained on)"),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets others in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    fps: Annotated[
        float, typer.Option(min=1, max=60, help="Frames per second; decoding steps adapt to hold it.")
    ] = 10,
    players: Annotated[int, typer.Option(min=1, help="Sessions at a time.")] = 8,
    idle_sec: Annotated[
        float, typer.Option(min=1, help="A session without any input for so long is ended.")
    ] = 300,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option()] = "auto",
    output_root: OutputRoot = None,
    as_json: Json = False,
) -> None:
    """Play a trained world in the browser.

    Exit code 0: ended, or --check answered every item; 1: decoding failed, or an item has no answer; 2: it
    cannot be played.
    """
    from services.commands import play as command

    options = command.PlayOptions(
        what=what,
        dataset=dataset,
        root=places.root(output_root),
        host=host,
        port=port,
        fps=fps,
        players=players,
        idle_sec=idle_sec,
        device=device,
    )
    raise typer.Exit(command.play(options, only_check=check, as_json=as_json))
