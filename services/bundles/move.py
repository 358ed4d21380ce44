"""Relocates a bundle. Killed at any byte, the same command goes on; nothing is deleted before it is verified.

Beside the target lies a hidden directory while a move is on its way: the journal `move.json`, the copy, and
the manifest once all of it was verified. Then, each step durable before the next:

1. copy (or, on one file system, take checksums), read the copy back, see that the source did not change;
2. write the manifest, give the copy the target's name (or rename the bundle to it, and compare);
3. give the source a hidden name, see again that it is what was copied, delete it;
4. write report and manifest into the bundle, remove the hidden directory.
"""

from __future__ import annotations

import errno
import itertools
import shutil
from pathlib import Path

from services.bundles.copying import copy, missing_bytes
from services.bundles.core.manifest import differences, missing_or_changed, to_bytes
from services.bundles.core.move_report import Moved, names, to_markdown
from services.bundles.journal import Journal, Places, alone
from services.bundles.refusals import another, check_places, check_same, not_what_was_verified, refused, told
from services.bundles.tree import remove, scan, survey, usage
from shared.bundle import Bundle, sync_directory, write_atomic
from shared.errors import BundleError

IGNORED = (b"asset-move-report-*.md", b"asset-move-manifest-*.txt", b".gitignore")
"""What git is to leave alone in `docs/action/`."""


def target_of(source: Path, to: Path) -> Path:
    """Where a bundle goes: into a directory that is there, else under the name given.

    Args:
        source: The bundle.
        to: What the person named; a move that was cut may have made it.
    """
    return to if unfinished(source, to) or not to.is_dir() else to / source.name


def unfinished(source: Path, target: Path) -> bool:
    """Whether a move from here to there was cut and can be gone on with."""
    places = Places(source, target)
    journal = places.journal()
    return journal is not None and places.is_of(journal)


def move(source: Path, target: Path, *, run_id: str, stamp: str) -> Moved:
    """Move a bundle, or go on with a move that was cut.

    Args:
        source: The bundle, absolute. Nothing may work in it.
        target: Its new place, absolute; not there yet.
        run_id: Its run.
        stamp: UTC, YYYY_MM_DD_HH_MM_SS; a move that is gone on with keeps its own.

    Raises:
        BundleError: It cannot be moved, is being moved, was changed meanwhile, a copy is damaged, or a disk
            refused; nothing was deleted that is not verified in its new place, and the same command goes on.
    """
    places = Places(source, target)
    try:
        if places.journal() is None and not places.done.exists():
            check_places(places)
            target.parent.mkdir(parents=True, exist_ok=True)
        with alone(source), alone(target):
            return _Move(places).run(run_id, stamp)
    except OSError as error:
        raise refused(error, source) from error


class _Move:
    def __init__(self, places: Places) -> None:
        self._at, self._source, self._target = places, places.source, places.target

    def run(self, run_id: str, stamp: str) -> Moved:
        journal = self._journal(run_id, stamp)
        if not self._target.exists():
            journal = self._bring(journal)
        elif not journal.deleting:
            self._compare_target()
        if journal.way == "copied":
            self._delete_source(journal)
        return self._report(journal)

    # --- 1 and 2: the bundle comes to its new place -------------------------------------------------------

    def _journal(self, run_id: str, stamp: str) -> Journal:
        """The move's journal: the one that is there, else a new one."""
        journal = self._at.journal()
        if journal is None:
            if self._at.done.exists():
                remove(self._at.done)  # a move to here was cut when only that was left to do
            check_places(self._at)  # again: nobody else moves it now
            free = _free(stamp, Bundle(self._source, "").reports)
            journal = Journal(run_id=run_id, source=str(self._source), target=str(self._target), stamp=free)
            self._at.staging.mkdir(exist_ok=True)
            self._at.write(journal)
            sync_directory(self._at.staging.parent)
        elif not self._at.is_of(journal):
            raise another(self._at, journal)
        return journal

    def _bring(self, journal: Journal) -> Journal:
        at = self._at
        if self._source.stat().st_dev == at.staging.stat().st_dev and not at.copied.exists():
            renamed = journal.model_copy(update={"way": "renamed"})
            if self._rename(renamed):
                self._compare_target()
                return renamed
        journal = journal.model_copy(update={"way": "copied"})
        at.write(journal)
        self._copy()
        at.copied.rename(self._target)
        sync_directory(self._target.parent)
        return journal

    def _rename(self, journal: Journal) -> bool:
        """Rename the bundle; false where that would cross file systems after all."""
        entries = scan(self._source)
        manifest = survey(self._source, entries)
        check_same(self._source, entries)
        write_atomic(self._at.manifest, to_bytes(manifest))
        self._at.write(journal)
        try:
            self._source.rename(self._target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            return False
        sync_directory(self._target.parent)
        sync_directory(self._source.parent)
        return True

    def _copy(self) -> None:
        """Copy, read back, and write the manifest when all of it is the same."""
        entries, copied = scan(self._source), self._at.copied
        copied.mkdir(exist_ok=True)
        wanted, free = missing_bytes(copied, entries), shutil.disk_usage(copied).free
        if wanted > free:
            raise BundleError(
                f"{self._target.parent} has {free} bytes free, and {wanted} are still to be copied: make "
                "room there and run the same command again; nothing was deleted"
            )
        manifest = copy(self._source, copied, entries)
        damaged = differences(manifest, survey(copied))
        if damaged:
            for path in (copied / fault.path for fault in damaged):
                path.unlink(missing_ok=True)  # so that the same command copies them again
            raise BundleError(
                f"the copy is not what was copied: {told(damaged)}; nothing was deleted. Check that disk, "
                "then run the same command again"
            )
        check_same(self._source, entries)
        write_atomic(self._at.manifest, to_bytes(manifest))

    def _compare_target(self) -> None:
        """Make sure that the bundle's new place holds all that was verified."""
        if faults := missing_or_changed(self._at.verified(), survey(self._target)):
            raise not_what_was_verified(self._at, "the bundle in its new place", faults)

    # --- 3: the source goes -------------------------------------------------------------------------------

    def _delete_source(self, journal: Journal) -> None:
        source, aside = self._source, self._at.aside
        if not journal.deleting:
            if source.exists():
                source.rename(aside)  # from here on nobody opens a file in it by its name
                sync_directory(source.parent)
            if not aside.exists():
                return  # somebody was faster
            try:
                self._compare_aside()
            except BundleError:
                aside.rename(source)
                sync_directory(source.parent)
                raise
            self._at.write(journal.model_copy(update={"deleting": True}))
        if aside.exists():
            remove(aside)

    def _compare_aside(self) -> None:
        """Make sure that the source holds what was copied and nothing else: it is going to be deleted."""
        entries = scan(self._at.aside)
        if faults := differences(self._at.verified(), survey(self._at.aside, entries)):
            raise not_what_was_verified(self._at, "the source", faults)
        check_same(self._at.aside, entries)  # who had a file open may have written to it meanwhile

    # --- 4: the report ------------------------------------------------------------------------------------

    def _report(self, journal: Journal) -> Moved:
        entries, manifest = scan(self._target), self._at.verified()
        moved = Moved(
            run_id=journal.run_id,
            source=journal.source,
            target=journal.target,
            stamp=journal.stamp,
            way=journal.way,
            files=len(manifest.files),
            links=len(manifest.links),
            size=usage(entries),
            dangling=[
                each.path for each in entries if each.is_link and not (self._target / each.path).exists()
            ],
        )
        reports = Bundle(self._target, "").reports
        for_report, for_manifest = names(journal.stamp)
        reports.mkdir(parents=True, exist_ok=True)
        ignoring = _ignoring(reports / ".gitignore")
        self._place(reports / ".gitignore", ignoring)  # git never sees what comes next
        self._place(reports / for_manifest, self._at.manifest.read_bytes())
        self._place(reports / for_report, to_markdown(moved).encode())
        self._at.staging.rename(self._at.done)
        remove(self._at.done)
        return moved

    def _place(self, path: Path, content: bytes) -> None:
        """Write a file into the bundle; what a kill leaves of it lies in the hidden directory."""
        write_atomic(self._at.staging / path.name, content)
        (self._at.staging / path.name).replace(path)
        sync_directory(path.parent)


def _free(stamp: str, reports: Path) -> str:
    """The time, or the time with _2, _3, ...: a bundle was moved twice in one second."""
    tried = (f"{stamp}_{number}" if number > 1 else stamp for number in itertools.count(1))
    return next(each for each in tried if not (reports / names(each)[0]).exists())


def _ignoring(path: Path) -> bytes:
    """A `.gitignore` as it is, and that git leaves the files of moves alone, wherever the bundle lies."""
    there = path.read_bytes().splitlines() if path.exists() else []
    return b"".join(line + b"\n" for line in dict.fromkeys([*there, *IGNORED]))
