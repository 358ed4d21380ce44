"""The notification file: who is told of what. Its URLs hold secrets: no error, log line or repr shows one."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, StringConstraints, ValidationError

from services.reporter.core.notices import TOLD, Told
from shared import safe_yaml
from shared.config import Config
from shared.errors import ConfigurationError

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,32}$")]
CURE = "See docs/notifications.md"


class NotifyFile(Config):
    """`notify.yaml` in the user's configuration directory, or WORLDLOOP_NOTIFY_FILE."""

    urls: dict[Name, SecretStr] = Field(min_length=1)
    """Name -> Apprise URL. The name stands for it in logs, and keeps its place across restarts."""
    tell: tuple[Told, ...] = TOLD
    """What is told. (Not `on`: YAML reads that as true.)"""


def read(path: Path) -> NotifyFile | None:
    """The notification file, none if there is none.

    Raises:
        ConfigurationError: It cannot be read or is not valid; shows keys, never values.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        problem = f"it cannot be read ({type(error).__name__})"
        raise ConfigurationError(str(path), "", problem, "Make it a readable UTF-8 text file") from None
    try:
        found = safe_yaml.load(text)
    except Exception as error:  # noqa: BLE001 - values that YAML cannot make have any; its text quotes the line
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark is not None else ""
        raise ConfigurationError(str(path), "", f"it is no YAML{where}", CURE) from None
    try:
        return NotifyFile.model_validate(found if found is not None else {})
    except ValidationError as error:
        problem, key = _problem(error)
        raise ConfigurationError(str(path), key, problem, CURE) from None


def warning(path: Path) -> str | None:
    """What is wrong with the file's permissions, a sentence; none if nothing is."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return None
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        return f"{path} holds secrets and others can read it: chmod 600 {path}"
    return None


def _problem(error: ValidationError) -> tuple[str, str]:
    """The first problem without the value it is about, and the key."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    named = [part for part in first["loc"] if part != "[key]"]
    key = ".".join(str(part) for part in named)
    if first["loc"][-1:] == ("[key]",):  # the key may be a URL that stands where a name should
        return "a name has up to 32 letters, digits, - and _, as in `team: slack://...`", ".".join(
            str(part) for part in named[:-1]
        )
    if first["type"] == "extra_forbidden":
        return f"no such key; there are {', '.join(NotifyFile.model_fields)}", ""
    return first["msg"], key
