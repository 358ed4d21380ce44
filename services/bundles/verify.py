"""Whether a bundle is whole: its events, the files they name, its checkpoints, its reports' links, checksums.

Checkpoints bring their own checksums. Everything else is held against the newest manifest in `docs/action/`:
one that a move left, or one that `seal` wrote.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydantic_core import from_json

from services.bundles.core import named
from services.bundles.core.manifest import Fault, Manifest, missing_or_changed, parse, to_bytes
from services.bundles.run import EVENTS, Run, read_run
from services.bundles.tree import checksum, survey
from services.monitor.core.checkpoints import FILES, empty_problem
from shared.bundle import Bundle, checkpoint_directories, write_atomic
from shared.bus.protocol import Recorded
from shared.errors import BundleError
from shared.events import STAGES

MANIFESTS = "*-manifest-*.txt"
STAMP = re.compile(r"\d{4}(?:_\d\d){5}")
MANIFEST = "manifest.json"
"""Checksums in a checkpoint of ours."""


@dataclass(slots=True)
class Verified:
    """What was found."""

    run_id: str | None
    faults: list[Fault] = field(default_factory=list)
    events: int = 0
    checkpoints: int = 0
    manifest: str | None = None
    """The newest manifest's path in the bundle."""
    checksums: int = 0
    """Files that were held against it."""
    unlisted: int = 0
    """Files that are not in it: they came later."""


def verify(root: Path) -> Verified:
    """Look at everything in a bundle.

    Raises:
        BundleError: It is no bundle, or something in it cannot be read at all.
    """
    if not root.is_dir():
        raise BundleError(f"{root}: there is no such bundle")
    run: Run | None = None
    try:
        run = read_run(root)
    except BundleError as error:
        found = Verified(None, [Fault(EVENTS.as_posix(), str(error))])
    else:
        found = Verified(run.run_id, events=len(run.records))
        found.faults += [*_events(run), *_named_files(run)]
    for directory in checkpoints(root):
        found.checkpoints += 1
        found.faults += _checkpoint(root, directory)
    found.faults += _links(root)
    _checksums(root, run, found)
    found.faults = sorted(set(found.faults))
    return found


def seal(root: Path, stamp: str) -> str:
    """Write a manifest of all that a bundle holds now.

    Args:
        root: The bundle; it was verified.
        stamp: UTC, YYYY_MM_DD_HH_MM_SS.

    Returns:
        Its path in the bundle.
    """
    path = Bundle(root, "").reports / f"bundle-manifest-{stamp}.txt"
    write_atomic(path, to_bytes(survey(root)))
    return path.relative_to(root).as_posix()


def checkpoints(root: Path) -> Iterator[Path]:
    """The checkpoint directories of a bundle, superseded ones too."""
    for stage in STAGES:
        for place in sorted((root / "results").glob(f"*/{stage}")):
            for folder in (place / "checkpoints", *sorted(place.glob("superseded/*/checkpoints"))):
                yield from (directory for _, directory in checkpoint_directories(folder))


def _events(run: Run) -> Iterator[Fault]:
    path = run.bundle.events
    if not path.read_bytes().endswith(b"\n"):
        yield Fault(EVENTS.as_posix(), "ends in the middle of an event")
    yield from _order(run.records)


def _order(records: list[Recorded]) -> Iterator[Fault]:
    before, seen = 0, set[str]()
    for number, record in enumerate(records, start=1):
        if record.sequence <= before:
            yield Fault(EVENTS.as_posix(), f"line {number}: sequence {record.sequence} comes after {before}")
        if record.message.run_id != records[0].message.run_id:
            yield Fault(EVENTS.as_posix(), f"line {number} is an event of run {record.message.run_id}")
        if record.message.id in seen:
            yield Fault(EVENTS.as_posix(), f"line {number}: {record.message.id} is there twice")
        before = record.sequence
        seen.add(record.message.id)


def _named_files(run: Run) -> Iterator[Fault]:
    root = run.bundle.root
    for path, event in named.files_of(record.message for record in run.records).items():
        if not _is_somewhere(root, path):
            yield Fault(path, f"is missing; {event} names it")
    for path in sorted(named.needed(run.state)):
        if not (root / path).is_dir():
            yield Fault(path, "is missing; the run needs this checkpoint")


def _is_somewhere(root: Path, path: str) -> bool:
    """Whether a file is there, or was put aside with a superseded attempt."""
    if (root / path).exists():
        return True
    place = root / path
    return any(place.parent.parent.glob(f"superseded/*/{place.parent.name}/{place.name}"))


def _checkpoint(root: Path, directory: Path) -> Iterator[Fault]:
    """What is wrong with a checkpoint's files; its tensors are not read."""
    path = directory.relative_to(root).as_posix()
    sizes = {each.name: each.stat().st_size for each in directory.iterdir() if each.is_file()}
    missing = [name for name in FILES if name not in sizes]
    if missing:
        yield Fault(path, f"{', '.join(missing)} is missing")
    elif (problem := empty_problem(sizes)) is not None:
        yield Fault(path, problem)
    if MANIFEST not in sizes:
        return
    try:
        files = from_json((directory / MANIFEST).read_bytes())["files"]
        expected = {str(name): str(entry["sha256"]) for name, entry in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        yield Fault(f"{path}/{MANIFEST}", f"is damaged: {error!r}")
        return
    for name, digest in expected.items():
        if name in sizes and checksum(directory / name) != digest:
            yield Fault(f"{path}/{name}", "has another checksum than the checkpoint's manifest says")


def _links(root: Path) -> Iterator[Fault]:
    """Links of reports that lead nowhere; checkpoints that were pruned or superseded are no fault."""
    for report in sorted(Bundle(root, "").reports.glob("*.md")):
        for link in named.links_of(report.read_text(encoding="utf-8", errors="replace")):
            if not named.is_checkpoint(link) and not (report.parent / link).exists():
                yield Fault(report.relative_to(root).as_posix(), f"links to {link}, which is not there")


def newest_manifest(root: Path) -> Path | None:
    """The manifest that was written last, by the time in its name."""
    found = {
        (stamp.group(), path.name): path
        for path in Bundle(root, "").reports.glob(MANIFESTS)
        if (stamp := STAMP.search(path.name)) is not None
    }
    return found[max(found)] if found else None


def _checksums(root: Path, run: Run | None, found: Verified) -> None:
    path = newest_manifest(root)
    if path is None:
        return
    found.manifest = path.relative_to(root).as_posix()
    try:
        expected = parse(path.read_bytes())
    except ValueError as error:
        found.faults.append(Fault(found.manifest, f"is no manifest: {error}"))
        return
    now = survey(root)
    kept = needed_ones(expected, root, named.needed(run.state) if run is not None else set())
    found.checksums, found.unlisted = len(kept.files), len(now.files.keys() - expected.files.keys())
    found.faults += [
        Fault(fault.path, f"{fault.problem} ({path.name})") for fault in missing_or_changed(kept, now)
    ]


def needed_ones(expected: Manifest, root: Path, needed: set[str]) -> Manifest:
    """A manifest without the checkpoints that went since, as retention may, and that nobody needs."""

    def gone(path: str) -> bool:
        directory = path.rpartition("/")[0]
        return named.is_checkpoint(path) and directory not in needed and not (root / directory).exists()

    return Manifest(
        {path: digest for path, digest in expected.files.items() if not gone(path)}, expected.links
    )
