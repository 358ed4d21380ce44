"""`worldloop diagnose`: what is wrong with a run, what to trust, what to do next, from its files alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand

from services.commands import places
from services.commands.terminal.output import say, say_json, warn
from shared.errors import UsageError, WorldloopError
from shared.events import RUN_ID, Stage

if TYPE_CHECKING:
    from services.diagnosis.collect import Thresholds
    from services.policy import Policy

USAGE, BAD_INPUT = 2, 3
"""Exit codes: everywhere else, and here, where 0, 1 and 2 are the verdict's."""


class DiagnoseCommand(TyperCommand):
    """A command whose usage errors have their own exit code, because 2 is an answer of it."""

    def make_context(self, *args: Any, **options: Any) -> Any:
        """Parse the arguments."""
        try:
            return super().make_context(*args, **options)
        except Exception as error:  # typer's own click or the installed one: usage errors have code 2 in both
            if getattr(error, "exit_code", None) == USAGE:
                setattr(error, "exit_code", BAD_INPUT)  # noqa: B010 - no class that both have
            raise


def diagnose(
    path: Path, *, stage: Stage | None, profile: str | None, output_root: Path | None, as_json: bool
) -> int:
    """Diagnose a run and print what was found.

    Args:
        path: A bundle, results directory, `.wandb` file or directory, or history; or a run id.
        stage: Only this one.
        profile: Judge by the policy of this profile; none: by the run's own, else the configured one.
        output_root: Where bundles are, for run ids; none: the configured one.
        as_json: One JSON object on stdout.

    Returns:
        0 for normal, 1 for watch, 2 for critical, 3 for bad input or usage.
    """
    try:
        from services.diagnosis.collect import collect
        from services.diagnosis.core.diagnosis import diagnose as judge
        from services.diagnosis.core.model import SEVERITIES
    except ModuleNotFoundError as error:
        warn(f"worldloop: {error.name} is missing: pip install 'worldloop[monitor]'")
        return BAD_INPUT
    try:
        if RUN_ID.fullmatch(str(path)) and not path.exists():
            path = places.bundle_found(str(path), places.root(output_root))
        found = judge(collect(path, thresholds(profile), stage=stage))
    except WorldloopError as error:
        warn(f"worldloop: {error}")
        return BAD_INPUT
    except OSError as error:  # a place that nobody may read, a name that no file can have
        warn(f"worldloop: {error.filename or path}: {error.strerror}")
        return BAD_INPUT
    if as_json:
        say_json(found.model_dump_json(indent=2))
    else:
        from services.commands.judging.diagnosis_view import show

        show(found)
    return SEVERITIES.index(found.verdict)


def thresholds(profile: str | None) -> Thresholds:
    """The policy of a profile, or of the configuration files.

    Raises:
        ConfigurationError: A file that cannot be used.
        UsageError: There is no such profile, or no configuration.
    """
    from services.diagnosis.collect import Thresholds

    policy, origin = configured(profile)
    return Thresholds(policy.gatekeeper, origin, own=profile is not None)


def configured(profile: str | None) -> tuple[Policy, str]:
    """The whole policy of a profile, or of the configuration files, and where it came from.

    Raises:
        ConfigurationError: A file that cannot be used.
        UsageError: There is no such profile, or no configuration.
    """
    from services.commands.configuration.files import display, file_settings, find_configs, profile_settings
    from services.commands.configuration.resolve import combine

    configs = find_configs(None, beside_theirs=True)
    named = profile_settings(configs, profile) if profile is not None else []
    policy = combine(profile or "", [*file_settings(configs), *named]).policy
    return policy, f"profile {profile}" if profile is not None else display(configs / "policy.yaml")


def gate(path: Path, *, stage: Stage | None, profile: str | None, as_json: bool) -> int:
    """The numeric verdict on a history, by hand: check 6 of a gate over all its rows.

    Args:
        path: A history (CSV, JSON or `.wandb`).
        stage: Whose limits apply; none: as the history tells.
        profile: Judge by the policy of this profile; none: by the configured one.
        as_json: One JSON object on stdout.

    Returns:
        0 for continue and watch, 1 for retune.

    Raises:
        WorldloopError: The history or the policy cannot be used.
    """
    try:
        from services.diagnosis.core.numeric import judge_history
        from services.diagnosis.histories import read
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is missing: pip install 'worldloop[monitor]'") from None
    if path.is_dir():
        raise UsageError(
            f"{path} is a directory, gate takes one history; for a run: worldloop diagnose {path}"
        )
    history = read(path)
    known = stage or history.stage
    if known is None:
        raise UsageError(f"{path}: of which stage? Say so with --stage")
    limits = thresholds(profile)
    found = judge_history(
        str(path), known, history.columns, limits.policy, origin=limits.origin, problem=history.problem
    )
    if as_json:
        say_json(found.model_dump_json(indent=2))
    else:
        say(f"{found.verdict}  {path}: {known}, {found.history.rows} rows, by {found.policy}")
        for reason in found.reasons:
            say(f"  {'ok' if reason.ok else 'FAILED':<6} {reason.name}: {reason.text}")
        if history.problem is not None:
            say(f"  {history.problem}")
    return 1 if found.verdict == "retune" else 0
