"""`worldloop report`: a run's reports written again from its bundle, without a server."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from services.commands import places
from services.commands.terminal.output import say, say_json
from shared.errors import BundleError, UsageError


def report(argument: str | None, *, kinds: Collection[str], root: Path, as_json: bool) -> int:
    """Write the reports again and print where they are.

    Args:
        argument: Run id or bundle directory, also a moved one; none is the newest run.
        kinds: Which ones; none are those that the run's policy requires.
        root: Output root, for run ids.
        as_json: One JSON object on stdout.

    Returns:
        0 if all were written, 1 if one was not.

    Raises:
        BundleError: There is no such bundle, its events cannot be read, or nothing can be written there.
        UsageError: What is needed for plots is not installed.
    """
    try:
        from services.reporter.rebuild import rebuild
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is missing: pip install 'worldloop[reporter]'") from None
    bundle = places.bundle_found(argument, root)
    try:
        found = rebuild(bundle, kinds)
    except OSError as error:
        raise BundleError(f"{bundle}: the reports cannot be written ({error})") from None
    rows = [
        {
            "run_id": each.story.run_id,
            "status": each.outcome.status,
            "decided": f"{each.story.decided:%Y-%m-%dT%H:%M:%SZ}",
            "reports": {one.kind: one.path for one in each.reports if one.path is not None},
            "problems": {one.kind: one.error for one in each.reports if one.path is None},
        }
        for each in found
    ]
    if as_json:
        say_json(json.dumps({"bundle": str(bundle), "endings": rows}, indent=2))
    else:
        for each in found:
            say(f"{each.story.run_id} {each.outcome.status}: {each.outcome.reason}")
            for one in each.reports:
                say(f"  {one.kind:14} {bundle / one.path if one.path else f'failed: {one.error}'}")
    return 1 if any(one.path is None for each in found for one in each.reports) else 0
