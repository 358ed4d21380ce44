"""`worldloop play`: chooses a world, says which, and serves it to the browser."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rich.console import Console

from services.commands.terminal.output import say, say_json
from services.inference.play.config import PlayConfig
from shared.config import Device
from shared.errors import UsageError
from shared.events import RUN_ID
from shared.settings import Settings
from shared.web import place
from shared.web.listen import LOOPBACK

if TYPE_CHECKING:
    from services.commands.playable import Playable

SPINS = "3000"
"""How long threads that wait for each other spin before they sleep: longer than a trainer's, since a frame's
operations are shorter, and since only as many threads as cores are idle decode.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayOptions:
    """What `worldloop play` was asked for."""

    what: str | None
    dataset: str | None
    root: Path
    host: str
    port: int
    fps: float
    players: int
    idle_sec: float
    device: Device


def play(options: PlayOptions, *, only_check: bool, as_json: bool) -> int:
    """Serve a world, or print whether it can be played.

    Args:
        options: The flags.
        only_check: Print the checklist and serve nothing.
        as_json: One JSON object on stdout: the checklist, or what is served and where.

    Returns:
        The checklist's exit code; 0 after serving.

    Raises:
        WorldloopError: There is no such world, it cannot be played, the port is taken, or decoding failed.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # read when torch is first imported
    try:
        from services.commands.playable import check, choose
        from services.inference.play.server import serve
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is missing: pip install 'worldloop[inference]'") from None
    with Console(stderr=True).status("reading checkpoints"):
        chosen = choose(options.what, options.root, dataset=options.dataset)
    if only_check:
        return check(chosen, as_json=as_json)
    chosen.require()
    assert chosen.dataset is not None
    settings = Settings()
    config = PlayConfig(
        checkpoints=chosen.checkpoints,
        dataset=chosen.dataset,
        training=chosen.training,
        game=chosen.game or "world",
        run=_name(chosen),
        cache_dir=settings.cache_dir,
        token=place.token(settings),
        host=options.host,
        port=options.port,
        fps=options.fps,
        players=options.players,
        idle_sec=options.idle_sec,
        device=options.device,
    )

    def ready(url: str) -> None:
        url = place.with_token(url, config.token)
        if as_json:
            say_json(_document(chosen, url))
        else:
            say("\n".join(_lines(chosen, url)))

    serve(config, ready)
    return 0


def _name(chosen: Playable) -> str:
    """What the page calls the run: its id, where it is a bundle's; else its directory's name."""
    if chosen.run is None:
        return chosen.what
    bundle = chosen.run.parent.parent
    return bundle.name if RUN_ID.fullmatch(bundle.name) else chosen.run.name


def _lines(chosen: Playable, url: str) -> list[str]:
    address = urlsplit(url)
    served = [f"{stage:<16}{path}" for stage, path in chosen.checkpoints.items()]
    lines = [f"Playing {chosen.game or 'a world'} of {chosen.run}", *(f"  {line}" for line in served)]
    lines += [f"  {'seed frames':<16}{chosen.dataset}", f"Open {url}   (Ctrl-C ends it)"]
    if address.hostname in LOOPBACK:
        port = address.port
        there = address._replace(netloc=f"localhost:{port}").geturl()
        lines.append(f"From elsewhere: ssh -L {port}:127.0.0.1:{port} THIS-MACHINE, then {there}")
    return lines


def _document(chosen: Playable, url: str) -> str:
    checkpoints = {stage: str(path) for stage, path in chosen.checkpoints.items()}
    return json.dumps(
        {
            "url": url,
            "game": chosen.game,
            "run": str(chosen.run),
            "checkpoints": checkpoints,
            "dataset": str(chosen.dataset),
        }
    )
