"""Playing a game and recording what it shows, with the true actions.

Before each step a policy names the action; every `keep_every`-th step is kept, area-resized to a square. The
same arguments give the same file, byte for byte. The file is that of `writing`, with these attributes: env,
seed, frame_skip, kept_every, policy (and new_action, or policy_sha256 of a file of actions), fps (what
N/fps is in seconds of the game; absent where the game does not tell its rate), action_names, versions.

A kept frame is already subsampled: train on such a file with `fps: 60`, which reads frame by frame.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shared.datasets.environments import Game, versions
from shared.datasets.mapping import Frames
from shared.datasets.names import plain
from shared.datasets.policies import STICKY, Policy, choose
from shared.datasets.progress import Progress
from shared.datasets.writing import FramesFile
from shared.errors import DatasetError

PROGRESS_EVERY = 100


@dataclass(frozen=True, slots=True)
class RecordingSummary:
    """What was recorded."""

    path: Path
    env_id: str
    frames: int
    size: int
    episodes: int
    actions: int
    """Number of actions the environment has."""
    fingerprint: str


def recording_path(env_id: str, data_dir: Path) -> Path:
    """Where a recording goes by default: `ALE/PolePosition-v5` to `<data_dir>/pole_position_frames.h5`."""
    name = re.split("[/:]", env_id)[-1].partition("-")[0]
    return data_dir / f"{plain(re.sub(r'(?<=[a-z0-9])(?=[A-Z])', '_', name))}_frames.h5"


def record(
    env_id: str,
    path: Path,
    *,
    frames: int,
    size: int = 64,
    seed: int = 0,
    frame_skip: int = 4,
    keep_every: int = 2,
    policy: str = STICKY,
    new_action: float = 0.25,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> RecordingSummary:
    """Play an environment and record it. The file appears complete or not at all.

    Args:
        env_id: Gymnasium's name, such as `ALE/Pong-v5` or `VizdoomBasic-v1`; any environment that shows RGB
            frames and whose actions can be numbered.
        path: File to write.
        frames: Frames to keep.
        size: Height and width of a kept frame, pixels.
        seed: Of the environment and of the policy.
        frame_skip: Frames of the game per step; the action is held meanwhile, none is repeated by chance.
        keep_every: Steps per kept frame.
        policy: Who plays, as `policies.choose` takes it.
        new_action: Probability of a new action before a step, for `sticky-random`.
        overwrite: Replace an existing file.
        progress: Called with frames kept and frames wanted.

    Raises:
        DatasetError: Gymnasium or the game is not installed, there is no such environment or policy, it
            cannot be recorded, or the file exists or cannot be written.
    """
    if min(frames, size, frame_skip, keep_every) < 1 or not 0 <= new_action <= 1:
        raise DatasetError(
            "frames, size, frame_skip and keep_every must be at least 1, new_action within 0..1"
        )
    with (
        FramesFile(path, size=size, overwrite=overwrite) as file,
        closing(Game(env_id, frame_skip=frame_skip)) as game,
    ):
        count = len(game.action_names)
        chosen = choose(policy, actions=count, steps=frames * keep_every, new_action=new_action)
        actions: list[int] = []
        starts: list[int] = []
        last_episode = -1
        for number, step in enumerate(_play(game, chosen.play, seed=seed), start=1):
            if number % keep_every:
                continue
            if step.episode != last_episode:
                starts.append(len(actions))
                last_episode = step.episode
            actions.append(step.action)
            file.add(step.image)
            if progress and (file.frames % PROGRESS_EVERY == 0 or file.frames == frames):
                progress(file.frames, frames)
            if file.frames == frames:
                break
        about: dict[str, Any] = {
            "env": env_id,
            "seed": seed,
            "frame_skip": frame_skip,
            "kept_every": keep_every,
            **chosen.about,
            **({"fps": game.rate / (frame_skip * keep_every)} if game.rate else {}),
            "action_names": json.dumps(game.action_names),
            "versions": json.dumps(versions()),
        }
        digest = file.finish(
            about, actions=np.array(actions, np.int64), episode_starts=np.array(starts, np.int64)
        )
        return RecordingSummary(path, env_id, frames, size, len(starts), count, digest)


@dataclass(frozen=True, slots=True)
class _Step:
    image: Frames
    """uint8 [height, width, 3], as the environment shows it."""
    action: int
    episode: int


def _play(game: Game, policy: Policy, *, seed: int) -> Iterator[_Step]:
    """Steps without end, but for those that the game has no picture of."""
    chance = np.random.default_rng(seed)
    episode = 0
    shown = game.start(seed)
    while True:
        action = policy(shown, len(game.action_names), chance)
        image, ended = game.step(action)
        if image is not None:
            shown = image
            yield _Step(image, action, episode)
        if ended:
            shown = game.again()
            episode += 1
