"""How files, profile, checkpoints and flags become one configuration, and where each value came from.

Rising priority: the schema's defaults, stage files, training.yaml, a TinyWorlds checkout's own files, the
profile, what given checkpoints bring, explicit flags. Ladder and operator patches come later, while the run
goes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from services.commands.configuration.dotted_keys import KeyPath, Setting, closest, find, leaves
from services.commands.configuration.files import Tree, file_settings, profile_settings, unknown_key
from services.commands.configuration.yaml_file import read_value
from services.policy import Policy
from shared.config import BACKBONE, RunConfig
from shared.errors import ConfigurationError
from shared.events import SERVICES, STAGES
from shared.finite import not_finite

SECTIONS: tuple[KeyPath, ...] = (
    ("training",),
    *((stage,) for stage in STAGES),
    ("inference",),
    ("policy",),
    *(("policy", service) for service in SERVICES),
)
"""Where an unprefixed key is looked up: in every one of them."""

COMMAND_LINE = "command line"
"""Origin of KEY=VALUE arguments."""
DEFAULT = "default"
"""Origin of what nothing sets."""
LAYERS = ("flag", "checkpoint", "profile", "file", DEFAULT)
"""Words for origins, in falling priority."""

CHECKPOINT_KEYS = {
    ("video_tokenizer", "checkpoint"): "--video-checkpoint",
    ("latent_actions", "checkpoint"): "--latent-checkpoint",
    ("dynamics", "checkpoint"): "--dynamics-checkpoint",
    ("dynamics", "video_tokenizer_path"): "--video-checkpoint",
    ("dynamics", "latent_actions_path"): "--latent-checkpoint",
}
"""Keys of TinyWorlds' files that must stay null, with the flag that takes their place."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """A run's configuration, validated, and where each value came from."""

    profile: str
    run: RunConfig
    policy: Policy
    origins: dict[str, str]
    """Dotted key -> file, "profile demo", flag, checkpoint or "default"; policy keys begin with `policy.`."""


def resolve(
    configs: Path,
    profile: str,
    *,
    checkout: Iterable[Setting] = (),
    checkpoints: Iterable[Setting] = (),
    flags: Iterable[Setting] = (),
) -> Resolution:
    """Put everything together, in the order of priority.

    Args:
        configs: Directory of the files.
        profile: Name of a profile in it.
        checkout: What the files of a TinyWorlds checkout say of its model and data; they beat ours.
        checkpoints: What given checkpoints bring (architecture, learning rate).
        flags: What the command line says.

    Raises:
        ConfigurationError: A file, key or value that cannot be used; names it and the cure.
        UsageError: There is no such profile.
    """
    ours, named = file_settings(configs), profile_settings(configs, profile)
    return combine(profile, (*ours, *checkout, *named, *checkpoints, *flags))


def combine(profile: str, settings: Iterable[Setting]) -> Resolution:
    """Settings of rising priority as one validated configuration; what none of them sets is the default.

    Raises:
        ConfigurationError: A value that cannot be used; names its source, key and the cure.
    """
    merged: dict[KeyPath, Setting] = {}
    for setting in settings:
        _put(merged, setting)
    for setting in merged.values():
        _check_value(setting)
    tree = _validate(merged)
    origins = {".".join(path): _origin(merged, path) for path in leaves(Tree)}
    _check_backbone(tree, merged)
    run = RunConfig.model_validate({name: getattr(tree, name) for name in RunConfig.model_fields})
    return Resolution(profile, run, tree.policy, origins)


def layer(origin: str) -> str:
    """The word for an origin; for a mapping that several set together, of the highest in priority."""
    words = {_word(part) for part in origin.split(", ")}
    return next(word for word in LAYERS if word in words)


def _word(origin: str) -> str:
    if origin.startswith("--") or origin == COMMAND_LINE:
        return "flag"
    if origin == DEFAULT:
        return DEFAULT
    return next((word for word in ("checkpoint", "profile") if origin.startswith(f"{word} ")), "file")


def assignments(texts: Sequence[str]) -> list[Setting]:
    """`KEY=VALUE` arguments as settings; an unprefixed key goes to every section whose schema has it.

    Raises:
        ConfigurationError: No `=`, an unknown key, or a value that is no YAML.
    """
    found: list[Setting] = []
    for text in texts:
        key, equals, written = text.partition("=")
        if not equals or not key:
            raise ConfigurationError(COMMAND_LINE, text, "no KEY=VALUE", "Write it like learning_rate=1e-3")
        value = read_value(written, f"{COMMAND_LINE}, {key}")
        found += [Setting(path, value, COMMAND_LINE, key) for path in paths_of(key)]
    return found


def paths_of(key: str) -> list[KeyPath]:
    """Where a key of the command line leads: the one place it names, else every section whose schema has it.

    Raises:
        ConfigurationError: No schema has it.
    """
    parts = tuple(key.split("."))
    if find(Tree, parts) is not None:
        return [parts]
    found = [(*section, *parts) for section in SECTIONS if find(Tree, (*section, *parts)) is not None]
    if found:
        return found
    parent = next(
        (parts[:end] for end in range(len(parts) - 1, 0, -1) if find(Tree, parts[:end]) is not None), None
    )
    if parent is not None:
        raise unknown_key(COMMAND_LINE, key, parts[len(parent)], find(Tree, parent))
    known = leaves(Tree)
    meant = closest(key, [".".join(path[start:]) for path in known for start in range(len(path))])
    raise ConfigurationError(
        COMMAND_LINE, key, "unknown key", f"Did you mean {meant}?" if meant else "See the files in configs/"
    )


def _put(merged: dict[KeyPath, Setting], setting: Setting) -> None:
    """Set a value; what stood above or below it (a section set as a whole) goes."""
    path = setting.path
    for other in [
        other
        for other in merged
        if other != path and (other[: len(path)] == path or path[: len(other)] == other)
    ]:
        del merged[other]
    merged[path] = setting


def _check_value(setting: Setting) -> None:
    if not_finite(setting.value) is not None:
        raise _error(setting, "it must be finite", "Give a number")
    if setting.path in CHECKPOINT_KEYS and setting.value is not None:
        raise _error(
            setting,
            f"checkpoint path {setting.value} is hard-coded",
            f"Leave it null and give the checkpoint with {CHECKPOINT_KEYS[setting.path]}",
        )


def _validate(merged: dict[KeyPath, Setting]) -> Tree:
    """Validate strictly: no text for numbers, no true for 1.

    Validation is of JSON, because there a list may stand for a tuple even when types are strict.
    """
    content: dict[str, Any] = {}
    for path, setting in merged.items():
        level = content
        for part in path[:-1]:
            level = level.setdefault(part, {})
        level[path[-1]] = setting.value
    try:
        return Tree.model_validate_json(json.dumps(content, default=str), strict=True)
    except ValidationError as error:
        raise _explain(error.errors()[0], merged) from None


def _explain(error: ErrorDetails, merged: dict[KeyPath, Setting]) -> ConfigurationError:
    path = tuple(str(part) for part in error["loc"])
    message = re.sub(r"^(Value error|Assertion failed), ", "", error["msg"])
    for end in range(len(path), 0, -1):
        if path[:end] in merged:
            setting = merged[path[:end]]
            return _error(
                setting, f"{setting.value!r} cannot be used", message.replace("Input should", "It should", 1)
            )
    sources = _blamed(message, path, merged)
    cure = "Correct it" if len(sources) == 1 else "Change one of them"
    return ConfigurationError(" and ".join(sources) or "the defaults", ".".join(path), message, cure)


def _blamed(message: str, path: KeyPath, merged: dict[KeyPath, Setting]) -> list[str]:
    """Where the values below a path came from that a message names (all of them, if it names none)."""

    def named(setting: Setting) -> int:
        return sum(bool(re.search(rf"\b{re.escape(part)}\b", message)) for part in setting.path[len(path) :])

    below = [setting for other, setting in merged.items() if other[: len(path)] == path]
    most = max(map(named, below), default=0)
    return list(dict.fromkeys(setting.source for setting in below if named(setting) == most))


def _error(setting: Setting, problem: str, cure: str) -> ConfigurationError:
    return ConfigurationError(setting.source, setting.key, problem, cure)


def _origin(merged: dict[KeyPath, Setting], path: KeyPath) -> str:
    for end in range(len(path), 0, -1):
        if path[:end] in merged:
            return merged[path[:end]].origin
    below = [setting.origin for other, setting in merged.items() if other[: len(path)] == path]
    return ", ".join(dict.fromkeys(below)) or DEFAULT


def _check_backbone(tree: Tree, merged: dict[KeyPath, Setting]) -> None:
    for key in BACKBONE:
        values = {stage: getattr(getattr(tree, stage), key) for stage in STAGES}
        if len(set(values.values())) > 1:
            sources = {
                stage: merged[stage, key].source if (stage, key) in merged else "the default"
                for stage in STAGES
            }
            where = ", ".join(f"{values[stage]} for {stage} in {sources[stage]}" for stage in STAGES)
            raise ConfigurationError(
                ", ".join(dict.fromkeys(sources.values())),
                key,
                f"the stages must agree, but it is {where}",
                f"Give all three the same, e.g. {key}={values['video_tokenizer']}",
            )
