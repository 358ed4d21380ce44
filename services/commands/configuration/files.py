"""Where the `configs/` directory is, and what its files set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import shared
from services.commands.configuration.dotted_keys import Setting, child, closest, find, leaves, names
from services.commands.configuration.yaml_file import read_mapping
from services.policy import Policy
from shared.config import ALIGNED, RunConfig, StageFile, TrainingConfig
from shared.errors import ConfigurationError, UsageError
from shared.events import STAGES, RunSpec


class Tree(RunConfig):
    """All that can be set: the configuration and the policy."""

    policy: Policy = Policy()


POLICY = "policy.yaml"
"""The file that tells our `configs/` from that of a TinyWorlds repository, which has the others too."""


def find_configs(given: Path | None, *, beside_theirs: bool = False) -> Path:
    """The directory to read: `--configs`, else `./configs`, else that of this source tree, else the packaged.

    Args:
        given: `--configs`.
        beside_theirs: Pass over a `./configs` that is a TinyWorlds repository's own.

    Raises:
        UsageError: There is none, or it is a TinyWorlds repository's.
    """
    if given is not None:
        if not given.is_dir():
            raise UsageError(f"--configs {given}: no such directory")
        return given
    package = Path(shared.__file__).parent
    candidates = (Path("configs"), package.parent / "configs", package / "configs")
    for candidate in candidates:
        if not (candidate / "training.yaml").is_file():
            continue
        if (candidate / POLICY).is_file():
            return candidate
        if not beside_theirs:
            raise UsageError(
                f"{display(candidate)} has no {POLICY}: it looks like a TinyWorlds repository's own. To "
                "train with that repository give --checkout .; else name worldloop's files with --configs"
            )
    raise UsageError(
        f"no configs/ directory in {', '.join(str(path) for path in candidates)}; name one with --configs"
    )


def profile_names(configs: Path) -> list[str]:
    """Profiles there are."""
    return sorted(path.stem for path in (configs / "profiles").glob("*.yaml"))


def file_settings(configs: Path) -> list[Setting]:
    """What the six files set, in rising priority; training.yaml comes last, over the stage files.

    Raises:
        ConfigurationError: A file cannot be read or has a key that its schema lacks.
    """
    training = display(configs / "training.yaml")
    shared_by_all = read_mapping(configs / "training.yaml", training)
    found: list[Setting] = []
    for section in (*STAGES, "inference", "policy"):
        shown = display(configs / f"{section}.yaml")
        content = read_mapping(configs / f"{section}.yaml", shown)
        if section in STAGES:
            _check_alignment(content, shown, shared_by_all, training)
        found += _section(section, content, shown)
    own = {key: value for key, value in shared_by_all.items() if not _of_stages(key)}
    found += _section("training", own, training)
    for key in sorted(shared_by_all.keys() - own.keys()):
        found += [
            Setting((stage, key), shared_by_all[key], training, key)
            for stage in STAGES
            if find(Tree, (stage, key)) is not None
        ]
    return found


def profile_settings(configs: Path, profile: str) -> list[Setting]:
    """What a profile sets.

    Raises:
        UsageError: There is no such profile.
        ConfigurationError: It cannot be read or has a key that no schema has.
    """
    known = profile_names(configs)
    if profile not in known:
        meant = closest(profile, known)
        hint = f"did you mean {meant}?" if meant else f"there are {', '.join(known)}"
        raise UsageError(f"--profile {profile}: no such profile in {display(configs / 'profiles')}; {hint}")
    path = configs / "profiles" / f"{profile}.yaml"
    content = read_mapping(path, display(path))
    return flatten(Tree, content, (), origin=f"profile {profile}", shown=display(path), prefix="")


def flatten(
    annotation: Any,
    content: dict[str, Any],
    path: tuple[str, ...],
    *,
    origin: str,
    shown: str,
    prefix: str,
    strict: bool = True,
) -> list[Setting]:
    """A mapping as single settings.

    Args:
        annotation: Schema of the mapping.
        content: The mapping.
        path: Where it stands, from the root.
        origin: Recorded with each setting.
        shown: How errors name the source.
        prefix: The keys above, as written in the source.
        strict: A key that the schema lacks is an error; else it is dropped.

    Raises:
        ConfigurationError: A key that the schema lacks.
    """
    found: list[Setting] = []
    for key, value in content.items():
        written = f"{prefix}{key}"
        below = child(annotation, str(key))
        if below is None:
            if strict:
                raise unknown_key(shown, written, str(key), annotation)
        elif isinstance(value, dict) and names(below) is not None:
            found += flatten(
                below, value, (*path, key), origin=origin, shown=shown, prefix=f"{written}.", strict=strict
            )
        else:
            found.append(Setting((*path, key), value, origin, written, shown))
    return found


def recorded_settings(spec: RunSpec) -> list[Setting]:
    """What a run was asked to do; keys that only another version knows are dropped."""
    content = {**spec.configuration, "policy": spec.policy}
    shown = "the run's own record"
    return flatten(Tree, content, (), origin="recorded", shown=shown, prefix="", strict=False)


def unknown_key(shown: str, written: str, key: str, annotation: Any) -> ConfigurationError:
    """The error for a key that a schema lacks, with what was probably meant."""
    options = names(annotation) or []
    meant = closest(key, options)
    if homes := [".".join(leaf) for leaf in leaves(Tree) if leaf[-1] == key]:
        return ConfigurationError(shown, written, "unknown key here", f"Its place is {' or '.join(homes)}")
    if meant:
        return ConfigurationError(shown, written, "unknown key", f"Did you mean {meant}?")
    return ConfigurationError(shown, written, "unknown key", f"Remove it; known are {', '.join(options)}")


def display(path: Path) -> str:
    """A path as people know it: relative to where they are, if it lies below."""
    absolute = path.resolve()
    here = Path.cwd()
    return absolute.relative_to(here).as_posix() if absolute.is_relative_to(here) else str(absolute)


def _section(section: str, content: dict[str, Any], shown: str) -> list[Setting]:
    return flatten(child(Tree, section), content, (section,), origin=shown, shown=shown, prefix="")


def _check_alignment(
    content: dict[str, Any], shown: str, shared_by_all: dict[str, Any], training: str
) -> None:
    for key in ALIGNED:
        if key in content:
            other = shared_by_all.get(key, TrainingConfig.model_fields[key].default)
            raise ConfigurationError(
                shown,
                key,
                f"{content[key]!r} here, {other!r} in {training}",
                "What all stages share comes from training.yaml alone: remove it here",
            )


def _of_stages(key: str) -> bool:
    """Whether a key of training.yaml overrides the stage files."""
    return key not in TrainingConfig.model_fields and key in StageFile.model_fields
