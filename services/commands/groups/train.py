"""The declaration of `worldloop train`: its flags are the table in `services.commands.training.options`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Annotated, Any, get_type_hints

import typer

from services.commands.groups.arguments import Json, NatsUrl, TrueFalse
from services.commands.training.flags import Flag, flag_of
from services.commands.training.options import FLAGS, TrainOptions


def takes_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the flags of the table in place of its parameter `options`.

    Typer reads a command's signature, so the flags are written into that; when it is called they come
    together as one `TrainOptions`. A yes-or-no flag whose default is none takes true or false.
    """
    types = get_type_hints(TrainOptions)
    switches = [name for name in FLAGS if types[name] == (bool | None)]
    flags = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=Annotated[
                TrueFalse | None if field.name in switches else types[field.name],
                _declared(field.name, FLAGS[field.name]),
            ],
        )
        for field in fields(TrainOptions)
        if field.name in FLAGS
    ]
    signature = inspect.signature(command, eval_str=True)
    own = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in signature.parameters.values()
    ]
    at = next(index for index, parameter in enumerate(own) if parameter.name == "options")

    @functools.wraps(command)
    def called(**given: Any) -> None:
        chosen = {name: given.pop(name) for name in FLAGS}
        for name in switches:
            chosen[name] = None if chosen[name] is None else chosen[name] == "true"
        command(options=TrainOptions(**chosen), **given)

    called.__signature__ = signature.replace(parameters=[*own[:at], *flags, *own[at + 1 :]])  # type: ignore[attr-defined]
    return called


def _declared(name: str, flag: Flag) -> Any:
    return typer.Option(*(flag.names or (flag_of(name),)), help=flag.text, metavar=flag.metavar, min=flag.min)


@takes_options
def train(
    options: TrainOptions,
    assignments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Any key of configs/ or the policy, e.g. learning_rate=1e-3, dynamics.learning_rate=1e-3.",
        ),
    ] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN", help="Go on with a stopped or failed run, its budgets anew.")
    ] = None,
    nats_url: NatsUrl = None,
    as_json: Json = False,
) -> None:
    """Train the three stages through their gates to the inference gate, and follow the run.

    Starts the embedded stack if there is no server. With --checkout, a TinyWorlds repository trains
    (docs/tinyworlds.md). Exit code 0: passed, stage_completed or detached; 1: failed or stopped; 2: something
    cannot be used, and nothing was started.
    """
    from services.commands.training import train as command

    asked = replace(options, assignments=tuple(assignments or ()))
    raise typer.Exit(command.train(asked, resume=resume, nats_url=nats_url, as_json=as_json))
