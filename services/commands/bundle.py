"""`worldloop bundle list | verify | move | prune`: looks after what lies under an output root."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import typer
from rich.table import Table

from services.bundles import listing, move, prune, verify
from services.bundles.core.manifest import printable
from services.bundles.core.move_report import names
from services.bundles.run import Run, check_over, read_run
from services.commands import connection, places
from services.commands.terminal.output import CleanConsole, say, say_json
from services.commands.terminal.text import STYLES, duration
from shared.bus.protocol import Recorded
from shared.errors import UsageError
from shared.events import RUN_ID
from shared.home import expanded

SHOWN = "%Y_%m_%d_%H_%M_%S"


def list_bundles(*, root: Path, now: datetime, as_json: bool) -> int:
    """Print what lies under an output root, oldest first."""
    found = [run for run in places.bundles(root) if run.bundle is not None]
    known = _known(*(run.run_id for run in found))
    rows = [
        listing.row(run.bundle, events)
        for run, events in zip(found, known, strict=True)
        if run.bundle is not None
    ]
    if as_json:
        say_json(json.dumps([row.model_dump(mode="json") for row in rows], indent=2))
        return 0
    if not rows:
        say(f"no bundles under {root}")
        return 0
    table = Table(box=None, pad_edge=False)
    for column in ("run", "status", "size", "stages", "newest checkpoint", "last event"):
        table.add_column(column, justify="right" if column == "size" else "left", no_wrap=True)
    for row in rows:
        table.add_row(*_cells(row, now))
    CleanConsole().print(table)
    for row in rows:
        if row.problem is not None:
            say(row.problem)
    return 0


def _cells(row: listing.BundleRow, now: datetime) -> tuple[str, ...]:
    status = row.status or "unreadable"
    flags = [status, *(["degraded"] if row.degraded else []), *(["complete"] if row.complete else [])]
    stages = [
        f"{name} {each['step']}/{each['target']}{' done' if each['completed'] else ''}"
        for name, each in row.stages.items()
    ]
    return (
        row.run_id,
        f"[{STYLES.get(status, 'red')}]{', '.join(flags)}[/]",
        size(row.size_bytes),
        "\n".join(stages) or "-",
        Path(row.newest_checkpoint).name if row.newest_checkpoint is not None else "-",
        duration(now.timestamp() - row.updated) + " ago" if row.updated is not None else "-",
    )


def verify_bundle(argument: str | None, *, root: Path, seal: bool, now: datetime, as_json: bool) -> int:
    """Print what is wrong with a bundle, file by file; 1 if anything is."""
    bundle = places.bundle_found(argument, root).absolute()
    found = verify.verify(bundle)
    sealed = verify.seal(bundle, f"{now:{SHOWN}}") if seal and not found.faults else None
    if as_json:
        faults = [fault._asdict() for fault in found.faults]
        document = asdict(found) | {"faults": faults, "ok": not faults, "path": str(bundle), "sealed": sealed}
        say_json(json.dumps(document, indent=2))
        return 1 if faults else 0
    for fault in found.faults:
        say(f"{printable(fault.path)}: {fault.problem}")
    against = (
        f"{found.checksums} files as in {found.manifest}, {found.unlisted} came later"
        if found.manifest is not None
        else "no manifest of the other files (--seal writes one)"
    )
    looked = f"{found.events} events, {found.checkpoints} checkpoints; {against}"
    say(f"{bundle}: {f'{len(found.faults)} faults' if found.faults else 'whole'}: {looked}")
    if sealed is not None:
        say(f"sealed: {bundle / sealed}")
    elif seal:
        say("not sealed: what is wrong would be held to be right")
    return 1 if found.faults else 0


def move_bundle(argument: str, to: Path, *, root: Path, now: datetime) -> int:
    """Move a bundle, or go on with a move that was cut."""
    source = (root / argument if RUN_ID.fullmatch(argument) else expanded(argument)).absolute()
    target = move.target_of(source, expanded(to).absolute())
    run_id = source.name
    if source.exists() or not move.unfinished(source, target):
        run_id = _over(source).run_id
    moved = move.move(source, target, run_id=run_id, stamp=f"{now:{SHOWN}}")
    report, manifest = (target / "docs" / "action" / name for name in names(moved.stamp))
    say(f"{moved.run_id} {moved.way} to {moved.target}: {moved.files} files, {size(moved.size)}, verified")
    for path in moved.dangling:
        say(f"{printable(path)}: a link that leads nowhere from there")
    say(f"{report}\n{manifest}")
    return 0


def prune_bundle(
    argument: str | None, *, root: Path, keep_last: int | None, dry_run: bool, yes: bool, as_json: bool
) -> int:
    """Print what a prune frees, ask, and delete it; 2 if nobody could be asked."""
    run = _over(places.bundle_found(argument, root).absolute())
    keep = keep_last if keep_last is not None else prune.keep_last(run)
    try:
        found = prune.removable(run, keep=keep)
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is missing: pip install 'worldloop[trainer]'") from None
    if not as_json:
        _say(found, keep)
    terminal = at_terminal() and not as_json
    agreed = not dry_run and (yes or (bool(found) and terminal and typer.confirm("Delete them?")))
    if agreed:
        prune.prune(run, found)
    if as_json:
        document = {
            "run_id": run.run_id,
            "path": str(run.bundle.root),
            "keep_last": keep,
            "frees_bytes": sum(each.size for each in found),
            "deleted": agreed,
            "removals": [asdict(each) for each in found],
        }
        say_json(json.dumps(document, indent=2))
    elif agreed and found:
        say("deleted")
    if dry_run or agreed or not found or terminal:
        return 0
    sys.stderr.write("nothing was deleted: there is no terminal to ask at; say --yes\n")
    return 2


def _say(found: Sequence[prune.Removal], keep: int) -> None:
    for each in found:
        say(f"{size(each.size):>9}  {printable(each.path)}  ({each.why})")
    freed = size(sum(each.size for each in found))
    say(
        f"{len(found)} to delete, frees {freed}; the newest {keep} of each stage and what is referred to stay"
    )


def at_terminal() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin.isatty()


def size(count: int) -> str:
    """Bytes as people say them."""
    value = float(count)
    for unit in ("B", "KB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def _over(bundle: Path) -> Run:
    """The run of a bundle in which nothing works.

    Raises:
        BundleError: It is no bundle.
        UsageError: The run goes on.
    """
    run = read_run(bundle)
    (known,) = _known(run.run_id)
    check_over(run, known)
    return run


def _known(*run_ids: str) -> list[list[Recorded]]:
    """Events of runs as the server has them; none of any where there is no server."""

    async def ask() -> list[list[Recorded]]:
        async with connection.connect_if_up(None) as bus:
            return [await bus.events(run_id) if bus is not None else [] for run_id in run_ids]

    return asyncio.run(ask())
