"""The control CLI: publishes commands, follows events, holds no state of its own.

Each command imports what it needs when it runs, so that all of them start fast. Torch is needed only
where checkpoints are read: by `infer`, and by `train` with given ones.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from services.commands import places
from services.commands.diagnose import DiagnoseCommand
from services.commands.groups.arguments import Configs, Json, NatsUrl, OutputRoot, Run
from services.commands.groups.bundle import bundle
from services.commands.groups.checkpoints import checkpoints
from services.commands.groups.data import data
from services.commands.groups.history import history
from services.commands.groups.monitor import monitor
from services.commands.groups.notify import notify
from services.commands.groups.report import report
from services.commands.groups.train import train
from services.commands.options import TrainOptions
from shared.errors import UsageError, WorldloopError
from shared.events import Stage

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Train a small world model as a closed loop of chunks, gates, evidence and decisions.",
)
app.add_typer(data, name="data")
policy = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Show what a run would be decided by.")
app.add_typer(policy, name="policy")
app.add_typer(checkpoints, name="checkpoints")
app.add_typer(bundle, name="bundle")
app.add_typer(monitor, name="monitor")
app.add_typer(notify, name="notify")
app.add_typer(history, name="history")
app.add_typer(report, name="report")


def main() -> None:
    """Entry point: errors of ours become one line and their exit code."""
    try:
        app()
    except WorldloopError as error:
        sys.stderr.write(f"worldloop: {error}\n")
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader has seen enough, as in `worldloop events --json | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# --- the stack --------------------------------------------------------------------------------------------


@app.command()
def up(
    port: Annotated[
        int | None,
        typer.Option(help="Port of the NATS server on the loopback interface; default a free one."),
    ] = None,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay, and end the stack with Ctrl-C.")
    ] = False,
) -> None:
    """Start the embedded stack: nats-server and the five services, supervised."""
    from services import stack
    from shared.settings import Settings
    from shared.web import place

    settings = Settings()
    state = stack.up(settings, port=port, foreground=foreground)
    if foreground:
        return
    typer.echo(f"{state.url}  {', '.join(child.name for child in state.children)}")
    if (page := place.address(settings)) is not None:
        typer.echo(f"live page: {page}")
    for problem in state.problems:
        typer.echo(problem, err=True)
    raise typer.Exit(1 if state.problems else 0)


@app.command()
def down() -> None:
    """End the embedded stack, and nothing else."""
    from services import stack
    from shared.settings import Settings

    ended = stack.down(Settings())
    typer.echo(f"ended {', '.join(ended)}" if ended else "nothing was running")


# --- a run ------------------------------------------------------------------------------------------------


app.command()(train)


@app.command()
def status(
    run: Run = None, nats_url: NatsUrl = None, output_root: OutputRoot = None, as_json: Json = False
) -> None:
    """Show where a run is, once. Exit code 1 for one that failed or was stopped."""
    from services.commands import watched

    _finish(watched.status(run, nats_url=nats_url, root=_root(output_root), as_json=as_json))


@app.command()
def watch(
    run: Run = None,
    path: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Look at the files of any run instead, e.g. results/<run> of TinyWorlds; needs no server.",
        ),
    ] = None,
    every: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Print what is seen that often, e.g. 4h, and keep it in Logs/monitor_*.",
        ),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Print what is seen, once.")] = False,
    profile: Annotated[
        str | None,
        typer.Option(
            help="With --path: judge by this profile's policy. (default the run's own, or policy.yaml)"
        ),
    ] = None,
    nats_url: NatsUrl = None,
    output_root: OutputRoot = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="What is seen as JSON: once, or a line each --every.")
    ] = False,
) -> None:
    """Follow a run until it ends, as its live page shows it; Ctrl-C leaves, the run goes on.

    Without a server the bundle's event file is followed. Exit code: the run's, as of `train`; 0 while it
    goes on.

    With --path the files of any run are looked at, whoever trains it: progress, loss, rate, newest checkpoint
    and picture, and whether one of them has been silent too long. Exit code then: 0, nothing is wrong; 1,
    something is.
    """
    if path is not None:
        try:
            from services.commands import watch_path
        except ModuleNotFoundError as error:
            raise UsageError(f"{error.name} is missing: pip install 'worldloop[monitor]'") from None
        raise typer.Exit(watch_path.watch(path, every=every, once=once, as_json=as_json, profile=profile))
    if profile is not None:
        raise UsageError("--profile says how files are judged: give --path DIR")
    from services.commands import watched
    from services.commands.terminal.text import seconds

    pause = seconds(every) if every is not None else None
    root = _root(output_root)
    if once or (as_json and pause is None):
        _finish(watched.status(run, nats_url=nats_url, root=root, as_json=as_json))
    _finish(watched.watch(run, nats_url=nats_url, root=root, every=pause, as_json=as_json))


@app.command()
def events(
    run: Run = None,
    follow: Annotated[bool, typer.Option("--follow", help="Also those to come.")] = False,
    nats_url: NatsUrl = None,
    output_root: OutputRoot = None,
    as_json: Annotated[bool, typer.Option("--json", help="One CloudEvent (JSON format) per line.")] = False,
) -> None:
    """Print a run's events, from the server or, without one, from the bundle."""
    from services.commands import runs

    _finish(runs.events(run, nats_url=nats_url, root=_root(output_root), follow_on=follow, as_json=as_json))


@app.command()
def pause(run: Run = None, nats_url: NatsUrl = None, output_root: OutputRoot = None) -> None:
    """Pause a run at its next gate."""
    from services.commands import runs

    _finish(runs.pause(run, nats_url=nats_url, root=_root(output_root)))


@app.command()
def resume(run: Run = None, nats_url: NatsUrl = None, output_root: OutputRoot = None) -> None:
    """Go on with a paused, stopped or failed run; its budgets start anew."""
    from services.commands import runs

    _finish(runs.resume(run, nats_url=nats_url, root=_root(output_root)))


@app.command()
def stop(run: Run = None, nats_url: NatsUrl = None, output_root: OutputRoot = None) -> None:
    """End a run after its current update and a checkpoint; its reports are written."""
    from services.commands import runs

    _finish(runs.stop(run, nats_url=nats_url, root=_root(output_root)))


@app.command()
def retune(
    words: Annotated[
        list[str], typer.Argument(metavar="[RUN] KEY=VALUE", help="Knobs, e.g. learning_rate=1e-4.")
    ],
    stage: Annotated[Stage | None, typer.Option(help="Stage to patch; default the current one.")] = None,
    nats_url: NatsUrl = None,
    output_root: OutputRoot = None,
) -> None:
    """Patch a run's next plan: knobs only, no budget spent."""
    from services.commands import runs

    _finish(runs.retune(words, stage=stage, nats_url=nats_url, root=_root(output_root)))


# --- the policy -------------------------------------------------------------------------------------------


@app.command()
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
    from services.commands import replay as command

    code = command.replay(
        run,
        policy=policy_file,
        profile=profile,
        configs=configs,
        texts=assignments or [],
        root=_root(output_root),
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
    from services.commands import policy_show as command

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


# --- diagnosis --------------------------------------------------------------------------------------------


@app.command(cls=DiagnoseCommand)
def diagnose(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help="Bundle, results or TinyWorlds run directory, .wandb file or directory, history.",
        ),
    ],
    stage: Annotated[
        Stage | None, typer.Option(help="Only this stage; or the stage a history is of.")
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(help="Judge by this profile's policy. (default the run's own, else policy.yaml)"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what is wrong with a run, which stage began it, what to trust and what to do next.

    Needs files alone. Exit code 0: normal; 1: watch; 2: critical; 3: bad input or usage.
    """
    from services.commands import diagnose as command

    raise typer.Exit(command.diagnose(path, stage=stage, profile=profile, as_json=as_json))


@app.command()
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
    from services.commands import diagnose as command

    raise typer.Exit(command.gate(history, stage=stage, profile=profile, as_json=as_json))


# --- the models -------------------------------------------------------------------------------------------


@app.command()
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
        root=_root(output_root),
    )
    raise typer.Exit(command.infer(options, as_json=as_json))


@app.command()
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
        root=_root(output_root),
        host=host,
        port=port,
        fps=fps,
        players=players,
        idle_sec=idle_sec,
        device=device,
    )
    raise typer.Exit(command.play(options, only_check=check, as_json=as_json))


@app.command()
def schema(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A message or output, e.g. chunk_done; default all.")
    ] = None,
    into: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write asyncapi.json, events.md, messages/ and outputs/ there."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="The AsyncAPI document, or the JSON Schema of NAME.")
    ] = False,
) -> None:
    """Show the messages on the bus and what `--json` prints: who sends, who reads, every field."""
    from services.commands import message_schemas as command

    raise typer.Exit(command.schema(name, into=into, as_json=as_json))


# --- the machine and its data -----------------------------------------------------------------------------


@app.command()
def doctor(output_root: OutputRoot = None, as_json: Json = False) -> None:
    """Say what this machine has, and which commands will work on it."""
    from services.commands import doctor as command

    raise typer.Exit(command.doctor(root=_root(output_root), data=Path("data"), as_json=as_json))


def _root(flag: Path | None) -> Path:
    return places.output_root(flag, None)


def _finish(work: Coroutine[Any, Any, int]) -> None:
    """Run an asynchronous command to its exit code; Ctrl-C just ends it."""
    try:
        code = asyncio.run(work)
    except KeyboardInterrupt:
        code = 130
    raise typer.Exit(code)


if __name__ == "__main__":
    main()
