"""`worldloop replay`: a run's gates decided once more under another policy, beside what was decided.

Works on a bundle alone, wherever it lies. It judges under, in rising priority: what the run recorded, the
policy of a named profile, the policy file, KEY=VALUE.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from services.commands import places
from services.commands.configuration.dotted_keys import KeyPath, Setting, child, leaves
from services.commands.configuration.files import (
    Tree,
    display,
    file_settings,
    find_configs,
    flatten,
    profile_settings,
    recorded_settings,
)
from services.commands.configuration.policy_show import value_at
from services.commands.configuration.resolve import Resolution, assignments, combine, layer
from services.commands.configuration.yaml_file import read_mapping
from services.commands.judging.replay_view import Change, document, lines
from services.commands.terminal.output import say, say_json
from services.gatekeeper.core.replay import replay as decide_again
from shared.bus.journal import read_journal
from shared.bus.protocol import Recorded
from shared.errors import BundleError, UsageError
from shared.events import OperatorRequested, RunSpec

MAX_MSE = ("inference", "max_mse")
"""The one limit of a gate that is no key of the policy."""
GATEKEEPER = ("policy", "gatekeeper")
UNUSED = tuple(
    (*GATEKEEPER, name) for name in ("evidence_timeout_sec", "command_timeout_sec", "required_reports")
)
"""Keys of the gatekeeper that decide no gate: time entered the log as events, reports come after it."""


def replay(
    argument: str,
    *,
    policy: Path | None,
    profile: str | None,
    configs: Path | None,
    texts: list[str],
    root: Path,
    as_json: bool,
) -> int:
    """Judge a run again and print both sides.

    Args:
        argument: Run id or bundle directory.
        policy: File with sections of policy.yaml, complete or not.
        profile: Profile whose policy to judge under.
        configs: Where profiles are.
        texts: KEY=VALUE of the policy, or max_mse.
        root: Output root, for run ids.
        as_json: One JSON object on stdout.

    Returns:
        0 if every gate is decided the same, 1 if any is not.

    Raises:
        BundleError: There is no such bundle, or its events cannot be read.
        ConfigurationError: A policy that cannot be used; names file, key and cure.
        UsageError: A profile or policy file that does not exist, or a key that no gate depends on.
    """
    records = _records(argument, root)
    spec = _spec(records, argument)
    recorded = recorded_settings(spec)
    resolution = combine(spec.profile, [*recorded, *_given(policy, profile, configs, texts)])
    changes = list(_changes(combine(spec.profile, recorded), resolution))
    younger = _younger(resolution)
    run_id = records[0].message.run_id
    policy_given, limit = resolution.policy.gatekeeper, resolution.run.inference.max_mse
    try:
        found = decide_again(records, run_id, policy=policy_given, max_mse=limit)
    except ValidationError as error:
        raise _unusable(argument, error) from None
    if as_json:
        say_json(json.dumps(document(run_id, changes, younger, found), indent=2))
    else:
        for line in lines(run_id, spec, changes, younger, found):
            say(line)
    return 1 if any(gate.differing for gate in found.gates) else 0


def _records(argument: str, root: Path) -> list[Recorded]:
    run = places.find_run(argument, root)
    if run.bundle is None:
        raise BundleError(f"{argument}: no bundle of that name under {root}; give the bundle's path")
    return read_journal(run.bundle / places.EVENTS_FILE)


def _spec(records: list[Recorded], argument: str) -> RunSpec:
    for record in records:
        event = record.message
        if isinstance(event, OperatorRequested) and event.request == "start_run":
            try:
                return RunSpec.recorded(event.arguments.get("spec"))
            except ValidationError as error:
                raise _unusable(argument, error) from None
    raise BundleError(f"{argument}: {places.EVENTS_FILE} does not say what the run was asked to do")


def _unusable(argument: str, error: ValidationError) -> BundleError:
    return BundleError(f"{argument}: the run asks for what cannot be used: {error}")


def _given(
    policy: Path | None, profile: str | None, configs: Path | None, texts: list[str]
) -> Iterator[Setting]:
    if profile is not None:
        directory = find_configs(configs, beside_theirs=True)
        for setting in (*file_settings(directory), *profile_settings(directory, profile)):
            if _is_policy(setting.path):
                yield setting
    if policy is not None:
        if not policy.is_file():
            raise UsageError(f"--policy {policy}: no such file")
        shown = display(policy)
        content = read_mapping(policy, shown)
        yield from flatten(child(Tree, "policy"), content, ("policy",), origin=shown, shown=shown, prefix="")
    for setting in assignments(texts):
        if not _is_policy(setting.path):
            raise UsageError(
                f"{setting.key}: the run was trained as it was; replay takes keys of the policy, and max_mse"
            )
        yield setting


def _is_policy(path: KeyPath) -> bool:
    return path[0] == "policy" or path == MAX_MSE


def _younger(given: Resolution) -> list[str]:
    """Sections and keys that neither the run's record nor anything given has: their defaults hold."""
    paths = [path for path in leaves(Tree) if path[:2] == GATEKEEPER and path[:3] not in UNUSED]
    unset = [path for path in paths if layer(given.origins[".".join(path)]) == "default"]
    return list(dict.fromkeys(".".join(path[:3]) for path in unset))


def _changes(recorded: Resolution, given: Resolution) -> Iterator[Change]:
    for path in leaves(Tree):
        before, after = value_at(recorded, path), value_at(given, path)
        if before != after:
            key = ".".join(path)
            used = path == MAX_MSE or (path[:2] == GATEKEEPER and path[:3] not in UNUSED)
            yield Change(key, before, after, given.origins[key], used)
