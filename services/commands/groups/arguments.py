"""Arguments and flags that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Run = Annotated[
    str | None, typer.Argument(metavar="RUN", help="Run id or bundle directory; default the newest run.")
]
NatsUrl = Annotated[
    str | None,
    typer.Option(
        metavar="URL", help="Existing NATS server (WORLDLOOP_NATS_URL); default the embedded stack."
    ),
]
OutputRoot = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Where bundles are (WORLDLOOP_OUTPUT_ROOT); default ./runs."),
]
Configs = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Configuration files; default ./configs, else those of the package."),
]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]
TrueFalse = Literal["true", "false"]
