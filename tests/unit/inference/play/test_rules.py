"""The pure parts of play: pace, controls, legend, who may connect."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from services.inference.play.controls import Controls
from services.inference.play.legend import read_legend
from services.inference.play.pace import Pace
from shared.web.origin import host_allowed, origin_allowed

# --- pace -------------------------------------------------------------------------------------------------


def run(pace: Pace, *, step: float, rest: float, frames: int) -> Pace:
    for _ in range(frames):
        pace = pace.after(pace.steps * step, pace.steps * step + rest)
    return pace


def test_steps_shrink_until_the_rate_holds_and_grow_back() -> None:
    pace = run(Pace(fps=10, most=16, steps=16), step=0.010, rest=0.020, frames=10)
    assert pace.steps == 6
    assert pace.steps * 0.010 + 0.020 <= 0.1 * 0.85
    pace = run(pace, step=0.002, rest=0.002, frames=30)
    assert pace.steps == 16


def test_a_single_slow_frame_changes_nothing() -> None:
    pace = run(Pace(fps=10, most=16, steps=16), step=0.001, rest=0.002, frames=5)
    assert pace.after(3.0, 3.1).steps == 16


def test_one_step_is_left_however_slow_the_machine() -> None:
    assert run(Pace(fps=30, most=16, steps=16), step=1.0, rest=1.0, frames=3).steps == 1


def test_steps_do_not_flutter_at_the_limit() -> None:
    pace = run(Pace(fps=10, most=16, steps=16), step=0.01, rest=0.004, frames=20)
    seen = [pace.steps]
    for number in range(40):
        pace = run(pace, step=0.01 * (1 + 0.02 * (-1) ** number), rest=0.004, frames=1)
        seen.append(pace.steps)
    assert sum(before != after for before, after in pairwise(seen)) <= 1


# --- controls ---------------------------------------------------------------------------------------------


def test_what_is_held_acts_until_it_is_released() -> None:
    controls = Controls(idle=1)
    assert controls.take() == 1
    controls.press(3)
    assert [controls.take() for _ in range(3)] == [3, 3, 3]
    controls.release()
    assert controls.take() == 1


def test_a_tap_shorter_than_a_frame_still_acts_once() -> None:
    controls = Controls(idle=1)
    controls.press(2)
    controls.release()
    controls.press(3)
    controls.release()
    assert [controls.take() for _ in range(3)] == [2, 3, 1]


def test_taps_do_not_pile_up() -> None:
    controls = Controls(idle=0)
    for code in range(50):
        controls.press(code)
        controls.release()
    taken = [controls.take() for _ in range(6)]
    assert taken == [46, 47, 48, 49, 0, 0]


# --- legend -----------------------------------------------------------------------------------------------

NAMES = ("NOOP", "FIRE", "UP", "RIGHT", "LEFT", "UPFIRE")


def test_true_actions_give_the_keys_their_codes() -> None:
    actions = np.array([0, 1, 3, 4] * 50)
    code_of = {0: 2, 1: 5, 3: 0, 4: 7}
    codes = np.array([code_of[action] for action in actions])
    legend = read_legend(codes, np.ones(200), 8, actions, NAMES)
    found = {code.key: code.code for code in legend.codes if code.learned}
    assert found == {"space": 5, "right": 0, "left": 7}
    assert legend.idle == 2


def test_actions_that_tell_nothing_teach_nothing() -> None:
    codes = np.tile([0, 1, 2, 3, 0, 1, 0, 0], 60)
    actions = np.repeat([0, 3, 4], 160)
    legend = read_legend(codes, np.ones(480), 4, actions, NAMES)
    assert not any(code.learned for code in legend.codes)
    assert legend.idle == 0


def test_without_true_actions_the_commonest_is_idle_and_the_liveliest_is_up() -> None:
    codes = np.array([1, 1, 1, 1, 0, 0, 3])
    legend = read_legend(codes, np.array([1, 1, 1, 1, 2, 2, 9.0]), 8)
    assert legend.idle == 1
    keys = {code.key: code.code for code in legend.codes if code.key}
    assert keys["up"] == 3
    assert keys["left"] == 0
    assert sorted(keys) == ["down", "left", "right", "space", "up"]
    assert legend.codes[1].key is None
    assert legend.codes[0].share == pytest.approx(2 / 7)


def test_a_world_of_two_codes_has_one_key() -> None:
    legend = read_legend(np.array([0, 0, 1]), np.ones(3), 2)
    assert [code.key for code in legend.codes] == [None, "up"]


# --- who may connect --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://127.0.0.1:8000", "127.0.0.1:8000"),
        ("http://localhost:9000", "localhost:9000"),  # forwarded by SSH under another port
        ("http://[::1]:8000", "[::1]:8000"),
        ("https://10.0.0.7", "10.0.0.7"),
        ("http://GPU-Box:8000", "gpu-box:8000"),
    ],
)
def test_the_servers_own_pages_may_connect(origin: str, host: str) -> None:
    assert origin_allowed(origin, host, {"gpu-box"})


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        (None, "127.0.0.1:8000"),
        ("null", "127.0.0.1:8000"),
        ("http://evil.example", "127.0.0.1:8000"),
        ("http://127.0.0.1:9999", "127.0.0.1:8000"),
        ("http://evil.example:8000", "evil.example:8000"),  # its name was made to resolve to this machine
        ("http://localhost.evil.example:8000", "localhost.evil.example:8000"),
        ("file://127.0.0.1:8000", "127.0.0.1:8000"),
        ("http://[", "127.0.0.1:8000"),
        ("http://127.0.0.1:8000", None),
    ],
)
def test_pages_of_others_may_not(origin: str | None, host: str | None) -> None:
    assert not origin_allowed(origin, host, {"gpu-box"})


def test_a_broken_host_header_names_nobody() -> None:
    assert not host_allowed("[::1", set())
    assert not host_allowed("", set())
