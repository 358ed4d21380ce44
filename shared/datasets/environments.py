"""Gymnasium environments as games that can be recorded: RGB pictures out, numbered actions in.

ALE's games show RGB frames as observations; ViZDoom shows a dictionary with the `screen`; any other
environment is asked to render `rgb_array`. Actions that are combinations of buttons are numbered one by one.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import itertools
import tempfile
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

import numpy as np

from shared.datasets.imports import named_module
from shared.datasets.mapping import Frames
from shared.errors import DatasetError, WorldloopError

ALE_RATE = 60
"""Frames per second of the consoles that ALE emulates."""
MOST_ACTIONS = 64
"""Combinations of buttons that are still numbered one by one."""
INSTALL = "Install them: pip install 'worldloop[data]'"


class Game:
    """A running environment.

    Args:
        env_id: Gymnasium's name, such as `ALE/Pong-v5`, `VizdoomBasic-v1` or `module:MyGame-v0`.
        frame_skip: Frames of the game per step; the action is held meanwhile, none is repeated by chance.

    Raises:
        DatasetError: Gymnasium or the game is not installed, there is no such environment, it cannot be
            started, or its actions cannot be numbered; `start`, `again` and `step` raise it for whatever the
            environment raises, and when it shows no RGB frames.
    """

    def __init__(self, env_id: str, *, frame_skip: int) -> None:
        gymnasium, name = _gymnasium(env_id)
        self.env_id = env_id
        with contextlib.ExitStack() as opened, self._asked("cannot be started"):
            entry = str(gymnasium.registry[name].entry_point)
            emulated, self._doom = entry.startswith("ale_py"), entry.startswith("vizdoom")
            options: dict[str, Any] = {"render_mode": "rgb_array"}
            if emulated:
                options = {"frameskip": frame_skip, "repeat_action_probability": 0.0, "obs_type": "rgb"}
                ale = importlib.import_module("ale_py")
                ale.ALEInterface.setLoggerMode(ale.LoggerMode.Error)  # no banner
            elif self._doom and "MultiBinary" not in name:
                options["max_buttons_pressed"] = 1
            # ViZDoom leaves its settings in the directory it is started in.
            self._elsewhere = opened.enter_context(tempfile.TemporaryDirectory())
            self._env = gymnasium.make(name, disable_env_checker=True, **options)
            opened.callback(self._env.close)
            self._held = 1 if emulated else frame_skip
            rate = ALE_RATE if emulated else self._env.metadata.get("render_fps")
            self.rate: float | None = float(rate) if rate else None
            """Frames per second of the game; none if it does not say."""
            self._actions = self._numbered(gymnasium.spaces)
            self.action_names = self._names()
            """Of each action, by its number."""
            self._opened = opened.pop_all()

    def start(self, seed: int) -> Frames:
        """Begin; the first picture, uint8 [height, width, 3]."""
        with contextlib.chdir(self._elsewhere) if self._doom else contextlib.nullcontext():
            return self._begun(seed)

    def again(self) -> Frames:
        """Begin another episode; its first picture."""
        return self._begun(None)

    def step(self, action: int) -> tuple[Frames | None, bool]:
        """Hold an action for `frame_skip` frames; what is seen then, if anything, and if it ended."""
        with self._asked("failed in the middle of a game"):
            for _ in range(self._held):
                observation, _, terminated, truncated, _ = self._env.step(self._actions[action])
                if terminated or truncated:
                    break
            ended = bool(terminated or truncated)
            # ViZDoom has no picture of the state that ends an episode, and shows black instead.
            return (None if self._doom and ended else self._image(observation)), ended

    def close(self) -> None:
        """End the environment."""
        self._opened.close()

    def _begun(self, seed: int | None) -> Frames:
        with self._asked("cannot be started"):
            observation, _ = self._env.reset(seed=seed)
            return self._image(observation)

    def _image(self, observation: Any) -> Frames:
        shown = observation.get("screen") if isinstance(observation, dict) else observation
        if isinstance(shown, np.ndarray) and shown.ndim == 3 and shown.shape[2] == 1:
            shown = np.repeat(shown, 3, axis=2)
        image = shown if _is_rgb(shown) else self._env.render()
        if not _is_rgb(image):
            raise DatasetError(
                f"{self.env_id}: shows no RGB frames. Record an environment that renders rgb_array"
            )
        return np.asarray(image, np.uint8)

    def _numbered(self, spaces: Any) -> list[Any]:
        found = _numbered(spaces, self._env.action_space)
        if found is None:
            raise DatasetError(
                f"{self.env_id}: its actions are {self._env.action_space}. Record an environment with "
                f"discrete actions, or with at most {MOST_ACTIONS} combinations of buttons"
            )
        return found

    def _names(self) -> list[str]:
        game = self._env.unwrapped
        if self._doom:
            return [_pressed(game, action) for action in self._actions]
        meanings = getattr(game, "get_action_meanings", None)
        names = list(meanings()) if meanings else []
        plain = [str(number) for number in range(len(self._actions))]
        return names if len(names) == len(plain) else plain

    @contextlib.contextmanager
    def _asked(self, what: str) -> Iterator[None]:
        try:
            yield
        except WorldloopError:
            raise
        except Exception as error:  # an environment is anybody's code
            raise DatasetError(f"{self.env_id}: {what}, {type(error).__name__}: {error}") from error


def versions() -> dict[str, str]:
    """Versions of the installed packages that games come from."""
    found = {}
    for package in ("gymnasium", "ale-py", "vizdoom"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _is_rgb(image: object) -> bool:
    return (
        isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    )


def _numbered(spaces: Any, space: Any) -> list[Any] | None:
    """Every action of a space; none if there is no end of them."""
    if isinstance(space, spaces.Discrete):
        return [int(space.start) + number for number in range(int(space.n))]
    if isinstance(space, spaces.MultiBinary | spaces.MultiDiscrete) and len(space.shape) == 1:
        sizes = [2] * space.shape[0] if isinstance(space, spaces.MultiBinary) else space.nvec.tolist()
        if int(np.prod(sizes, dtype=object)) > MOST_ACTIONS:
            return None
        return [np.array(each, space.dtype) for each in itertools.product(*map(range, sizes))]
    if isinstance(space, spaces.Dict) and set(space) == {"binary", "continuous"}:  # ViZDoom with a mouse
        still = np.zeros(space["continuous"].shape, np.float32)
        buttons = _numbered(spaces, space["binary"])
        return None if buttons is None else [{"binary": each, "continuous": still} for each in buttons]
    return None


def _pressed(doom: Any, action: Any) -> str:
    buttons = [button.name for button in doom.game.get_available_buttons()][doom.num_delta_buttons :]
    chosen = action["binary"] if isinstance(action, dict) else action
    state = doom.button_map[chosen] if isinstance(chosen, int) else chosen
    return "+".join(name for name, down in zip(buttons, state, strict=True) if down) or "NOOP"


def _gymnasium(env_id: str) -> tuple[Any, str]:
    """Gymnasium, and the name under which it has this environment."""
    try:
        import gymnasium
    except ImportError as error:
        raise DatasetError(f"{env_id}: recording needs gymnasium and ale-py. {INSTALL}") from error
    module, _, name = env_id.rpartition(":")
    if module:
        named_module(module, wanted=env_id)
    doom = name.lower().startswith("vizdoom")
    try:
        importlib.import_module("vizdoom.gymnasium_wrapper" if doom else "ale_py")  # registers its games
    except ImportError as error:
        if doom or name.startswith("ALE/"):
            missing = "ViZDoom's games come with vizdoom" if doom else "ALE's games come with ale-py"
            raise DatasetError(f"{env_id}: {missing}. {INSTALL}") from error
    if name not in gymnasium.registry:
        close = get_close_matches(name, gymnasium.registry, n=3, cutoff=0.5)
        meant = (
            f"Did you mean {', '.join(close)}?"
            if close
            else "ALE's games are named ALE/Pong-v5, ALE/Riverraid-v5, ..., ViZDoom's VizdoomBasic-v1, ..., "
            "and those that a module of yours registers module:Name-v0"
        )
        raise DatasetError(f"{env_id}: no such environment. {meant}")
    return gymnasium, name
