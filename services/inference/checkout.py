"""The inference test through a TinyWorlds checkout's own `scripts/run_inference.py`.

What the script prints and the picture it writes are the test; its files are moved into the bundle.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from services.inference import script
from services.inference.config import Policy
from services.inference.core.asked import arguments
from services.inference.core.clips import Layout
from services.inference.core.markers import Said, read
from shared import safe_yaml
from shared.bundle import Bundle
from shared.checkout import INFERENCE_CONFIG, INFERENCE_SCRIPT
from shared.config import InferenceConfig, RunConfig
from shared.datasets.frames import FramesDataset
from shared.datasets.names import game_of
from shared.errors import WorldloopError
from shared.events import EvaluateInference, RunSpec, Stage

PICTURES = "inference_results_gt_vs_pred_*.png"
VIDEOS = "*.mp4"
PNG = b"\x89PNG\r\n\x1a\n"


def run_checkout(
    command: EvaluateInference,
    spec: RunSpec,
    bundle: Bundle,
    *,
    cache_dir: Path,
    cancelled: Callable[[], bool],
) -> dict[str, Any]:
    """Run the checkout's script on the selected checkpoints.

    Its one number, of one clip with random actions, is the one that gates (`mse_standard`).

    Args:
        command: What to test.
        spec: The run; it has a checkout.
        bundle: Where pictures and the script's output go.
        cache_dir: Where compressed recordings are unpacked.
        cancelled: Whether to give up, asked often.

    Returns:
        Fields of `InferenceDone`.

    Raises:
        WorldloopError: The script cannot be run, failed, fell silent, or took too long.
        Cancelled: Nobody waits any more; the script is ended.
    """
    assert spec.checkout is not None
    policy = Policy.recorded(spec.policy.get("inference", {}))
    settings = InferenceConfig.recorded(command.settings)
    training = RunConfig.recorded(spec.configuration).training
    recording = Path(training.dataset)
    dataset = FramesDataset.configured(
        recording, training, cache_dir=cache_dir, frame_size=training.frame_size
    )
    selected = {stage: bundle.resolve(path) for stage, path in command.checkpoints.items()}
    log = bundle.logs / "inference" / f"checkout_{command.inference_try}_{command.retry}.log"
    with script.links(Path(spec.checkout.directory), bundle.script_place) as place:
        asked = arguments(
            settings,
            {stage: str(path) for stage, path in selected.items()},
            game=game_of(recording),
            frames=len(dataset.frames),
            keys=_keys(place / INFERENCE_CONFIG),
        )
        code, printed = script.run(spec.checkout, asked, place, bundle, log, policy, cancelled)
        if code:
            raise WorldloopError(
                f"{INFERENCE_SCRIPT} ended with exit code {code}: {script.last_line(printed)} "
                f"(all it said: {bundle.relative(log)})"
            )
        said = read(printed)
        used = _used(said, selected, place)
        written = place / "inference_results"
        picture = _newest(path for path in written.glob(PICTURES) if _is_picture(path))
        video = _newest(path for path in written.glob(VIDEOS) if path.stat().st_size)
        moved = _move(written, bundle.inference_results)
    problems = _problems(said, used, selected, steps=Layout.of(settings).steps, picture=picture)
    return {
        "ok": not problems,
        "problem": "; ".join(problems) or None,
        "gated_by": "mse_standard",
        "actions": "random",
        "checkpoints": _reported(used, selected, command, bundle),
        "picture": bundle.relative(moved[picture]) if picture is not None else None,
        "video": bundle.relative(moved[video]) if video is not None else None,
        "video_problem": None if video is not None else "the checkout's script wrote no video",
        "frames_expected": settings.generation_steps,
        "frames_inferred": min(said.frames * settings.prediction_horizon, settings.generation_steps),
        "clips": 1,
        "held_out": False,
        "mse_standard": said.mse if said.mse is not None and math.isfinite(said.mse) else None,
    }


def _problems(
    said: Said,
    used: Mapping[Stage, Path],
    selected: Mapping[Stage, Path],
    *,
    steps: int,
    picture: Path | None,
) -> list[str]:
    """What the test lacks, as sentences; each of these fails the gate."""
    found = [
        f"it used {used[stage]} for {stage}, not {path}"
        if stage in used
        else f"it reported no {stage} checkpoint"
        for stage, path in selected.items()
        if used.get(stage) != path
    ]
    if said.frames < steps:
        found.append(f"it inferred {said.frames} of {steps} frames")
    if not said.statistics:
        found.append("it reported no statistics")
    if said.mse is None:
        found.append("it reported no MSE")
    elif not math.isfinite(said.mse):
        found.append(f"the MSE it reported is {said.mse}")
    if picture is None:
        found.append(f"it wrote no {PICTURES}")
    return found


def _used(said: Said, selected: Mapping[Stage, Path], place: Path) -> dict[Stage, Path]:
    """The checkpoints the script named; it may name the weights' file in place of the directory."""
    found = {}
    for stage, printed in said.checkpoints.items():
        path = (place / printed).resolve()
        found[stage] = path.parent if path.parent == selected.get(stage) else path
    return found


def _reported(
    used: Mapping[Stage, Path], selected: Mapping[Stage, Path], command: EvaluateInference, bundle: Bundle
) -> dict[Stage, str]:
    """The checkpoints as messages name them; one outside the bundle has no such name."""
    root = bundle.root.resolve()
    return {
        stage: command.checkpoints[stage] if path == selected.get(stage) else bundle.relative(path)
        for stage, path in used.items()
        if path.is_relative_to(root)
    }


def _keys(path: Path) -> set[str]:
    try:
        content = safe_yaml.load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise WorldloopError(f"{INFERENCE_CONFIG} of the checkout cannot be read: {error}") from None
    return set(content) if isinstance(content, dict) else set()


def _newest(paths: Iterator[Path]) -> Path | None:
    return max(paths, key=lambda path: path.stat().st_mtime, default=None)


def _is_picture(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(PNG)) == PNG


def _move(written: Path, target: Path) -> dict[Path, Path]:
    """Move the script's files into the bundle, beside what is there; old path -> new."""
    moved = {}
    for path in sorted(each for each in written.iterdir() if each.is_file()):
        to, count = target / path.name, 1
        while to.exists():
            count += 1
            to = target / f"{path.stem}_{count}{path.suffix}"
        moved[path] = path.rename(to)
    return moved
