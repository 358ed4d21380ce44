"""The control CLI: publishes commands, follows events, holds no state of its own.

What each command is called and takes is declared in `services.commands.groups`. Each imports what it needs
when it runs, so that all of them start fast. Torch is needed only where checkpoints are read: by `infer`, and
by `train` with given ones.
"""

from __future__ import annotations

import os
import sys

import typer

from services.commands.groups.bundle import bundle
from services.commands.groups.checkpoints import checkpoints
from services.commands.groups.data import data
from services.commands.groups.doctor import doctor
from services.commands.groups.history import history
from services.commands.groups.judging import diagnose, gate, policy, replay
from services.commands.groups.keys import keys
from services.commands.groups.models import infer, play
from services.commands.groups.monitor import monitor
from services.commands.groups.notify import notify
from services.commands.groups.overview import Overview
from services.commands.groups.report import report
from services.commands.groups.runs import events, pause, resume, retune, status, stop, watch
from services.commands.groups.schema import schema
from services.commands.groups.stack import down, up
from services.commands.groups.train import train
from services.commands.judging.diagnose import DiagnoseCommand
from services.commands.terminal.output import warn
from services.commands.terminal.refusal import refusal
from shared.errors import UsageError, WorldloopError

app = typer.Typer(
    cls=Overview,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"max_content_width": 100},
    help="Train a small world model as a closed loop of chunks, gates, evidence and decisions.",
    epilog="Begin with `worldloop doctor`: it says which commands will work on this machine. "
    "`worldloop COMMAND --help` says what a command takes, prints and returns.",
)

RUN = "A run"
app.command(rich_help_panel=RUN)(train)
app.command(rich_help_panel=RUN)(status)
app.command(rich_help_panel=RUN)(watch)
app.command(rich_help_panel=RUN)(events)
app.command(rich_help_panel=RUN)(pause)
app.command(rich_help_panel=RUN)(resume)
app.command(rich_help_panel=RUN)(retune)
app.command(rich_help_panel=RUN)(stop)
JUDGED = "What came of it, and why"
app.command(rich_help_panel=JUDGED, cls=DiagnoseCommand)(diagnose)
app.command(rich_help_panel=JUDGED)(gate)
app.command(rich_help_panel=JUDGED)(replay)
app.add_typer(report, name="report", rich_help_panel=JUDGED)
app.add_typer(history, name="history", rich_help_panel=JUDGED)
app.add_typer(bundle, name="bundle", rich_help_panel=JUDGED)
MODELS = "Models and their data"
app.add_typer(data, name="data", rich_help_panel=MODELS)
app.command(rich_help_panel=MODELS)(infer)
app.command(rich_help_panel=MODELS)(play)
app.add_typer(checkpoints, name="checkpoints", rich_help_panel=MODELS)
AROUND = "This machine and its services"
app.command(rich_help_panel=AROUND)(doctor)
app.command(rich_help_panel=AROUND)(up)
app.command(rich_help_panel=AROUND)(down)
app.add_typer(monitor, name="monitor", rich_help_panel=AROUND)
app.add_typer(notify, name="notify", rich_help_panel=AROUND)
app.add_typer(keys, name="keys", rich_help_panel=AROUND)
app.add_typer(policy, name="policy", rich_help_panel=AROUND)
app.command(rich_help_panel=AROUND)(schema)


def main() -> None:
    """Entry point: errors of ours become one line and their exit code."""
    try:
        app()
    except WorldloopError as error:
        warn(f"worldloop: {error}")
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader has seen enough, as in `worldloop events --json | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # a name too long, a full disk, a directory of others
        warn(f"worldloop: {refusal(error)}")
        sys.exit(UsageError.exit_code)
    except MemoryError as error:
        warn(f"worldloop: there is not enough memory for that {error}".rstrip())
        sys.exit(UsageError.exit_code)


if __name__ == "__main__":
    main()
