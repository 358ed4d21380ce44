"""Decoding for players: what a batch gives each of them is what they would have got alone."""

from __future__ import annotations

import numpy as np
import torch

from services.inference.play.engine import Engine
from services.inference.world import World
from shared.config import InferenceConfig
from shared.datasets.frames import FramesDataset
from shared.worldmodel.decoding import decode
from shared.worldmodel.frames import to_float, to_uint8
from tests.unit.inference.conftest import TinyRun


def test_players_in_one_batch_get_the_frames_they_would_get_alone(tiny_engine: Engine) -> None:
    states = [tiny_engine.begin(start)[0] for start in (271, 280)]
    together, alone = list(states), list(states)
    for codes in ((0, 3), (2, 1), (1, 1)):
        batch = tiny_engine.advance(together, codes, steps=2)
        for player, code in enumerate(codes):
            one = tiny_engine.advance([alone[player]], [code], steps=2)
            np.testing.assert_array_equal(batch.frames[player], one.frames[0])
            alone[player] = one.states[0]
        together = batch.states


def test_the_first_frame_is_what_decoding_the_seed_frames_gives(
    tiny_engine: Engine, tiny_run: TinyRun, tiny_dataset: FramesDataset
) -> None:
    state, seen, seconds = tiny_engine.begin(275)
    np.testing.assert_array_equal(seen, tiny_dataset.frames[276])
    assert seconds > 0
    paths = {stage: tiny_run.bundle.resolve(path) for stage, path in tiny_run.checkpoints.items()}
    world = World.load(paths, "cpu")
    codes = torch.tensor([[*state.codes, 2]])
    context = to_float(torch.from_numpy(tiny_dataset.clips([275], 2)))
    expected = decode(world.dynamics, world.tokenizer, context, codes, horizon=1, steps=4, temperature=0)
    found = tiny_engine.advance([state], [2], steps=4)
    np.testing.assert_array_equal(found.frames[0], to_uint8(expected)[0, 0].numpy())
    after = found.states[0]
    assert after.codes == (2,)
    assert torch.equal(after.tokens_tp[0], state.tokens_tp[1])  # the window slides by a frame


def test_seed_frames_are_of_the_part_that_was_held_out(
    tiny_engine: Engine, tiny_dataset: FramesDataset
) -> None:
    assert tiny_engine.starts == range(tiny_dataset.held_out.start, tiny_dataset.held_out.stop - 1)
    tiny_engine.begin(tiny_engine.starts[-1])


def test_a_context_is_never_longer_than_training_had_it(
    tiny_run: TinyRun, tiny_dataset: FramesDataset
) -> None:
    paths = {stage: tiny_run.bundle.resolve(path) for stage, path in tiny_run.checkpoints.items()}
    engine = Engine(World.load(paths, "cpu"), tiny_dataset, InferenceConfig(context_window=9))
    state, _, _ = engine.begin(280)
    assert len(state.tokens_tp) == 3
    assert len(state.codes) == 2


def test_steps_beyond_the_last_undecided_token_are_not_offered(tiny_engine: Engine) -> None:
    assert tiny_engine.most_steps == 4  # a frame of the tiny world has four tokens


def test_the_legend_counts_what_the_recording_shows(tiny_engine: Engine) -> None:
    legend = tiny_engine.legend([])
    assert len(legend.codes) == 4
    assert abs(sum(code.share for code in legend.codes) - 1) < 1e-9
    assert max(code.change for code in legend.codes) > 0
