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
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from services.bundles.copying import copy, missing_bytes
from services.bundles.core.manifest import Fault, Manifest, differences, missing_or_changed, parse, to_bytes
from services.bundles.core.move_report import Moved, names, to_markdown
from services.bundles.tree import Entry, is_full, remove, scan, survey, usage
from shared.bundle import Bundle, sync_directory, write_atomic
from shared.config import Config
from shared.errors import BundleError

ENOUGH = 5
"""So many paths are named in an error."""
IGNORED = ("asset-move-report-*.md", "asset-move-manifest-*.txt", ".gitignore")
"""What git is to leave alone in `docs/action/`."""


class Journal(Config):
    """How far a move has come."""

    run_id: str
    source: str
    target: str
    stamp: str
    way: Literal["renamed", "copied"] = "copied"
    deleting: bool = False
    """All was verified, also what is being deleted: the source under its hidden name."""


def staging_of(target: Path) -> Path:
    """The hidden directory of a move that is on its way to a target."""
    return target.with_name(f".{target.name}.moving")


def aside_of(source: Path) -> Path:
    """The hidden name of a source that is being deleted."""
    return source.with_name(f".{source.name}.moved")


def target_of(source: Path, to: Path) -> Path:
    """Where a bundle goes: into a directory that is there, else under the name given.

    Args:
        source: The bundle.
        to: What the person named; a move that was cut may have made it.
    """
    journal = _read_journal(staging_of(to))
    if journal is not None and journal.source == str(source):
        return to
    return to / source.name if to.is_dir() else to


def unfinished(source: Path, target: Path) -> bool:
    """Whether a move from here to there was cut and can be gone on with."""
    journal = _read_journal(staging_of(target))
    return journal is not None and (journal.source, journal.target) == (str(source), str(target))


def move(source: Path, target: Path, *, run_id: str, stamp: str) -> Moved:
    """Move a bundle, or go on with a move that was cut.

    Args:
        source: The bundle, absolute. Nothing may work in it.
        target: Its new place, absolute; not there yet.
        run_id: Its run.
        stamp: UTC, YYYY_MM_DD_HH_MM_SS; a move that is gone on with keeps its own.

    Raises:
        BundleError: It cannot be moved, was changed meanwhile, a copy is damaged, or a disk refused; nothing
            was deleted that is not verified in its new place, and the same command goes on.
    """
    try:
        return _Move(source, target).run(run_id, stamp)
    except OSError as error:
        raise _refused(error, source) from error


@dataclass(slots=True)
class _Move:
    source: Path
    target: Path

    @property
    def staging(self) -> Path:
        return staging_of(self.target)

    @property
    def copied(self) -> Path:
        return self.staging / "bundle"

    @property
    def done(self) -> Path:
        return self.staging.with_name(f"{self.staging.name}.done")

    @property
    def manifest_file(self) -> Path:
        return self.staging / "manifest.txt"

    @property
    def aside(self) -> Path:
        return aside_of(self.source)

    def run(self, run_id: str, stamp: str) -> Moved:
        journal = self._journal(run_id, stamp)
        if not self.target.exists():
            journal = self._bring(journal)
        elif not journal.deleting:
            self._compare(self.target, "the bundle in its new place", exactly=False)
        if journal.way == "copied":
            self._delete_source(journal)
        return self._report(journal)

    # --- 1 and 2: the bundle comes to its new place -------------------------------------------------------

    def _journal(self, run_id: str, stamp: str) -> Journal:
        """The move's journal: the one that is there, else a new one."""
        journal = _read_journal(self.staging)
        if journal is None:
            if self.done.exists():
                remove(self.done)  # a move to here was cut when only that was left to do
            _check_places(self.source, self.target)
            free = _free(stamp, Bundle(self.source, "").reports)
            journal = Journal(run_id=run_id, source=str(self.source), target=str(self.target), stamp=free)
            self.staging.mkdir(parents=True, exist_ok=True)
            self._write(journal)
            sync_directory(self.staging.parent)
        elif (journal.source, journal.target) != (str(self.source), str(self.target)):
            raise BundleError(
                f"{self.staging}: a move of {journal.source} to {journal.target} was cut; go on with "
                f"`worldloop bundle move {journal.source} {journal.target}`, or remove that directory"
            )
        return journal

    def _write(self, journal: Journal) -> None:
        write_atomic(self.staging / "move.json", journal.model_dump_json(indent=1))

    def _bring(self, journal: Journal) -> Journal:
        if self.source.stat().st_dev == self.staging.stat().st_dev and not self.copied.exists():
            renamed = journal.model_copy(update={"way": "renamed"})
            if self._rename(renamed):
                self._compare(self.target, "the renamed bundle", exactly=False)
                return renamed
        journal = journal.model_copy(update={"way": "copied"})
        self._write(journal)
        self._copy()
        self.copied.rename(self.target)
        sync_directory(self.target.parent)
        return journal

    def _rename(self, journal: Journal) -> bool:
        """Rename the bundle; false where that would cross file systems after all."""
        entries = scan(self.source)
        manifest = survey(self.source, entries)
        _check_same(self.source, entries)
        write_atomic(self.manifest_file, to_bytes(manifest))
        self._write(journal)
        try:
            self.source.rename(self.target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            return False
        sync_directory(self.target.parent)
        sync_directory(self.source.parent)
        return True

    def _copy(self) -> None:
        """Copy, read back, and write the manifest when all of it is the same."""
        entries = scan(self.source)
        self.copied.mkdir(exist_ok=True)
        wanted, free = missing_bytes(self.copied, entries), shutil.disk_usage(self.copied).free
        if wanted > free:
            raise BundleError(
                f"{self.target.parent} has {free} bytes free, and {wanted} are still to be copied: make room "
                "there and run the same command again; nothing was deleted"
            )
        manifest = copy(self.source, self.copied, entries)
        damaged = differences(manifest, survey(self.copied))
        if damaged:
            for path in (self.copied / fault.path for fault in damaged):
                path.unlink(missing_ok=True)  # so that the same command copies them again
            raise BundleError(
                f"the copy is not what was copied: {_told(damaged)}; nothing was deleted. Check that disk, "
                "then run the same command again"
            )
        _check_same(self.source, entries)
        write_atomic(self.manifest_file, to_bytes(manifest))

    # --- 3: the source goes -------------------------------------------------------------------------------

    def _delete_source(self, journal: Journal) -> None:
        if not journal.deleting:
            if self.source.exists():
                self.source.rename(self.aside)  # from here on nobody writes to it by its name
                sync_directory(self.source.parent)
            if not self.aside.exists():
                return  # somebody was faster
            try:
                self._compare(self.aside, "the source", exactly=True)
            except BundleError:
                self.aside.rename(self.source)
                sync_directory(self.source.parent)
                raise
            self._write(journal.model_copy(update={"deleting": True}))
        if self.aside.exists():
            remove(self.aside)

    def _compare(self, place: Path, what: str, *, exactly: bool) -> None:
        """Make sure that a place holds what the manifest says.

        Args:
            place: The directory.
            what: What it is, for the error.
            exactly: It may hold nothing else either: it is going to be deleted.
        """
        compare = differences if exactly else missing_or_changed
        if faults := compare(self._manifest(), survey(place)):
            raise BundleError(
                f"{what} is not what was verified: {_told(faults)}. Nothing was deleted; "
                f"{self.manifest_file} has the checksums. Keep what you want of {self.source} and "
                f"{self.target}, remove {self.staging}, and move again"
            )

    def _manifest(self) -> Manifest:
        return parse(self.manifest_file.read_bytes())

    # --- 4: the report ------------------------------------------------------------------------------------

    def _report(self, journal: Journal) -> Moved:
        entries, manifest = scan(self.target), self._manifest()
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
                each.path for each in entries if each.is_link and not (self.target / each.path).exists()
            ],
        )
        reports = Bundle(self.target, "").reports
        for_report, for_manifest = names(journal.stamp)
        reports.mkdir(parents=True, exist_ok=True)
        self._place(
            reports / ".gitignore", _ignoring(reports / ".gitignore")
        )  # git never sees what comes next
        self._place(reports / for_manifest, self.manifest_file.read_bytes())
        self._place(reports / for_report, to_markdown(moved).encode())
        self.staging.rename(self.done)
        remove(self.done)
        return moved

    def _place(self, path: Path, content: bytes) -> None:
        """Write a file into the bundle; what a kill leaves of it lies in the hidden directory."""
        write_atomic(self.staging / path.name, content)
        (self.staging / path.name).replace(path)
        sync_directory(path.parent)


def _read_journal(staging: Path) -> Journal | None:
    try:
        return Journal.model_validate_json((staging / "move.json").read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValidationError, OSError) as error:
        raise BundleError(f"{staging / 'move.json'} cannot be read ({error}): remove {staging}") from error


def _free(stamp: str, reports: Path) -> str:
    """The time, or the time with _2, _3, ...: a bundle was moved twice in one second."""
    tried = (f"{stamp}_{number}" if number > 1 else stamp for number in itertools.count(1))
    return next(each for each in tried if not (reports / names(each)[0]).exists())


def _check_places(source: Path, target: Path) -> None:
    """Refuse what cannot be moved, before anything is made."""
    if source.is_symlink():
        raise BundleError(f"{source} is a link to {source.resolve()}: name the bundle itself")
    if not source.is_dir():
        there = f"; {target} is there" if target.exists() else ""
        raise BundleError(f"{source}: there is no such bundle{there}")
    if target.exists() or target.is_symlink():
        raise BundleError(f"{target} is there already, and nothing is overwritten: name another place")
    if target.resolve().is_relative_to(source.resolve()):
        raise BundleError(f"{target} lies inside the bundle itself: name another place")
    if aside_of(source).exists():
        raise BundleError(f"{aside_of(source)} is left of another move; finish that, or remove it")
    if not os.access(source.parent, os.W_OK | os.X_OK):
        raise BundleError(f"{source.parent} is write-protected: {source.name} could not be deleted there")


def _check_same(source: Path, entries: list[Entry]) -> None:
    """Make sure that nothing changed since a scan."""
    now = scan(source)
    if changed := sorted({each.path for each in {*entries} ^ {*now}}):
        shown = ", ".join(changed[:ENOUGH]) + (", ..." if len(changed) > ENOUGH else "")
        raise BundleError(
            f"{source} was changed while it was moved ({shown}). Nothing was deleted; run the same command "
            "again when nothing writes there"
        )


def _told(faults: list[Fault]) -> str:
    shown = ", ".join(f"{path} {problem}" for path, problem in faults[:ENOUGH])
    return shown + (f" and {len(faults) - ENOUGH} more" if len(faults) > ENOUGH else "")


def _ignoring(path: Path) -> bytes:
    """A `.gitignore` as it is, and that git leaves the files of moves alone, wherever the bundle lies."""
    there = path.read_text().splitlines() if path.exists() else []
    return "".join(f"{line}\n" for line in dict.fromkeys([*there, *IGNORED])).encode()


def _refused(error: OSError, source: Path) -> BundleError:
    if is_full(error):
        return BundleError(
            f"{error.filename or 'the target'}: no room is left there. {source} is as it was; make room and "
            "run the same command again, it goes on where it was"
        )
    return BundleError(
        f"{error.filename or source}: {error.strerror}. Nothing was deleted that is not verified in its new "
        "place; put that right, or name another place, and run the same command again"
    )
