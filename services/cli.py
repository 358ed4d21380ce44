"""The control CLI: publishes commands, follows events, holds no state of its own.

Each command imports what it needs when it runs, so that all of them start fast; none needs torch but `train`
with given checkpoints.
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
from services.commands.options import TrainOptions
from shared.errors import WorldloopError
from shared.events import Stage

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Train a small world model as a closed loop of chunks, gates, evidence and decisions.",
)
data = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Record and inspect frames files.")
app.add_typer(data, name="data")
policy = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Show what a run would be decided by.")
app.add_typer(policy, name="policy")

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

    state = stack.up(Settings(), port=port, foreground=foreground)
    if foreground:
        return
    typer.echo(f"{state.url}  {', '.join(child.name for child in state.children)}")
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


@app.command()
def train(
    assignments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Any key of configs/ or the policy, e.g. learning_rate=1e-3, dynamics.learning_rate=1e-3.",
        ),
    ] = None,
    profile: Annotated[str, typer.Option(help="Named parameter set in configs/profiles.")] = "inference-safe",
    configs: Configs = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="ZELDA, SONIC, POLE_POSITION, PICODOOM, PONG (data/<name>_frames.h5) or a file. (dataset)"
        ),
    ] = None,
    train_stage: Annotated[
        Literal["all", "none"] | None,
        typer.Option(
            help="none: inference and reports only, on given or the newest valid checkpoints. (default all)"
        ),
    ] = None,
    only_stage: Annotated[
        Stage | None,
        typer.Option(help="Train one stage; dynamics needs --video-checkpoint and --latent-checkpoint."),
    ] = None,
    video_checkpoint: Annotated[
        str | None,
        typer.Option(
            metavar="CHECKPOINT",
            help="Step directory, checkpoints/ folder or run; resumes a stage that is trained.",
        ),
    ] = None,
    latent_checkpoint: Annotated[
        str | None, typer.Option(metavar="CHECKPOINT", help="Likewise for latent actions.")
    ] = None,
    dynamics_checkpoint: Annotated[
        str | None, typer.Option(metavar="CHECKPOINT", help="Likewise for dynamics.")
    ] = None,
    target_updates: Annotated[
        int | None,
        typer.Option(
            min=1, help="Absolute target of each trained stage. (<stage>.n_updates, default of the profile)"
        ),
    ] = None,
    video_chunk: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Updates between gates. (gatekeeper.chunk.video_tokenizer, default of the profile)",
        ),
    ] = None,
    latent_chunk: Annotated[
        int | None,
        typer.Option(min=1, help="(gatekeeper.chunk.latent_actions, default of the profile)"),
    ] = None,
    dynamics_chunk: Annotated[
        int | None, typer.Option(min=1, help="(gatekeeper.chunk.dynamics, default of the profile)")
    ] = None,
    video_min_batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Retune to no less. (gatekeeper.min_batch_size.video_tokenizer, default of the profile)",
        ),
    ] = None,
    latent_min_batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="(gatekeeper.min_batch_size.latent_actions, default of the profile)"),
    ] = None,
    dynamics_min_batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="(gatekeeper.min_batch_size.dynamics, default of the profile)"),
    ] = None,
    init_batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="First attempt's batch per process. (<stage>.batch_size_per_gpu, default of the profile)",
        ),
    ] = None,
    init_grad_accum: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Likewise. (<stage>.gradient_accumulation_steps, default of the profile)",
        ),
    ] = None,
    init_learning_rate: Annotated[
        float | None,
        typer.Option(
            help="First attempt's peak learning rate. (<stage>.learning_rate, default of the profile)"
        ),
    ] = None,
    init_log_interval: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="First attempt's checkpoint interval. (<stage>.log_interval, default of the profile)",
        ),
    ] = None,
    nproc_per_node: Annotated[
        int | None,
        typer.Option(min=1, help="Training processes, one per GPU. (training.nproc_per_node, default 2)"),
    ] = None,
    allow_single_gpu: Annotated[
        bool,
        typer.Option(
            "--allow-single-gpu", help="Go on with fewer GPUs than processes asked for. (default false)"
        ),
    ] = False,
    device: Annotated[
        Literal["auto", "cpu", "cuda"] | None, typer.Option(help="(training.device, default auto)")
    ] = None,
    cleanup_extra_processes: Annotated[
        TrueFalse | None,
        typer.Option(
            help="End other launchers of this stack. (trainer.cleanup_extra_processes, default true)"
        ),
    ] = None,
    enforce_dual_gpu_check: Annotated[
        TrueFalse | None,
        typer.Option(help="Both GPUs must be active. (gatekeeper.enforce_dual_gpu_check, default true)"),
    ] = None,
    monitor_interval_sec: Annotated[
        float | None,
        typer.Option(help="Between GPU readings. (monitor.monitor_interval_sec, default 5)"),
    ] = None,
    gpu_util_threshold: Annotated[
        float | None,
        typer.Option(help="Percent that counts as active. (monitor.gpu_util_threshold, default 1)"),
    ] = None,
    gpu_required_samples: Annotated[
        int | None,
        typer.Option(help="Active readings a GPU needs. (monitor.gpu_required_samples, default 2)"),
    ] = None,
    max_retries: Annotated[
        int | None, typer.Option(help="Failed gates per stage. (gatekeeper.max_retries, default 5)")
    ] = None,
    max_inference_retries: Annotated[
        int | None,
        typer.Option(help="Failed inference gates. (gatekeeper.max_inference_retries, default 2)"),
    ] = None,
    retry_chunk: Annotated[
        int | None,
        typer.Option(help="Updates after a failed inference gate. (gatekeeper.retry_chunk, default 2000)"),
    ] = None,
    retry_init_learning_rate: Annotated[
        float | None,
        typer.Option(
            help="Its largest peak, before decay. (gatekeeper.retry_init_learning_rate, default 0.0005)"
        ),
    ] = None,
    retry_lr_decay: Annotated[
        float | None,
        typer.Option(help="Factor per such retry. (gatekeeper.retry_lr_decay, default 0.7)"),
    ] = None,
    max_mse: Annotated[
        float | None, typer.Option(help="Limit of the inference gate. (inference.max_mse, default 0.03)")
    ] = None,
    teacher_forced: Annotated[
        bool,
        typer.Option(
            "--teacher-forced", help="Give true frames as context. (inference.teacher_forced, default false)"
        ),
    ] = False,
    sample_index: Annotated[
        int | None, typer.Option(min=0, help="Test on this window alone. (inference.sample_index)")
    ] = None,
    output_root: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Where bundles go: else WORLDLOOP_OUTPUT_ROOT, training.output_root, ./runs."
        ),
    ] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN", help="Go on with a stopped or failed run, its budgets anew.")
    ] = None,
    observe: Annotated[
        bool, typer.Option("--observe", help="Decide and record, never intervene. (default false)")
    ] = False,
    nats_url: NatsUrl = None,
    as_json: Json = False,
) -> None:
    """Train the three stages through their gates to the inference gate, and follow the run.

    Starts the embedded stack if there is no server. Exit code 0: passed, stage_completed or detached;
    1: failed or stopped; 2: something cannot be used, and nothing was started.
    """
    from services.commands import train as command

    options = TrainOptions(
        assignments=tuple(assignments or ()),
        profile=profile,
        configs=configs,
        dataset=dataset,
        train_stage=train_stage,
        only_stage=only_stage,
        video_checkpoint=video_checkpoint,
        latent_checkpoint=latent_checkpoint,
        dynamics_checkpoint=dynamics_checkpoint,
        target_updates=target_updates,
        video_chunk=video_chunk,
        latent_chunk=latent_chunk,
        dynamics_chunk=dynamics_chunk,
        video_min_batch_size=video_min_batch_size,
        latent_min_batch_size=latent_min_batch_size,
        dynamics_min_batch_size=dynamics_min_batch_size,
        init_batch_size=init_batch_size,
        init_grad_accum=init_grad_accum,
        init_learning_rate=init_learning_rate,
        init_log_interval=init_log_interval,
        nproc_per_node=nproc_per_node,
        allow_single_gpu=allow_single_gpu,
        device=device,
        cleanup_extra_processes=None
        if cleanup_extra_processes is None
        else cleanup_extra_processes == "true",
        enforce_dual_gpu_check=None if enforce_dual_gpu_check is None else enforce_dual_gpu_check == "true",
        monitor_interval_sec=monitor_interval_sec,
        gpu_util_threshold=gpu_util_threshold,
        gpu_required_samples=gpu_required_samples,
        max_retries=max_retries,
        max_inference_retries=max_inference_retries,
        retry_chunk=retry_chunk,
        retry_init_learning_rate=retry_init_learning_rate,
        retry_lr_decay=retry_lr_decay,
        max_mse=max_mse,
        teacher_forced=teacher_forced or None,
        sample_index=sample_index,
        output_root=output_root,
        observe=observe,
    )
    raise typer.Exit(command.train(options, resume=resume, nats_url=nats_url, as_json=as_json))


@app.command()
def status(
    run: Run = None, nats_url: NatsUrl = None, output_root: OutputRoot = None, as_json: Json = False
) -> None:
    """Show where a run is. Exit code 1 for one that failed or was stopped."""
    from services.commands import runs

    _finish(runs.status(run, nats_url=nats_url, root=_root(output_root), as_json=as_json))


@app.command()
def watch(run: Run = None, nats_url: NatsUrl = None, output_root: OutputRoot = None) -> None:
    """Follow a run until it ends; Ctrl-C leaves, the run goes on."""
    from services.commands import runs

    _finish(runs.watch(run, nats_url=nats_url, root=_root(output_root)))


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


# --- the machine and its data -----------------------------------------------------------------------------


@app.command()
def doctor(output_root: OutputRoot = None, as_json: Json = False) -> None:
    """Say what this machine has, and which commands will work on it."""
    from services.commands import doctor as command

    raise typer.Exit(command.doctor(root=_root(output_root), data=Path("data"), as_json=as_json))


@data.command("record")
def data_record(
    env: Annotated[str, typer.Option(help="Gymnasium's name, e.g. ALE/Pong-v5.")],
    frames: Annotated[int, typer.Option(min=1, help="Frames to keep.")] = 4000,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Default data/<game>_frames.h5.")] = None,
    size: Annotated[int, typer.Option(min=8, help="Height and width of a kept frame.")] = 64,
    seed: Annotated[int, typer.Option(help="Of the environment and of the actions.")] = 0,
    frame_skip: Annotated[int, typer.Option(min=1, help="Frames of the game per step.")] = 4,
    keep_every: Annotated[int, typer.Option(min=1, help="Steps per kept frame.")] = 2,
    new_action: Annotated[
        float, typer.Option(min=0, max=1, help="Probability of a new random action before a step.")
    ] = 0.25,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Play an environment at random and record frames and true actions."""
    from services.commands import data as command

    command.record_game(
        env,
        out,
        frames=frames,
        size=size,
        seed=seed,
        frame_skip=frame_skip,
        keep_every=keep_every,
        new_action=new_action,
        overwrite=overwrite,
    )


@data.command("inspect")
def data_inspect(file: Annotated[Path, typer.Argument(metavar="FILE")], as_json: Json = False) -> None:
    """Shape, duplicates, and the baselines that tell whether an MSE limit means anything on a recording."""
    from services.commands import data as command

    command.inspect_file(file, as_json=as_json)


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
