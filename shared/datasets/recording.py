"""Playing a Gymnasium environment at random and recording what it shows, with the true actions.

The player holds an action for a while: before each step it takes a new random one with probability
`new_action`. Every `keep_every`-th step is kept, area-resized to a square. The same arguments give the same
file, byte for byte. The file (datasets of one recording):

    frames          uint8 [N, size, size, 3], contiguous, so that it can be memory-mapped
    actions         int64 [N], the action of the step that led to each frame
    episode_starts  int64 [episodes], index of the first frame of each episode
    attributes      env, seed, frame_skip, kept_every, new_action, fps (what N/fps is in seconds of the game),
                    action_names, versions

A kept frame is already subsampled: train on such a file with `fps: 60`, which reads frame by frame.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

from shared.datasets.mapping import Frames, fingerprint
from shared.errors import DatasetError

GAME_RATE = 60
"""Frames per second of the consoles that ALE emulates."""
PROGRESS_EVERY = 100

Progress = Callable[[int, int], None]


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
    name = env_id.rpartition("/")[2].partition("-")[0]
    game = re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower())
    return data_dir / f"{game}_frames.h5"


def record(
    env_id: str,
    path: Path,
    *,
    frames: int,
    size: int = 64,
    seed: int = 0,
    frame_skip: int = 4,
    keep_every: int = 2,
    new_action: float = 0.25,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> RecordingSummary:
    """Play an environment and record it. The file appears complete or not at all.

    Args:
        env_id: Gymnasium's name, such as `ALE/Pong-v5`; any environment that shows RGB frames and has
            discrete actions.
        path: File to write.
        frames: Frames to keep.
        size: Height and width of a kept frame, pixels.
        seed: Of the environment and of the actions.
        frame_skip: Frames of the game per step; the action is held meanwhile, none is repeated by chance.
        keep_every: Steps per kept frame.
        new_action: Probability of a new random action before a step.
        overwrite: Replace an existing file.
        progress: Called with frames kept and frames wanted.

    Raises:
        DatasetError: Gymnasium or the game is not installed, there is no such environment, it cannot be
            recorded, or the file exists or cannot be written.
    """
    if min(frames, size, frame_skip, keep_every) < 1 or not 0 <= new_action <= 1:
        raise DatasetError(
            "frames, size, frame_skip and keep_every must be at least 1, new_action within 0..1"
        )
    if path.exists() and not overwrite:
        raise DatasetError(f"{path}: exists already. Remove it, name another file, or ask to overwrite it")
    with closing(_make(env_id, frame_skip)) as env:
        about = {
            "env": env_id,
            "seed": seed,
            "frame_skip": frame_skip,
            "kept_every": keep_every,
            "new_action": new_action,
            "fps": GAME_RATE / (frame_skip * keep_every),
            "action_names": json.dumps(_action_names(env)),
            "versions": json.dumps(_versions()),
        }
        steps = _kept_steps(_play(env, seed=seed, new_action=new_action), keep_every)
        episodes, digest = _write(path, steps, about, frames=frames, size=size, progress=progress)
        return RecordingSummary(path, env_id, frames, size, episodes, int(env.action_space.n), digest)


@dataclass(frozen=True, slots=True)
class _Step:
    image: Frames
    """uint8 [height, width, 3], as the environment shows it."""
    action: int
    episode: int


def _play(env: Any, *, seed: int, new_action: float) -> Iterator[_Step]:
    chance = np.random.default_rng(seed)
    count = int(env.action_space.n)
    episode = 0
    env.reset(seed=seed)
    action = int(chance.integers(count))
    while True:
        if chance.random() < new_action:
            action = int(chance.integers(count))
        observation, _, terminated, truncated, _ = env.step(action)
        yield _Step(_image(env, observation), action, episode)
        if terminated or truncated:
            env.reset()
            episode += 1


def _kept_steps(steps: Iterator[_Step], keep_every: int) -> Iterator[_Step]:
    for number, step in enumerate(steps, start=1):
        if number % keep_every == 0:
            yield step


def _image(env: Any, observation: object) -> Frames:
    image = observation if _is_rgb(observation) else env.render()
    if not _is_rgb(image):
        raise DatasetError(
            f"{env.spec.id}: shows no RGB frames. Record an environment that renders rgb_array"
        )
    return np.asarray(image, np.uint8)


def _is_rgb(image: object) -> bool:
    return (
        isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    )


def _write(
    path: Path,
    steps: Iterator[_Step],
    about: dict[str, Any],
    *,
    frames: int,
    size: int,
    progress: Progress | None,
) -> tuple[int, str]:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(temporary, "w") as file:
            pixels = file.create_dataset("frames", (frames, size, size, 3), np.uint8)
            actions = np.zeros(frames, np.int64)
            starts: list[int] = []
            last_episode = -1
            for index, step in zip(range(frames), steps, strict=False):
                pixels[index] = Image.fromarray(step.image).resize((size, size), Image.Resampling.BOX)
                actions[index] = step.action
                if step.episode != last_episode:
                    starts.append(index)
                    last_episode = step.episode
                if progress and ((index + 1) % PROGRESS_EVERY == 0 or index + 1 == frames):
                    progress(index + 1, frames)
            file["actions"] = actions
            file["episode_starts"] = np.asarray(starts, np.int64)
            file.attrs.update(about)
            digest = fingerprint(pixels)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot be written ({error}). Free disk space or name another file"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return len(starts), digest


def _make(env_id: str, frame_skip: int) -> Any:
    gymnasium = _gymnasium(env_id)
    if env_id not in gymnasium.registry:
        close = get_close_matches(env_id, gymnasium.registry, n=3, cutoff=0.5)
        meant = (
            f"Did you mean {', '.join(close)}?"
            if close
            else "ALE's games are named ALE/Pong-v5, ALE/Riverraid-v5, ..."
        )
        raise DatasetError(f"{env_id}: no such environment. {meant}")
    emulated = str(gymnasium.registry[env_id].entry_point).startswith("ale_py")
    try:
        if emulated:
            env = gymnasium.make(env_id, frameskip=frame_skip, repeat_action_probability=0.0, obs_type="rgb")
        else:
            env = _Skip(gymnasium.make(env_id, render_mode="rgb_array"), frame_skip)
        if not emulated:
            env.reset(seed=0)
            env.render()  # here, and not in the middle of a recording, a missing package shows
    except (gymnasium.error.Error, TypeError, ValueError, ImportError) as error:
        raise DatasetError(f"{env_id}: cannot be started: {error}") from error
    if not isinstance(env.action_space, gymnasium.spaces.Discrete) or env.action_space.start != 0:
        env.close()
        raise DatasetError(
            f"{env_id}: its actions are {env.action_space}. Record one with discrete actions from 0"
        )
    return env


def _gymnasium(env_id: str) -> Any:
    install = "Install them: pip install 'worldloop[data]'"
    try:
        import gymnasium
    except ImportError as error:
        raise DatasetError(f"{env_id}: recording needs gymnasium and ale-py. {install}") from error
    try:
        import ale_py

        gymnasium.register_envs(ale_py)
    except ImportError as error:
        if env_id.startswith("ALE/"):
            raise DatasetError(f"{env_id}: ALE's games come with ale-py. {install}") from error
    return gymnasium


class _Skip:
    """Holds each action for a number of steps, as ALE's own frameskip does."""

    def __init__(self, env: Any, frames: int) -> None:
        self._env, self._frames = env, frames
        self.action_space, self.spec = env.action_space, env.spec
        self.reset, self.render, self.close = env.reset, env.render, env.close

    @property
    def unwrapped(self) -> Any:
        return self._env.unwrapped

    def step(self, action: int) -> Any:
        for _ in range(self._frames):
            result = self._env.step(action)
            if result[2] or result[3]:
                break
        return result


def _action_names(env: Any) -> list[str]:
    meanings = getattr(env.unwrapped, "get_action_meanings", None)
    return list(meanings()) if meanings else [str(number) for number in range(int(env.action_space.n))]


def _versions() -> dict[str, str]:
    found = {}
    for package in ("gymnasium", "ale-py"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
