"""`.wandb` files as wandb writes them, and what damage does to them."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest

from shared.errors import BundleError
from shared.wandb_file import BLOCK, WandbFile

LONG = "x" * 100_000
"""A record over several blocks."""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A run that wandb wrote offline: 300 rows with nested and non-finite values."""
    import wandb

    settings = wandb.Settings(
        silent=True, console="off", disable_git=True, save_code=False, x_disable_stats=True
    )
    root = tmp_path_factory.mktemp("wandb")
    run = wandb.init(dir=root, name="pong/dynamics", mode="offline", config={"rate": 0.5}, settings=settings)
    run.config.update({"late": 7})
    directory = Path(run.dir).parent
    for step in range(300):
        loss = float("nan") if step == 5 else 1.0 / (step + 1)
        extra = {"text": LONG} if step == 150 else {}
        run.log({"train/loss": loss, "nested": {"a": {"b": step}}, **extra}, step=step)
    run.finish()
    wandb.teardown()  # its process writes the last rows only now
    return next(directory.glob("*.wandb")).read_bytes()


def read(path: Path, content: bytes) -> tuple[list[dict[str, object]], WandbFile]:
    path.write_bytes(content)
    file = WandbFile(path)
    return list(file.rows()), file


def test_rows_names_and_configuration_come_back_as_logged(tmp_path: Path, written: bytes) -> None:
    rows, file = read(tmp_path / "run.wandb", written)
    assert [row["_step"] for row in rows] == list(range(300))
    assert rows[9]["train/loss"] == pytest.approx(0.1)
    assert rows[9]["nested.a.b"] == 9
    assert rows[150]["text"] == LONG
    assert str(rows[5]["train/loss"]).lower() == "nan"
    assert (file.name, file.finished, file.damage) == ("pong/dynamics", True, None)
    assert (file.config["rate"], file.config["late"]) == (0.5, 7)
    assert file.run_id


def test_only_the_columns_that_are_asked_for_are_decoded(tmp_path: Path, written: bytes) -> None:
    path = tmp_path / "run.wandb"
    path.write_bytes(written)
    assert next(WandbFile(path).rows({"train/loss"})) == {"_step": 0, "train/loss": 1.0}


def test_cut_off_at_any_byte_the_rows_before_come_back_and_the_damage_is_told(
    tmp_path: Path, written: bytes
) -> None:
    whole, _ = read(tmp_path / "run.wandb", written)
    edges = {BLOCK + change for change in range(-9, 10)} | {2 * BLOCK + change for change in range(-9, 10)}
    lengths = sorted({*range(120), *edges, *range(120, len(written), 1009), len(written) - 1})
    known, clean = 0, -1
    for length in lengths:
        rows, file = read(tmp_path / "cut.wandb", written[:length])
        assert str(rows) == str(whole[: len(rows)])
        assert len(rows) >= known
        known = len(rows)
        assert not (file.finished and file.damage is None)
        if file.damage is None:
            assert length > clean + 1  # exactly between two records: nothing tells it from a run that goes on
            clean = length
        else:
            assert "ends inside" in file.damage
    assert known == 300
    assert clean > 0


def test_a_flipped_bit_ends_the_rows_and_is_reported_as_a_wrong_checksum(
    tmp_path: Path, written: bytes
) -> None:
    broken = bytearray(written)
    broken[len(written) // 8] ^= 4
    rows, file = read(tmp_path / "run.wandb", bytes(broken))
    assert 0 < len(rows) < 300
    assert [row["_step"] for row in rows] == list(range(len(rows)))
    assert file.damage is not None
    assert "checksum" in file.damage or "begins no record" in file.damage


def test_a_tail_of_zeros_is_damage_not_rows(tmp_path: Path, written: bytes) -> None:
    rows, file = read(tmp_path / "run.wandb", written + bytes(5000))
    assert len(rows) == 300
    assert file.damage is not None
    assert "type 0" in file.damage


HEADER = struct.pack("<4sHB", b":W&B", 0xBEE1, 0)


def fragment(kind: int, data: bytes) -> bytes:
    return struct.pack("<IHB", zlib.crc32(data, zlib.crc32(bytes([kind]))), len(data), kind) + data


def row(step: int) -> bytes:
    from wandb.proto import wandb_internal_pb2

    record = wandb_internal_pb2.Record()
    record.history.step.num = step
    return record.SerializeToString()


def test_a_block_with_room_for_one_header_ends_in_a_fragment_without_data(tmp_path: Path) -> None:
    filler = fragment(1, b"\x08\x81\x00" + b"\x08\x01" * 16372)
    assert len(HEADER + filler) == BLOCK - 7
    rows, file = read(tmp_path / "run.wandb", HEADER + filler + fragment(2, b"") + fragment(4, row(3)))
    assert (rows, file.damage) == ([{"_step": 3}], None)


def test_a_file_that_ends_with_a_block_inside_a_record_is_damage(tmp_path: Path) -> None:
    start = fragment(1, row(1))
    content = HEADER + start + fragment(2, bytes(BLOCK - len(HEADER) - len(start) - 7))
    assert len(content) == BLOCK
    rows, file = read(tmp_path / "run.wandb", content)
    assert rows == [{"_step": 1}]
    assert file.damage == f"the file ends inside the record at byte {len(HEADER) + len(start)}"


def test_fragments_in_the_wrong_order_are_damage(tmp_path: Path) -> None:
    for content in (fragment(3, b"middle"), fragment(2, b"first") + fragment(1, b"full")):
        rows, file = read(tmp_path / "run.wandb", HEADER + content)
        assert rows == []
        assert "does not go on" in str(file.damage)
    rows, file = read(tmp_path / "run.wandb", HEADER + fragment(1, b"\xff\xff\xff"))
    assert "no record of wandb's" in str(file.damage)


def test_a_value_that_is_no_json_is_damage(tmp_path: Path) -> None:
    from wandb.proto import wandb_internal_pb2

    record = wandb_internal_pb2.Record()
    record.history.item.add(key="train/loss", value_json="what")
    content = HEADER + fragment(1, row(3)) + fragment(1, record.SerializeToString())
    rows, file = read(tmp_path / "run.wandb", content)
    assert rows == [{"_step": 3}]
    assert "no JSON" in str(file.damage)


def test_a_wrong_magic_or_version_is_an_error_that_names_the_file(tmp_path: Path, written: bytes) -> None:
    path = tmp_path / "run.wandb"
    for content, message in ((b"PK\3\4" + written[4:], "no .wandb file"), (b"x", "no .wandb file")):
        with pytest.raises(BundleError, match=message) as caught:
            read(path, content)
        assert str(path) in str(caught.value)
    with pytest.raises(BundleError, match=r"version 9.*only 0 is known"):
        read(path, written[:6] + b"\x09" + written[7:])
    with pytest.raises(BundleError, match="cannot be read"):
        list(WandbFile(tmp_path / "nowhere.wandb").rows())
