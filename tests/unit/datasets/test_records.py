"""Records: there wholly or not at all, whatever happened to their writer, and bounded in all."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from shared.datasets.records import SEAL, SPARE_BYTES, Records, make_room

SIZE = 24
STEP = SEAL + SIZE
WRITER = """
import sys
from pathlib import Path
from shared.datasets.records import Records

records = Records(Path(sys.argv[1]), 4096)
for index in range(10**9):
    records.write(index % 5000, (index % 5000).to_bytes(4, "little") * 1024)
    if index == 50:
        print("at work", flush=True)
"""


def content(index: int) -> bytes:
    return bytes((index * 7 + i) % 251 for i in range(SIZE))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.records"


def test_what_was_written_is_there_and_nothing_else_is(path: Path) -> None:
    ours, theirs = Records(path, SIZE), Records(path, SIZE)
    ours.write(5, content(5))
    ours.write(2, content(2))
    assert [index for index in range(9) if theirs.read(index) is not None] == [2, 5]
    assert theirs.read(5) == content(5)
    ours.close()
    theirs.close()


def test_a_record_of_zeros_is_told_from_none(path: Path) -> None:
    records = Records(path, SIZE)
    records.write(3, bytes(SIZE))
    assert [records.read(index) for index in range(4)] == [None, None, None, bytes(SIZE)]
    records.close()


def test_a_record_cut_short_or_damaged_at_any_byte_is_not_there(path: Path) -> None:
    records = Records(path, SIZE)
    records.write(0, content(0))
    whole = path.read_bytes()
    for place in range(STEP):
        path.write_bytes(whole[:place])
        assert records.read(0) is None
        path.write_bytes(whole[:place] + bytes(STEP - place))  # the rest is a hole
        assert records.read(0) is None
        path.write_bytes(bytes(place) + whole[place:] if place else whole)
        assert (records.read(0) is None) == (place > 0)
    records.close()


def test_a_record_does_not_count_in_another_place(path: Path) -> None:
    records = Records(path, SIZE)
    records.write(0, content(0))
    path.write_bytes(path.read_bytes() * 2)
    assert records.read(0) == content(0)
    assert records.read(1) is None
    records.close()


def test_writers_that_are_killed_leave_only_what_is_right(path: Path) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE) for _ in range(2)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"at work\n"
    for writer in writers:
        writer.kill()
        writer.communicate()
    records = Records(path, 4096)
    found = {index: record for index in range(5000) if (record := records.read(index)) is not None}
    assert len(found) >= 50
    assert all(record == index.to_bytes(4, "little") * 1024 for index, record in found.items())
    records.close()


# --- room -------------------------------------------------------------------------------------------------


def test_what_was_unused_for_longest_goes_first(tmp_path: Path) -> None:
    for age, name in enumerate("dcba"):
        (tmp_path / name).write_bytes(bytes(100))
        os.utime(tmp_path / name, (10**9 - age, 10**9 - age))
    Records(tmp_path / "a", SIZE).close()  # the oldest is used again
    limit = 200 + 2 * STEP
    assert make_room(tmp_path / "new", records=2, size=SIZE, limit_bytes=limit) is None
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a", "d"]
    assert make_room(tmp_path / "a", records=2, size=SIZE, limit_bytes=2 * STEP) is None
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a"]


def test_a_file_that_was_deleted_goes_on_for_who_has_it_open(path: Path) -> None:
    records = Records(path, SIZE)
    records.write(0, content(0))
    assert make_room(path.with_name("b"), records=1, size=SIZE, limit_bytes=STEP) is None
    assert not path.exists()
    records.write(1, content(1))
    assert [records.read(index) for index in range(2)] == [content(0), content(1)]
    records.close()


def test_more_than_is_allowed_finds_no_place_and_costs_nobody_theirs(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(bytes(100))
    problem = make_room(tmp_path / "new", records=10**9, size=SIZE, limit_bytes=10**9)
    assert problem == "it needs 32.0 GB, and 1.0 GB are allowed"
    assert (tmp_path / "old").exists()


class Usage(NamedTuple):
    free: int


def test_a_disk_without_room_is_left_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def problem(free: int) -> str | None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(free))
        return make_room(path, records=100, size=8192 - SEAL, limit_bytes=10**9)

    needed = 100 * 8192
    assert problem(SPARE_BYTES + needed) is None
    assert problem(SPARE_BYTES + needed - 1) == "it needs 0.0 GB and 1.1 GB to spare, and the disk has 1.1 GB"
    records = Records(path, 8192 - SEAL)
    records.write(0, bytes(8192 - SEAL))
    records.close()
    assert problem(SPARE_BYTES + needed - 8192) is None  # that much of the file is on the disk already
