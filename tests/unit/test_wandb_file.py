"""`.wandb` files as two lines of wandb write them, and what damage does to them."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from wandb.proto import wandb_internal_pb2 as wandb

from shared import wandb_file, wandb_rows
from shared.errors import BundleError
from shared.wandb_file import BLOCK, LAST, WandbFile, ended, wait_until_settled
from shared.wandb_rows import FIELDS, Heads, Odd, body, cut_row
from tests.unit import wandb_log
from tests.unit.wandb_log import HEADER, fragment, log_of

FIXTURES = Path(__file__).parents[1] / "fixtures" / "wandb"
LINES = ("0.19", "0.31")
LONG = "x" * 100_000
"""A record over several blocks."""


@pytest.fixture(params=LINES)
def written(request: pytest.FixtureRequest) -> bytes:
    """The fixture's run, as one line of wandb wrote it."""
    return (FIXTURES / f"wandb_{request.param}.wandb").read_bytes()


def read(path: Path, content: bytes) -> tuple[list[dict[str, Any]], WandbFile]:
    path.write_bytes(content)
    file = WandbFile(path)
    return list(file.rows()), file


def by_messages(content: bytes, monkeypatch: pytest.MonkeyPatch, path: Path) -> list[dict[str, Any]]:
    with monkeypatch.context() as patched:
        patched.setattr(wandb_file, "cut_row", refuse)
        return read(path, content)[0]


def comparable(rows: list[dict[str, Any]]) -> list[str]:
    """NaN is like NaN, 1 unlike 1.0, and the order within a row does not matter."""
    return [str(sorted(row.items())) for row in rows]


def refuse(history: bytes, heads: Heads) -> dict[str, Any]:
    raise Odd


def test_rows_names_and_configuration_come_back_as_logged(tmp_path: Path, written: bytes) -> None:
    rows, file = read(tmp_path / "run.wandb", written)
    assert [row["_step"] for row in rows] == list(range(100, 162))
    row = rows[30]
    assert (row["_step"], row["nested.a.b"], row["x.y"]) == (130, 130, 0.25)
    assert (row["train/loss"], row["learning_rate/group_0"], row["shift"]) == (7.0 / 31, 1e-05, -2)
    assert [type(row[name]) for name in ("unique_actions", "shift", "action_entropy")] == [int, int, float]
    assert math.isnan(rows[5]["train/loss"])
    assert rows[10]["text"] == 'é "quoted" ' + "x" * 200
    assert (rows[11]["none"], rows[11]["flag"]) == (None, True)
    assert (file.name, file.finished, file.damage) == ("dynamics_pong", True, None)
    assert (file.config["n_updates"], file.config["nested"], file.config["late"]) == (200, {"lr": 0.5}, 7)
    assert file.run_id


def test_rows_cut_out_of_the_bytes_are_those_of_the_messages(
    tmp_path: Path, written: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, _ = read(tmp_path / "run.wandb", written)
    assert comparable(rows) == comparable(by_messages(written, monkeypatch, tmp_path / "other.wandb"))


def test_only_a_row_with_a_long_text_or_the_bytes_of_a_tag_needs_a_message(
    tmp_path: Path, written: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed: list[Any] = []
    make = wandb_file._Messages.record

    def record(messages: Any, data: bytes) -> Any:
        needed.append(make(messages, data))
        return needed[-1]

    monkeypatch.setattr(wandb_file._Messages, "record", record)
    read(tmp_path / "run.wandb", written)
    kinds = [message.WhichOneof("record_type") for message in needed]
    rows = [message.history.step.num for message in needed if message.HasField("history")]
    assert rows == [110, 130]
    assert "summary" not in kinds


def test_the_numbers_of_the_fields_are_those_of_the_installed_wandb() -> None:
    for (message, field), number in FIELDS.items():
        assert getattr(wandb, message).DESCRIPTOR.fields_by_name[field].number == number


def test_a_wandb_with_other_numbers_is_read_by_its_messages(
    tmp_path: Path, written: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = read(tmp_path / "run.wandb", written)
    monkeypatch.setattr(wandb_file, "FIELDS", FIELDS | {("HistoryItem", "value_json"): 17})
    monkeypatch.setattr(wandb_file, "cut_row", None)
    assert str(read(tmp_path / "run.wandb", written)[0][7]["_step"]) == str(expected[7]["_step"])


def test_only_the_columns_that_are_asked_for_are_decoded(tmp_path: Path, written: bytes) -> None:
    path = tmp_path / "run.wandb"
    path.write_bytes(written)
    rows = list(WandbFile(path).rows({"train/loss"}))
    assert rows[0] == {"_step": 100, "train/loss": 7.0}
    assert rows[10] == {"_step": 110, "train/loss": 7.0 / 11}  # read from its message
    assert list(WandbFile(path).rows(set())) == [{"_step": step} for step in range(100, 162)]


def test_a_record_over_several_blocks_comes_back_whole(tmp_path: Path) -> None:
    records = [wandb_log.history(step, step, {"text": LONG, "a": step / 8}) for step in range(1, 5)]
    rows, file = read(tmp_path / "run.wandb", log_of(records))
    assert [(row["_step"], row["text"] == LONG, row["a"]) for row in rows] == [
        (step, True, step / 8) for step in range(1, 5)
    ]
    assert file.damage is None


# --- rows in another form than usual ----------------------------------------------------------------------


def item(text: str, *names: str, key: str = "") -> Any:
    return wandb.HistoryItem(key=key, nested_key=names, value_json=text)


def record(*items: Any, step: int = 3) -> bytes:
    history = wandb.HistoryRecord(item=items, step=wandb.HistoryStep(num=step))
    return bytes(wandb.Record(num=9, history=history).SerializeToString())


NUMBER = item("1.5", "loss")
ODD: dict[str, tuple[bytes, dict[str, Any]]] = {
    "a key of its own field": (record(item("2", key="a/b"), NUMBER), {"a/b": 2, "loss": 1.5}),
    "an object as value": (record(item('{"a": {"b": 1}, "c": [2]}', "x")), {"x.a.b": 1, "x.c": [2]}),
    "a text with the bytes of a value's tag in UTF-8": (record(item('"Ă\u0082"', "x")), {"x": "Ă\u0082"}),
    "a name with the bytes of a value's tag": (record(item("1", "Â\u0082\x01z")), {"Â\u0082\x01z": 1}),
    "a step with the bytes of a value's tag": (record(NUMBER, step=130), {"_step": 130, "loss": 1.5}),
    "a large step": (record(NUMBER, step=2**62), {"_step": 2**62, "loss": 1.5}),
    "a negative step": (record(NUMBER, step=-1), {"_step": -1, "loss": 1.5}),
    "a step of its own among the items": (
        record(item("7", "_step"), NUMBER, step=300),
        {"_step": 7, "loss": 1.5},
    ),
    "no step": (
        bytes(wandb.Record(history=wandb.HistoryRecord(item=[NUMBER])).SerializeToString()),
        {"_step": 0, "loss": 1.5},
    ),
    "no number": (record(NUMBER)[2:], {"loss": 1.5}),
    "no items": (record(), {}),
    "an unknown field in the record": (record(NUMBER) + b"\xca\x3e\x03abc", {"loss": 1.5}),
    "an unknown field in the history": (
        b"\x08\x09\x12\x10" + NUMBER.SerializeToString().join((b"\x0a\x0c", b"\x1a\x00")),
        {"_step": 0, "loss": 1.5},
    ),
    "an unknown field after the value": (
        b"\x08\x09\x12\x11\x0a\x0f" + NUMBER.SerializeToString() + b"\x9a\x01\x00",
        {"_step": 0, "loss": 1.5},
    ),
    "an unknown field before the value": (
        b"\x08\x09\x12\x11\x0a\x0f\x9a\x01\x00" + NUMBER.SerializeToString(),
        {"_step": 0, "loss": 1.5},
    ),
    "two values": (
        b"\x08\x09\x12\x14\x0a\x12" + NUMBER.SerializeToString() + b"\x82\x01\x032.5",
        {"_step": 0, "loss": 2.5},
    ),
    "a name twice": (record(NUMBER, item("2.5", "loss")), {"loss": 2.5}),
    "an empty name": (record(item("2.5", "")), {"": 2.5}),
    "numbers of all kinds": (
        record(*(item(text, text) for text in ("-7", "1e-05", "-2.5E+3", "NaN", "-Infinity", "true"))),
        {"-7": -7, "1e-05": 1e-05, "-2.5E+3": -2500.0, "NaN": math.nan, "-Infinity": -math.inf, "true": True},
    ),
}


@pytest.mark.parametrize("what", ODD)
def test_a_row_with(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, values = ODD[what]
    content = log_of([record(NUMBER), data, wandb_log.finish(10)])
    rows, file = read(tmp_path / "run.wandb", content)
    assert str(sorted(rows[1].items())) == str(sorted(({"_step": 3} | values).items()))
    assert comparable(rows) == comparable(by_messages(content, monkeypatch, tmp_path / "other.wandb"))
    assert (len(rows), file.finished, file.damage) == (2, True, None)


def test_a_history_of_the_first_lines_with_its_key_is_read_as_one_of_today() -> None:
    data = record(item("2", key="a/b"), NUMBER)
    assert cut_row(data[body(data)[1] :], Heads(None)) == {"_step": 3, "a/b": 2, "loss": 1.5}


def test_any_bytes_are_a_row_the_messages_agree_with_or_none() -> None:
    """Every byte of a history changed: what is cut out is what the message says, or nothing is."""
    data = record(NUMBER, item("7", "n", "m"), item('"t"', "text"), step=300)
    begin, odd, same = body(data)[1], 0, 0
    for place in range(begin, len(data)):
        for change in (1, 2, 8, 0x80, 0xFF):
            broken = bytearray(data)
            broken[place] ^= change
            try:
                found = cut_row(bytes(broken[begin:]), Heads(None))
            except (Odd, ValueError):
                odd += 1
                continue
            same += 1
            message = wandb.Record.FromString(bytes(broken))
            try:
                expected = wandb_file._row(message.history, None)
            except ValueError:  # "1_5" is a number for Python
                continue
            assert str(sorted(found.items())) == str(sorted(expected.items())), (place, change)
    assert odd > 50
    assert same > 30


# --- files that are not whole -----------------------------------------------------------------------------


def test_cut_off_at_any_byte_of_its_last_block_the_rows_before_come_back_and_the_damage_is_told(
    tmp_path: Path, written: bytes
) -> None:
    whole, _ = read(tmp_path / "run.wandb", written)
    known, clean = 0, -1
    assert 2 * BLOCK > len(written) > BLOCK
    for length in range(BLOCK - 9, len(written)):
        rows, file = read(tmp_path / "cut.wandb", written[:length])
        assert comparable(rows[-1:]) == comparable(whole[len(rows) - 1 : len(rows)])
        assert len(rows) >= known
        known = len(rows)
        assert not file.finished or length > len(written) - 100
        if length % 50 == 0 or length > len(written) - 200:
            assert ended(file.path) == file.finished
        if file.damage is None:
            assert length > clean + 1  # exactly between two records: nothing tells it from a run that goes on
            clean = length
        else:
            assert "ends inside" in file.damage
    assert known == len(whole)
    assert clean > BLOCK


def test_cut_off_inside_its_header_or_its_first_records(tmp_path: Path, written: bytes) -> None:
    for length in range(400):
        rows, file = read(tmp_path / "cut.wandb", written[:length])
        assert (rows, file.finished, ended(file.path)) == ([], False, False)
        assert (file.damage is None) == (length in ends(written))


def ends(content: bytes) -> set[int]:
    """Where the records of the first block end."""
    found, at = {len(HEADER)}, len(HEADER)
    while at + 7 < BLOCK:
        at += 7 + int.from_bytes(content[at + 4 : at + 6], "little")
        found.add(at)
    return found


def test_a_file_that_is_being_written_shows_what_is_there_so_far(tmp_path: Path, written: bytes) -> None:
    path, seen = tmp_path / "run.wandb", []
    with path.open("wb") as stream:
        for begin in range(0, len(written), 5000):
            stream.write(written[begin : begin + 5000])
            stream.flush()
            seen.append(len(list(WandbFile(path).rows())))
    assert seen == sorted(seen)
    assert 0 < seen[2] < seen[-1] == 62


def test_a_file_that_grows_while_its_rows_are_taken_is_read_on(tmp_path: Path, written: bytes) -> None:
    whole, _ = read(tmp_path / "run.wandb", written)
    for so_far in sorted(ends(written))[9::25]:
        path = tmp_path / "growing.wandb"
        path.write_bytes(written[:so_far])
        file = WandbFile(path)
        rows: list[dict[str, Any]] = []
        for row in file.rows():
            if not rows:
                with path.open("ab") as stream:
                    stream.write(written[so_far:])
            rows.append(row)
        assert (comparable(rows), file.damage, file.finished) == (comparable(whole), None, True)


def test_a_file_that_is_read_again_when_it_is_whole_is_not_damaged(tmp_path: Path, written: bytes) -> None:
    _, file = read(tmp_path / "run.wandb", written[:-3])
    assert "ends inside" in str(file.damage)
    file.path.write_bytes(written)
    assert len(list(file.rows())) == 62
    assert str(file.damage) == "None"


def test_a_flipped_bit_ends_the_rows_and_is_reported_as_a_wrong_checksum(
    tmp_path: Path, written: bytes
) -> None:
    for place in (len(written) // 8, len(written) // 2, len(written) - 100):
        broken = bytearray(written)
        broken[place] ^= 4
        rows, file = read(tmp_path / "run.wandb", bytes(broken))
        assert [row["_step"] for row in rows] == list(range(100, 100 + len(rows)))
        assert file.damage is not None
        assert "checksum" in file.damage or "begins no record" in file.damage or "claims" in file.damage
        assert not file.finished
    assert len(rows) > 50


def test_a_tail_of_zeros_is_damage_not_rows(tmp_path: Path, written: bytes) -> None:
    rows, file = read(tmp_path / "run.wandb", written + bytes(5000))
    assert len(rows) == 62
    assert file.damage is not None
    assert "type 0" in file.damage


def test_a_block_with_room_for_one_header_ends_in_a_fragment_without_data(tmp_path: Path) -> None:
    filler = fragment(1, b"\x08\x81\x00" + b"\x08\x01" * 16372)
    assert len(HEADER + filler) == BLOCK - 7
    rows, file = read(tmp_path / "run.wandb", HEADER + filler + fragment(2, b"") + fragment(4, record()))
    assert (rows, file.damage) == ([{"_step": 3}], None)


def test_a_file_that_ends_with_a_block_inside_a_record_is_damage(tmp_path: Path) -> None:
    start = fragment(1, record())
    content = HEADER + start + fragment(2, bytes(BLOCK - len(HEADER) - len(start) - 7))
    assert len(content) == BLOCK
    rows, file = read(tmp_path / "run.wandb", content)
    assert rows == [{"_step": 3}]
    assert file.damage == f"the file ends inside the record at byte {len(HEADER) + len(start)}"


def test_fragments_in_the_wrong_order_are_damage(tmp_path: Path) -> None:
    for content in (fragment(3, b"middle"), fragment(2, b"first") + fragment(1, b"full")):
        rows, file = read(tmp_path / "run.wandb", HEADER + content)
        assert rows == []
        assert "does not go on" in str(file.damage)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff",
        b"\x08",
        b"\x08\x01\x12",
        b"\x08\x01\x12\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x08" + b"\xff" * 40,
        b"\x08\x01\x12\x05\x0a\xff\xff\xff\x7f",
        b"\x08\x01\x12\x04\x0a\x7f\x12\x01",
    ],
)
def test_bytes_that_are_no_record_whatever_lengths_they_claim_are_damage(tmp_path: Path, data: bytes) -> None:
    rows, file = read(tmp_path / "run.wandb", log_of([record(), data, record()]))
    assert rows == [{"_step": 3}]
    assert "no record of wandb's" in str(file.damage)


def test_a_length_beyond_the_block_is_damage_before_anything_is_read(tmp_path: Path) -> None:
    content = log_of([record(), record()]) + b"\0\0\0\0\xff\xff\1"
    rows, file = read(tmp_path / "run.wandb", content + bytes(BLOCK - len(content)))
    assert len(rows) == 2
    assert "claims 65535 bytes, more than its block has" in str(file.damage)


@pytest.mark.parametrize("text", ["what", "1.2.3", "[" * 50_000, "9" * 5000, "", "\ufeff1", "1\0"])
def test_a_value_that_is_no_json_is_damage(tmp_path: Path, text: str) -> None:
    rows, file = read(tmp_path / "run.wandb", log_of([record(), record(item(text, "train/loss"))]))
    assert rows == [{"_step": 3}]
    assert "no JSON" in str(file.damage)


def test_a_text_that_is_no_utf_8_is_damage(tmp_path: Path) -> None:
    data = record(item('"abc"', "train/text")).replace(b"abc", b"\xed\xa0\x80")
    rows, file = read(tmp_path / "run.wandb", log_of([record(), data]))
    assert (rows, file.damage is None) == ([{"_step": 3}], False)


def test_a_wrong_magic_or_version_is_an_error_that_names_the_file(tmp_path: Path, written: bytes) -> None:
    path = tmp_path / "run.wandb"
    for content, message in ((b"PK\3\4" + written[4:], "no .wandb file"), (b"x", "no .wandb file")):
        with pytest.raises(BundleError, match=message) as caught:
            read(path, content)
        assert str(path) in str(caught.value)
    with pytest.raises(BundleError, match=r"version 9.*only 0 is known"):
        read(path, written[:6] + b"\x09" + written[7:])
    for function in (lambda path: list(WandbFile(path).rows()), ended, wait_until_settled):
        with pytest.raises(BundleError, match="cannot be read"):
            function(tmp_path / "nowhere.wandb")


# --- the last rows ----------------------------------------------------------------------------------------


def test_the_end_of_a_run_is_seen_in_the_last_blocks_of_a_large_file(tmp_path: Path) -> None:
    path = tmp_path / "run.wandb"
    rows = [wandb_log.history(step, step, {"text": LONG}) for step in range(1, 8)]
    for records, expected in (([*rows, wandb_log.finish(9)], True), (rows, False)):
        path.write_bytes(log_of(records))
        assert ended(path) == expected
    path.write_bytes(log_of([*rows, wandb_log.finish(9) + b"\xca\x3e\x03abc"]))
    assert ended(path)


def test_the_end_of_a_run_is_seen_where_it_lies_across_two_blocks(tmp_path: Path) -> None:
    path, rows = tmp_path / "run.wandb", [wandb_log.history(1, 1, {"text": LONG})]
    part = log_of([*rows, wandb_log.history(1, 1, {"text": "x" * 20_000})])
    missing = BLOCK - 10 - len(part) % BLOCK
    rows.append(wandb_log.history(1, 1, {"text": "x" * (20_000 + missing)}))
    assert len(log_of(rows)) % BLOCK == BLOCK - 10
    content = log_of([*rows, wandb_log.finish(9)])
    assert content[len(content) // BLOCK * BLOCK + 6] == LAST
    path.write_bytes(content)
    assert ended(path)


@pytest.fixture
def late(tmp_path: Path) -> Iterator[tuple[Path, threading.Event]]:
    """A file whose last rows come only when they are let."""
    path, let = tmp_path / "run.wandb", threading.Event()
    content = (FIXTURES / "wandb_0.31.wandb").read_bytes()
    path.write_bytes(content[:30_000])

    def write() -> None:
        let.wait()
        with path.open("ab") as stream:
            stream.write(content[30_000:])

    writer = threading.Thread(target=write)
    writer.start()
    yield path, let
    let.set()
    writer.join()


def test_the_rows_that_wandb_writes_after_finish_are_waited_for(
    late: tuple[Path, threading.Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, let = late
    monkeypatch.setattr(wandb_file.time, "sleep", lambda seconds: let.set())
    assert wait_until_settled(path, quiet_sec=60, limit_sec=60)
    assert len(list(WandbFile(path).rows())) == 62


def test_a_killed_run_is_settled_when_nothing_was_written_for_a_while(
    late: tuple[Path, threading.Event],
) -> None:
    path, _ = late
    assert not wait_until_settled(path, quiet_sec=0.05, limit_sec=60)
    assert not wait_until_settled(path, quiet_sec=60, limit_sec=0.05)


def test_the_constants_of_the_wire_format_follow_from_the_numbers() -> None:
    number = FIELDS["HistoryItem", "value_json"]
    assert bytes([(number << 3 | wandb_rows.BYTES) & 0x7F | 0x80, number >> 4]) == wandb_rows.VALUE_TAG
    for tag, (field, wire) in {
        wandb_rows.NUM_TAG: (FIELDS["Record", "num"], 0),
        wandb_rows.ITEM_TAG: (FIELDS["HistoryRecord", "item"], 2),
        wandb_rows.STEP_TAG: (FIELDS["HistoryRecord", "step"], 2),
        wandb_rows.STEP_NUM_TAG: (FIELDS["HistoryStep", "num"], 0),
        wandb_rows.KEY_TAG: (FIELDS["HistoryItem", "key"], 2),
        wandb_rows.NESTED_TAG: (FIELDS["HistoryItem", "nested_key"], 2),
    }.items():
        assert tag == field << 3 | wire
