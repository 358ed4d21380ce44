"""`worldloop infer`: the standard inference test by hand, and two tokenizers on the same frames."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from services.commands.configuration.dotted_keys import Setting
from services.commands.configuration.resolve import Resolution, assignments, combine
from services.commands.infer_view import lines_of_comparison, lines_of_test
from services.commands.terminal.output import say, say_json
from services.commands.training.start import DATA
from shared.datasets.names import dataset_path
from shared.errors import UsageError, WorldloopError
from shared.events import STAGES, InferenceDone, Stage
from shared.settings import Settings

if TYPE_CHECKING:
    from services.commands.infer_subject import Subject
    from shared.datasets.frames import FramesDataset

RECORDING = ("dataset", "fps", "preload_ratio", "held_out_ratio")
"""Keys of training.yaml that say how the recording is read."""
PLAIN = {"run_id", "inference_try", "retry", "ok", "checkpoints", "picture", "video", "preview", "seconds"}
"""Fields of `InferenceDone` that the document has in its own words, or not at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InferOptions:
    """What `worldloop infer` was asked for; none is `not given`."""

    words: tuple[str, ...] = ()
    """Perhaps RUN, then KEY=VALUE."""
    checkpoints: Mapping[Stage, str]
    dataset: str | None = None
    tokenizer_b: str | None = None
    actions: str | None = None
    teacher_forced: bool = False
    sample_index: int | None = None
    max_mse: float | None = None
    out: Path | None = None
    root: Path

    @property
    def run(self) -> str | None:
        """The run to test."""
        return self.words[0] if self.words and "=" not in self.words[0] else None

    def settings(self) -> Iterator[Setting]:
        """Flags and KEY=VALUE as settings.

        Raises:
            ConfigurationError: A word that is no KEY=VALUE, or an unknown key.
            UsageError: A key that no test depends on.
        """
        given = assignments(self.words if self.run is None else self.words[1:])
        ours = [setting for setting in given if _is_ours(setting.path)]
        if other := {setting.key for setting in given} - {setting.key for setting in ours}:
            raise UsageError(
                f"{min(other)}: the models are as they were trained; infer takes keys of inference.yaml, of "
                f"the policy's inference section, gatekeeper.require, and {', '.join(RECORDING)}"
            )
        yield from ours
        flags = {
            ("training", "dataset"): self.dataset,
            ("inference", "actions"): self.actions,
            ("inference", "teacher_forced"): self.teacher_forced or None,
            ("inference", "sample_index"): self.sample_index,
            ("inference", "max_mse"): self.max_mse,
        }
        for path, value in flags.items():
            if value is not None:
                yield Setting(path, value, f"--{path[-1].replace('_', '-')}", ".".join(path))


def infer(options: InferOptions, *, as_json: bool) -> int:
    """Test a run's models, or compare two tokenizers, and print what came of it.

    Returns:
        0 if the test passed or tokenizers were compared, 1 if it did not.

    Raises:
        WorldloopError: Something cannot be used; names the file, flag or key, and the cure.
    """
    with _busy("reading checkpoints"):
        try:
            from services.commands.infer_subject import find_subject
        except ModuleNotFoundError as error:
            raise UsageError(f"{error.name} is missing: pip install 'worldloop[inference]'") from None
        subject = find_subject(options.run, options.checkpoints, options.root, out=options.out)
        resolution = combine("", [*subject.settings, *options.settings()])
    if options.tokenizer_b is not None:
        found = _compare(subject, resolution, options)
        _print(found, lines_of_comparison(found), as_json=as_json)
        return 0
    found = _test(subject, resolution)
    _print(found, lines_of_test(found), as_json=as_json)
    return 0 if found["passed"] else 1


def _test(subject: Subject, resolution: Resolution) -> dict[str, Any]:
    from services.gatekeeper.core.inference_gate import advice, conditions
    from services.inference.artifacts import Artifacts, write_artifacts
    from services.inference.evaluation import evaluate
    from services.inference.world import World

    subject.needs(STAGES)
    began, now = time.monotonic(), datetime.now(UTC)
    settings, policy = resolution.run.inference, resolution.policy.inference
    world = World.of(subject.checkpoints, settings.device)
    dataset = _dataset(resolution, world.frame_size)
    numbers: dict[str, Any]
    files: Artifacts | None = None
    with _busy(f"testing {subject.name} on {world.device}"):
        try:
            tested = evaluate(world, dataset, settings, policy, trained_on=world.held_out_from(dataset))
        except WorldloopError as error:
            if error.exit_code != 1:  # what was asked for cannot be tested
                raise
            numbers = {"ok": False, "problem": str(error)}
        else:
            with _writing_into(subject.out):
                files = write_artifacts(
                    tested,
                    subject.out,
                    now,
                    title=subject.name,
                    context=settings.context_window,
                    clips=policy.picture_clips,
                )
            numbers = {
                "ok": True,
                "picture": files.picture.name,
                "video_problem": files.problem,
                **tested.numbers,
            }
    checkpoints = {stage: subject.checkpoints[stage].directory for stage in STAGES}
    done = InferenceDone.model_validate(
        {
            "run_id": f"{now:%Y%m%d_%H%M%S}",
            "inference_try": 1,
            "mode": "teacher-forced" if settings.teacher_forced else "autoregressive",
            "checkpoints": {stage: path.name for stage, path in checkpoints.items()},
            **numbers,
        }
    )
    reasons = conditions(
        done, done.checkpoints, max_mse=settings.max_mse, require=resolution.policy.gatekeeper.require
    )
    return {
        "passed": all(reason.ok for reason in reasons),
        "run": subject.name,
        "max_mse": settings.max_mse,
        **done.model_dump(mode="json", exclude=PLAIN),
        "checkpoints": {stage: str(path) for stage, path in checkpoints.items()},
        "dataset": str(dataset.path),
        **_paths(files),
        "reasons": [reason.model_dump(mode="json") for reason in reasons],
        "advice": advice(done, settings.max_mse),
        "seconds": round(time.monotonic() - began, 3),
    }


def _compare(subject: Subject, resolution: Resolution, options: InferOptions) -> dict[str, Any]:
    from services.commands.infer_subject import one_checkpoint
    from services.inference.artifacts import free_path
    from services.inference.picture import write_picture
    from services.inference.tokenizers import Tokenizer, compare, sheet_of

    assert options.tokenizer_b is not None
    subject.needs(["video_tokenizer"])
    device = resolution.run.inference.device
    other = one_checkpoint(options.tokenizer_b, "video_tokenizer", options.root, flag="--tokenizer-b")
    a, b = (Tokenizer.of(each, device) for each in (subject.checkpoints["video_tokenizer"], other))
    dataset = _dataset(resolution, a.frame_size)
    with _busy(f"comparing tokenizers on {a.device}"):
        found = compare(a, b, dataset)
    numbers = found.numbers
    title = (
        f"A {a.checkpoint.directory.name}: mse {numbers['a']['mse']:.4g}   B {b.checkpoint.directory.name}"
    )
    path = free_path(subject.out, "tokenizer_recon_a_vs_b", datetime.now(UTC))
    windows = resolution.policy.inference.picture_clips
    sheet = sheet_of(found, title=f"{title}: mse {numbers['b']['mse']:.4g}", windows=windows)
    with _writing_into(subject.out):
        write_picture(path, sheet)
    return {
        "run": subject.name,
        **numbers,
        "a": {"checkpoint": str(a.checkpoint.directory), **numbers["a"]},
        "b": {"checkpoint": str(b.checkpoint.directory), **numbers["b"]},
        "dataset": str(dataset.path),
        "picture": str(path),
    }


@contextmanager
def _writing_into(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"{directory}: {error.strerror or error}; say with --out where the pictures go"
        ) from None


def _dataset(resolution: Resolution, frame_size: int) -> FramesDataset:
    from shared.datasets.frames import FramesDataset

    training = resolution.run.training
    path = dataset_path(training.dataset, DATA)
    return FramesDataset.configured(path, training, cache_dir=Settings().cache_dir, frame_size=frame_size)


def _is_ours(path: Sequence[str]) -> bool:
    """Whether a test depends on a key."""
    return (
        path[0] == "inference"
        or tuple(path[:2]) == ("policy", "inference")
        or tuple(path[:3]) == ("policy", "gatekeeper", "require")
        or (path[0] == "training" and path[1] in RECORDING)
    )


def _paths(files: Any) -> dict[str, str | None]:
    kinds = ("picture", "video", "preview")
    paths = {kind: getattr(files, kind, None) for kind in kinds}
    return {kind: None if path is None else str(path) for kind, path in paths.items()}


def _print(found: Mapping[str, Any], lines: Iterator[str], *, as_json: bool) -> None:
    if as_json:
        say_json(json.dumps(found, indent=2))
    else:
        say("\n".join(lines))


def _busy(what: str) -> AbstractContextManager[object]:
    return Console(stderr=True).status(what)
