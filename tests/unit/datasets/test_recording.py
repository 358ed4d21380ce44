"""Recording a game: the same seed gives the same file, and every frame has the action that led to it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import h5py
import numpy as np
import pytest
from gymnasium.envs.registration import register

from shared.datasets.frames import FramesDataset
from shared.datasets.inspection import inspect
from shared.datasets.recording import RecordingSummary, record, recording_path
from shared.errors import DatasetError


class Counting(gymnasium.Env[np.ndarray, int]):
    """Shows the step of the episode in red, the action in green, chance in blue; an episode has 5 steps."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 60}
    observation_space = gymnasium.spaces.Box(0, 255, (16, 12, 3), np.uint8)
    action_space = gymnasium.spaces.Discrete(6)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.steps, self.action, self.chance = 0, 0, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps, self.chance = 0, int(self.np_random.integers(256))
        return self.render(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps, self.action = self.steps + 1, action
        return self.render(), 0.0, self.steps >= 5, False, {}

    def render(self) -> np.ndarray:
        image = np.zeros((16, 12, 3), np.uint8)
        image[:] = (self.steps, self.action, self.chance)
        return image


@pytest.fixture(autouse=True)
def counting() -> Iterator[None]:
    register("Counting-v0", Counting)
    yield
    del gymnasium.registry["Counting-v0"]


def recorded(path: Path, **options: Any) -> RecordingSummary:
    return record("Counting-v0", path, **{"frames": 20, "size": 4, "frame_skip": 1, **options})


def test_each_frame_has_the_action_that_led_to_it(tmp_path: Path) -> None:
    recorded(tmp_path / "c.h5", new_action=0.5)
    with h5py.File(tmp_path / "c.h5") as file:
        np.testing.assert_array_equal(file["frames"][:, 0, 0, 1], file["actions"][:])
        assert len(np.unique(file["actions"])) > 2


def test_every_second_step_is_kept_and_episode_starts_are_noted(tmp_path: Path) -> None:
    summary = recorded(tmp_path / "c.h5")
    with h5py.File(tmp_path / "c.h5") as file:
        assert file["frames"][:10, 0, 0, 0].tolist() == [2, 4, 1, 3, 5, 2, 4, 1, 3, 5]
        assert file["episode_starts"][:4].tolist() == [0, 2, 5, 7]
        assert summary.episodes == len(file["episode_starts"])


def test_an_action_is_held_for_frame_skip_frames(tmp_path: Path) -> None:
    recorded(tmp_path / "c.h5", frame_skip=2, keep_every=1)
    with h5py.File(tmp_path / "c.h5") as file:
        assert file["frames"][:6, 0, 0, 0].tolist() == [2, 4, 5, 2, 4, 5]


def test_actions_are_held_and_drawn_anew_with_the_given_probability(tmp_path: Path) -> None:
    recorded(tmp_path / "held.h5", new_action=0.0)
    with h5py.File(tmp_path / "held.h5") as file:
        assert len(np.unique(file["actions"])) == 1


def test_the_same_seed_gives_the_same_file_and_another_seed_another(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        recorded(tmp_path / f"{name}.h5", seed=seed)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    assert (tmp_path / "a.h5").read_bytes() != (tmp_path / "c.h5").read_bytes()
    chances = []
    for name in ("a", "c"):
        with h5py.File(tmp_path / f"{name}.h5") as file:
            chances.append(file["frames"][:, 0, 0, 2].tolist())
    assert chances[0] != chances[1]


def test_a_real_game_is_recorded_bit_for_bit_and_reads_as_a_dataset(tmp_path: Path) -> None:
    summaries = [record("ALE/Riverraid-v5", tmp_path / name, frames=40) for name in ("a.h5", "b.h5")]
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    dataset = FramesDataset.open(
        tmp_path / "a.h5", context_length=4, fps=60, cache_dir=tmp_path / "cache", frame_size=64
    )
    assert not (tmp_path / "cache").exists()
    assert dataset.fingerprint == summaries[0].fingerprint == summaries[1].fingerprint
    assert dataset.actions is not None
    assert len(np.unique(dataset.frames.reshape(40, -1), axis=0)) > 20
    about = inspect(tmp_path / "a.h5")["attributes"]
    assert about["env"] == "ALE/Riverraid-v5"
    assert (about["frame_skip"], about["kept_every"], about["fps"]) == (4, 2, 7.5)


def test_progress_is_told_and_ends_at_the_whole(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    recorded(tmp_path / "c.h5", frames=250, progress=lambda done, of: told.append((done, of)))
    assert told == [(100, 250), (200, 250), (250, 250)]


def test_an_interrupted_recording_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recorded(tmp_path / "c.h5", progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_kept_unless_asked(tmp_path: Path) -> None:
    recorded(tmp_path / "c.h5", frames=5)
    with pytest.raises(DatasetError, match="exists already"):
        recorded(tmp_path / "c.h5")
    assert recorded(tmp_path / "c.h5", overwrite=True).frames == 20


def test_an_unknown_environment_names_close_ones(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"Did you mean .*ALE/Pong-v5"):
        record("ALE/Pnog-v5", tmp_path / "c.h5", frames=5)


def test_without_gymnasium_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(DatasetError, match=r"pip install 'worldloop\[data\]'"):
        record("ALE/Pong-v5", tmp_path / "c.h5", frames=5)


def test_without_ale_py_only_its_games_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(DatasetError, match="ALE's games come with ale-py"):
        record("ALE/Pong-v5", tmp_path / "c.h5", frames=5)
    assert recorded(tmp_path / "c.h5", frames=5).frames == 5


def test_without_vizdoom_its_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vizdoom.gymnasium_wrapper", None)
    with pytest.raises(DatasetError, match="ViZDoom's games come with vizdoom"):
        record("VizdoomBasic-v1", tmp_path / "c.h5", frames=5)


def test_doom_is_recorded_bit_for_bit_and_leaves_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    doom = [
        record("VizdoomBasic-v1", tmp_path / name, frames=90, seed=3, keep_every=1, policy="random")
        for name in ("a.h5", "b.h5")
    ]
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.h5", "b.h5"]
    assert (doom[0].actions, doom[0].episodes > 1) == (4, True)
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["frames"][:].max(axis=(1, 2, 3)).min() > 50  # not the black after an episode
        assert json.loads(file.attrs["action_names"]) == ["NOOP", "ATTACK", "MOVE_RIGHT", "MOVE_LEFT"]
        assert file.attrs["fps"] == 35 / 4
        assert sorted(np.unique(file["actions"])) == [0, 1, 2, 3]


def test_a_file_of_actions_is_what_is_played(tmp_path: Path) -> None:
    plan = tmp_path / "plan.txt"
    plan.write_text(" ".join(str(step % 6) for step in range(20)))
    recorded(tmp_path / "c.h5", policy=str(plan), keep_every=1)
    with h5py.File(tmp_path / "c.h5") as file:
        assert file["actions"][:].tolist() == [step % 6 for step in range(20)]
        assert file["frames"][:, 0, 0, 1].tolist() == [step % 6 for step in range(20)]
        assert file.attrs["policy"] == "file plan.txt"
        assert "new_action" not in file.attrs


def test_a_function_sees_what_the_game_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "watching.py").write_text("def play(image, count, chance):\n    return int(image[0, 0, 0])\n")
    monkeypatch.chdir(tmp_path)
    recorded(tmp_path / "c.h5", policy="watching:play", keep_every=1)
    with h5py.File(tmp_path / "c.h5") as file:
        assert file["actions"][:10].tolist() == [0, 1, 2, 3, 4] * 2


class Buttons(Counting):
    """Two buttons at once, and a picture in a dictionary."""

    action_space = gymnasium.spaces.MultiDiscrete([2, 3])

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        image, *rest = super().step(10 * int(action[0]) + int(action[1]))
        return {"screen": image[:, :, 1:2], "health": 3}, *rest

    def reset(self, **options: Any) -> tuple[dict, dict]:
        image, info = super().reset(**options)
        return {"screen": image[:, :, 1:2]}, info


class Continuous(Counting):
    action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)


class Failing(Counting):
    def step(self, action: int) -> Any:
        raise OSError("the emulator is gone")


class Blind(Counting):
    def reset(self, **options: Any) -> tuple[np.ndarray, dict]:
        super().reset(**options)
        return np.zeros(3), {}

    def render(self) -> np.ndarray:
        return np.zeros(3)


@pytest.fixture
def environments() -> Iterator[None]:
    made = {"Buttons-v0": Buttons, "Continuous-v0": Continuous, "Failing-v0": Failing, "Blind-v0": Blind}
    for name, entry in made.items():
        register(name, entry)
    yield
    for name in made:
        del gymnasium.registry[name]


@pytest.mark.usefixtures("environments")
def test_combinations_of_buttons_are_numbered(tmp_path: Path) -> None:
    summary = record("Buttons-v0", tmp_path / "c.h5", frames=40, size=4, frame_skip=1, policy="random")
    assert summary.actions == 6
    with h5py.File(tmp_path / "c.h5") as file:
        pressed = [0, 1, 2, 10, 11, 12]
        assert file["frames"][:, 0, 0, 0].tolist() == [pressed[action] for action in file["actions"][:]]


@pytest.mark.usefixtures("environments")
@pytest.mark.parametrize(
    ("env", "says"),
    [
        ("Continuous-v0", r"its actions are Box.* at most 64 combinations"),
        ("Failing-v0", "failed in the middle of a game, OSError: the emulator is gone"),
        ("Blind-v0", "shows no RGB frames"),
        ("no_such_module:Game-v0", "module 'no_such_module' cannot be imported"),
        ("VizdoomDoomE1M1-S1-v0", "cannot be started, FileDoesNotExistException"),
    ],
)
def test_an_environment_that_cannot_be_recorded_says_why(tmp_path: Path, env: str, says: str) -> None:
    with pytest.raises(DatasetError, match=f"^{env}: {says}"):
        record(env, tmp_path / "c.h5", frames=5)
    assert list(tmp_path.iterdir()) == []


def test_an_environment_of_a_module_of_ones_own_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_games.py").write_text(
        "import gymnasium\ngymnasium.register('Mine-v0', gymnasium.registry['Counting-v0'].entry_point)\n"
    )
    monkeypatch.chdir(tmp_path)
    try:
        assert record("my_games:Mine-v0", tmp_path / "c.h5", frames=5, size=4).frames == 5
    finally:
        gymnasium.registry.pop("Mine-v0", None)
    assert recording_path("my_games:Mine-v0", tmp_path) == tmp_path / "mine_frames.h5"


def test_a_recording_is_named_after_its_game(tmp_path: Path) -> None:
    assert recording_path("ALE/Pong-v5", tmp_path) == tmp_path / "pong_frames.h5"
    assert recording_path("ALE/PolePosition-v5", tmp_path) == tmp_path / "pole_position_frames.h5"
