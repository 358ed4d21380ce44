"""Settings of a process, from the environment (`WORLDLOOP_*`)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import platformdirs
from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """What a process needs to know about its surroundings before it talks to anyone."""

    model_config = SettingsConfigDict(env_prefix="WORLDLOOP_", frozen=True, extra="ignore")

    nats_url: str | None = None
    """Existing server, or several of a cluster separated by commas; none means the embedded stack."""
    nats_key: Path | None = None
    """Key file `<user>.nk` by which the server knows this process; none for a server that asks for no key."""
    nats_ca: Path | None = None
    """Certificates that vouch for a server at `tls://`; none takes the system's."""
    nats_replicas: Annotated[int, Field(ge=1, le=5)] | None = None
    """Servers of a cluster that keep each stream, 3 for one of three; none leaves streams as they are."""
    node_rank: Annotated[int, Field(ge=0)] = 0
    """Which host of a chunk that spans several this trainer is; 0 takes the plans and reports."""
    output_root: Path | None = None
    """Where this process finds bundles; none takes the bundle's own path from the run."""
    data_dir: Path | None = None
    """Where this process finds recordings, by file name; none takes the recording's own path from the run."""
    state_dir: Annotated[Path, AfterValidator(Path.absolute)] = Field(
        default_factory=lambda: platformdirs.user_state_path("worldloop", appauthor=False)
    )
    """Embedded stack: server store, pids, service logs. Absolute: it is the mark of what the stack starts."""
    cache_dir: Path = Field(
        default_factory=lambda: platformdirs.user_cache_path("worldloop", appauthor=False)
    )
    """What can be computed again."""
    notify_file: Path = Field(
        default_factory=lambda: platformdirs.user_config_path("worldloop", appauthor=False) / "notify.yaml"
    )
    """Who is told of pauses, ends and alerts; its URLs hold secrets, so only its path goes around."""
    page_host: str = "127.0.0.1"
    """Where the reporter serves the live page."""
    page_port: Annotated[int, Field(ge=0, le=65535)] = 8765
    """The next free one is taken if it is not; 0 takes any."""
    page_token: str | None = Field(default=None, repr=False)
    """Asked of whoever opens a web page of ours, to read as well as to act; none takes a random one that the
    state directory keeps."""
    heartbeat_sec: float = 2.0
    log_level: str = "info"
