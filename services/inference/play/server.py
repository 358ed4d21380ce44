"""The play server: loads the models and the recording, and serves the page until it is told to stop."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from contextlib import suppress

import psutil
import torch
import uvicorn
from pydantic_core import from_json

from services.inference.play.app import create_app
from services.inference.play.conductor import Conductor
from services.inference.play.config import PlayConfig
from services.inference.play.engine import Engine
from services.inference.play.messages import LARGEST
from services.inference.world import World
from shared.datasets.frames import FramesDataset
from shared.datasets.mapping import open_frames
from shared.errors import DatasetError, WorldloopError
from shared.web.listen import address, listen, own_names

THREADS = 4
"""Cores that decoding uses, at most: a batch of a few frames has no work for more."""
LOOK_SEC = 0.3
"""How long to watch how many cores are idle."""
GOODBYE_SEC = 3
"""How long pages get to answer that the server ends."""


def serve(config: PlayConfig, ready: Callable[[str], None]) -> None:
    """Load the models and serve the page until SIGINT or SIGTERM.

    Args:
        config: What to serve, and where.
        ready: Told the page's URL once it can be opened.

    Raises:
        WorldloopError: Checkpoints or recording cannot be used, the port is taken, or decoding failed.
    """
    torch.set_num_threads(min(THREADS, torch.get_num_threads(), idle_cores()))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    listener = listen(config.host, [config.port], cure="Name another with --port or --host")
    world = World.load(config.checkpoints, config.device)
    dataset = FramesDataset.configured(
        config.dataset, config.training, cache_dir=config.cache_dir, frame_size=world.frame_size
    )
    engine = Engine(world, dataset, config.settings)
    legend = engine.legend(_action_names(config))
    failures: list[Exception] = []

    def fail(error: Exception) -> None:
        failures.append(error)
        server.should_exit = True

    conductor = Conductor(
        engine, config, codes=len(legend.codes), idle=legend.idle, chance=random.Random(config.settings.seed)
    )
    app = create_app(
        conductor,
        config,
        legend,
        size=engine.size,
        most_steps=engine.most_steps,
        with_actions=world.with_actions,
        names=own_names(config.host),
        on_failure=fail,
    )
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            proxy_headers=False,  # else whoever is on this machine may call itself what it likes
            ws="websockets-sansio",
            ws_max_size=LARGEST,
            ws_per_message_deflate=False,  # PNG and mp4 are compressed already
            timeout_graceful_shutdown=GOODBYE_SEC,
        )
    )
    ready(address(listener))
    with suppress(KeyboardInterrupt):  # uvicorn ends in order, then raises the signal again
        server.run(sockets=[listener])
    for error in failures:
        raise WorldloopError(f"decoding failed: {type(error).__name__}: {error}") from error


def _action_names(config: PlayConfig) -> list[str]:
    with open_frames(config.dataset) as frames:
        text = frames.file.attrs.get("action_names", "[]")
    try:
        return [str(name) for name in from_json(text)]
    except (TypeError, ValueError) as error:
        raise DatasetError(
            f"{config.dataset}: its attribute action_names is no JSON list ({error}). Record it again"
        ) from error


def idle_cores() -> int:
    """Cores that nobody uses now, at least one: a thread beside a busy neighbour makes the others wait."""
    return max(1, round((psutil.cpu_count() or 1) * (1 - psutil.cpu_percent(interval=LOOK_SEC) / 100)))
