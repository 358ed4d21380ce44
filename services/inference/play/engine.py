"""Decodes the next frame of several players at once, and says how long the parts of that took.

A player's context stays as tokens from frame to frame, as the dynamics decided them. To decode it to pixels
and tokenize those again costs an encoder pass per frame and gains nothing (docs/play.md has the figures).

Shapes: B players, Tc context frames, P patches, H, W pixels.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from services.inference.play.legend import Legend, read_legend
from services.inference.world import World
from shared.config import InferenceConfig
from shared.datasets.frames import FramesDataset, span_of
from shared.datasets.mapping import Frames
from shared.worldmodel.decoding import decided_per_step, decode_tokens
from shared.worldmodel.frames import to_float, to_uint8

LEGEND_CLIPS, LEGEND_BATCH = 512, 16
"""Clips of the recording that the legend is read from, at most, and how many at a time."""
LEGEND_SEC = 5.0
"""No more are read after so long: a large model on a small machine has to start, too."""


@dataclass(frozen=True, slots=True)
class State:
    """Where a player's world is."""

    tokens_tp: Tensor
    """Of the context, int64 [Tc, P]."""
    codes: tuple[int, ...]
    """Actions between its frames, Tc - 1."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """One frame of each player."""

    states: list[State]
    frames: Frames
    """uint8 [B, H, W, 3]."""
    dynamics_sec: float
    pixels_sec: float


class Engine:
    """The models and the recording, shared by all players.

    Args:
        world: The models.
        dataset: Where seed frames come from.
        settings: Context, the most steps, temperature, seed of the sampling.
    """

    def __init__(self, world: World, dataset: FramesDataset, settings: InferenceConfig) -> None:
        self._world, self._dataset, self._settings = world, dataset, settings
        self._generator = torch.Generator().manual_seed(settings.seed)
        self.size = world.frame_size
        # a window in training was this context and one frame more
        self._context = min(settings.context_window, dataset.context_length - 1)
        self.starts = _starts(dataset, self._context)
        """First frames of possible seeds: of the held-out part, else of the whole recording."""
        patches = world.dynamics.spatial_pe.shape[0]
        self.most_steps = len(decided_per_step(patches, settings.decode_steps))
        """Steps after which every token is decided, at most."""

    def legend(self, names: Sequence[str]) -> Legend:
        """What the codes do, as the recording shows it.

        Args:
            names: Of the recording's true actions, if it has any.
        """
        data, length = self._dataset, self._dataset.context_length
        last = len(data.frames) - span_of(length, data.stride)
        starts = np.random.default_rng(0).permutation(last + 1)[:LEGEND_CLIPS]
        codes: list[npt.NDArray[np.int64]] = []
        changes: list[npt.NDArray[np.float64]] = []
        began = time.perf_counter()
        while len(codes) * LEGEND_BATCH < len(starts) and time.perf_counter() - began < LEGEND_SEC:
            clips = data.clips(starts[len(codes) * LEGEND_BATCH :][:LEGEND_BATCH], length)
            codes.append(self._world.action_codes(clips).ravel())
            changes.append(np.abs(np.diff(clips.astype(np.int16), axis=1)).mean((2, 3, 4)).ravel())
        reached = starts[: len(codes) * LEGEND_BATCH, None] + data.stride * np.arange(1, length)
        actions = None if data.actions is None else data.actions[reached].ravel()
        return read_legend(
            np.concatenate(codes), np.concatenate(changes), self._world.actions_total, actions, names
        )

    def begin(self, start: int) -> tuple[State, Frames, float]:
        """A world at seed frames: its state, the last of them (uint8 [H, W, 3]), seconds it took."""
        began = time.perf_counter()
        clip = self._dataset.clips([start], self._context)
        frames = to_float(torch.from_numpy(clip).to(self._world.device))
        tokens_btp = self._world.tokenizer.tokenize(frames)
        codes: npt.NDArray[np.int64] = self._world.action_codes(clip)[0]
        state = State(tokens_btp[0], tuple(int(code) for code in codes))
        return state, clip[0, -1], time.perf_counter() - began

    @torch.inference_mode()
    def advance(self, states: Sequence[State], codes: Sequence[int], steps: int) -> Decoded:
        """The next frame of each player, all in one batch.

        Args:
            states: Where they are.
            codes: The action that each of them takes.
            steps: Decoding steps.
        """
        world = self._world
        began = time.perf_counter()
        context_btp = torch.stack([state.tokens_tp for state in states])
        taken = [(*state.codes, code) for state, code in zip(states, codes, strict=True)]
        told = torch.tensor(taken, dtype=torch.int64, device=world.device)
        new_btp = decode_tokens(
            world.dynamics,
            context_btp,
            world.dynamics.bits(told) if world.with_actions else None,
            horizon=1,
            steps=steps,
            temperature=self._settings.temperature,
            generator=self._generator,
        )
        decided = time.perf_counter()
        window_btp = torch.cat([context_btp, new_btp], 1)
        pixels = world.tokenizer.decode(world.tokenizer.latents(window_btp))[:, -1:]
        frames: Frames = to_uint8(pixels)[:, 0].cpu().numpy()
        after = [
            State(tokens_tp[1:], tuple(each[1:])) for tokens_tp, each in zip(window_btp, taken, strict=True)
        ]
        return Decoded(after, frames, decided - began, time.perf_counter() - decided)


def _starts(dataset: FramesDataset, context: int) -> range:
    span = span_of(context, dataset.stride)
    part = dataset.held_out if len(dataset.held_out) >= span else range(len(dataset.frames))
    return part[: len(part) - span + 1]
