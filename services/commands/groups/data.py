"""Declarations of `worldloop data`: download, models, ingest, record, inspect."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from services.commands.groups.arguments import Json
from services.commands.groups.overview import group

data = group("Get, make and inspect frames files.")

Out = Annotated[Path | None, typer.Option(metavar="FILE", help="Default data/<game>_frames.h5.")]
Size = Annotated[
    int | None,
    typer.Option(
        min=8,
        max=1024,
        help="Height and width of a kept frame. (default 128 for zelda, sonic and picodoom, else 64)",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")]
Pattern = Annotated[
    str,
    typer.Option(metavar="PATTERN", help="File name, or with wildcards; one that matches nothing lists all."),
]


@data.command("download")
def data_download(
    pattern: Pattern,
    into: Annotated[Path, typer.Option(metavar="DIR", help="Where to.")] = Path("data"),
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Get TinyWorlds' frames files: --pattern zelda_frames.h5.

    They come from its Hugging Face data set; HF_ENDPOINT names a mirror.
    A download that broke off goes on where it was; what came is checked before it is put in place.
    """
    from services.commands import data as command

    command.download_datasets(pattern, into, overwrite=overwrite, as_json=as_json)


@data.command("models")
def data_models(
    pattern: Pattern,
    into: Annotated[Path, typer.Option(metavar="DIR", help="Where to.")] = Path("data/models"),
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Get TinyWorlds' trained checkpoints: --pattern 'sonic/*'.

    As `worldloop data download` does. They are single files; `worldloop checkpoints merge` makes a run
    of them.
    """
    from services.commands import data as command

    command.download_models(pattern, into, overwrite=overwrite, as_json=as_json)


@data.command("ingest")
def data_ingest(
    video: Annotated[Path, typer.Argument(metavar="VIDEO", help="mp4 and whatever else FFmpeg reads.")],
    game: Annotated[str, typer.Option(help="What it shows; decides file name and size, e.g. zelda.")],
    out: Out = None,
    size: Size = None,
    fps: Annotated[
        float | None, typer.Option(help="Frames to keep per second of video. (default the video's own rate)")
    ] = None,
    start: Annotated[float, typer.Option(min=0, help="Second of the video to begin at.")] = 0.0,
    end: Annotated[float | None, typer.Option(help="Second to stop at. (default its end)")] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Keep no more. (default no limit)")] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Make a frames file of a video.

    Its pictures are decoded, area-resized, and kept at a steady rate, in little memory. A damaged video is
    kept as far as it can be decoded, and the damage is said.
    """
    from services.commands import data as command

    command.ingest_video(
        video,
        game,
        out,
        size=size,
        fps=fps,
        start=start,
        end=end,
        frames=frames,
        overwrite=overwrite,
        as_json=as_json,
    )


@data.command("record")
def data_record(
    env: Annotated[
        str, typer.Option(help="Gymnasium's name: ALE/Pong-v5, VizdoomBasic-v1, your_module:YourGame-v0.")
    ],
    frames: Annotated[int, typer.Option(min=1, help="Frames to keep.")] = 4000,
    out: Out = None,
    size: Size = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the environment and of the actions.")] = 0,
    frame_skip: Annotated[int, typer.Option(min=1, help="Frames of the game per step.")] = 4,
    keep_every: Annotated[int, typer.Option(min=1, help="Steps per kept frame.")] = 2,
    policy: Annotated[
        str,
        typer.Option(
            help="Who plays: random, sticky-random, a file of actions (whole numbers, one per step), or "
            "module:function, called with (image, number of actions, generator)."
        ),
    ] = "sticky-random",
    new_action: Annotated[
        float,
        typer.Option(min=0, max=1, help="Probability of a new action before a step, for sticky-random."),
    ] = 0.25,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Play a game and record frames and true actions."""
    from services.commands import data as command

    command.record_game(
        env,
        out,
        frames=frames,
        size=size,
        seed=seed,
        frame_skip=frame_skip,
        keep_every=keep_every,
        policy=policy,
        new_action=new_action,
        overwrite=overwrite,
        as_json=as_json,
    )


@data.command("inspect")
def data_inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE")],
    sheet: Annotated[
        Path | None, typer.Option(metavar="PNG", help="Contact sheet. (default <FILE>_sheet.png beside it)")
    ] = None,
    no_sheet: Annotated[bool, typer.Option("--no-sheet", help="Draw none, write nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Tell what is in a frames file, and draw a contact sheet.

    Shape, rate, duplicates, and the baselines that tell what an MSE limit means on it.
    """
    from services.commands import data as command

    command.inspect_file(file, sheet=sheet, draw=not no_sheet, as_json=as_json)
