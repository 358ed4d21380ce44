"""Downloads from a hub of our own: they go on after a cut, and nothing that is not right is put in place."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from huggingface_hub import constants

from shared.datasets.download import Fetched, download
from shared.datasets.hub import DATASETS, MODELS
from shared.datasets.mapping import open_frames
from shared.errors import DatasetError
from tests.unit.datasets.hub import Hub, serving

NAME = "zelda_frames.h5"


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The library writes 10 MB at once; the files of these tests are smaller."""
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)
    monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", str(tmp_path / "harnesses.json"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A frames file of 245 KB."""
    path = tmp_path_factory.mktemp("hub") / NAME
    with h5py.File(path, "w") as file:
        file["frames"] = np.random.default_rng(0).integers(0, 255, (20, 64, 64, 3), np.uint8)
    return path.read_bytes()


@pytest.fixture
def hub(content: bytes) -> Iterator[Hub]:
    files = {NAME: content, "sonic_frames.h5": content[::-1], "README.md": b"what there is\n"}
    with serving(Hub(files)) as running:
        yield running


def fetch(hub: Hub, into: Path, pattern: str = NAME, **options: Any) -> list[Fetched]:
    return download(DATASETS, pattern, into, endpoint=hub.url, **options)


def test_a_file_comes_whole_and_reads_as_a_dataset(hub: Hub, content: bytes, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    got = fetch(hub, tmp_path / "data", progress=lambda done, of: told.append((done, of)))
    path = tmp_path / "data" / NAME
    assert got == [Fetched(path, len(content), len(content))]
    assert path.read_bytes() == content
    with open_frames(path) as frames:
        assert frames.shape == (20, 64, 64, 3)
    assert [each.name for each in path.parent.iterdir()] == [NAME]
    assert told[-1] == (len(content), len(content))
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_a_transfer_that_is_cut_goes_on_within_the_call(hub: Hub, content: bytes, tmp_path: Path) -> None:
    hub.cut_after = [100_000]
    fetch(hub, tmp_path)
    assert hub.asked == [(NAME, None), (NAME, "bytes=100000-")]
    assert (tmp_path / NAME).read_bytes() == content


def begun(content: bytes, into: Path, length: int) -> Path:
    part = into / f".{NAME}.{hashlib.sha256(content).hexdigest()[:12]}.part"
    part.write_bytes(content[:length])
    return part


def test_a_transfer_that_ended_with_its_process_goes_on_in_the_next(
    hub: Hub, content: bytes, tmp_path: Path
) -> None:
    def interrupt(done: int, _: int) -> None:
        if done >= 50_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(hub, tmp_path, progress=interrupt)
    assert not (tmp_path / NAME).exists()
    (got,) = fetch(hub, tmp_path)
    assert hub.asked == [(NAME, None), (NAME, "bytes=50000-")]
    assert got.transferred_bytes == len(content) - 50_000
    assert got.path.read_bytes() == content
    assert [each.name for each in tmp_path.iterdir()] == [NAME]


def test_a_hub_that_sends_all_again_is_put_up_with(hub: Hub, content: bytes, tmp_path: Path) -> None:
    begun(content, tmp_path, 70_000)
    hub.ranges = False
    fetch(hub, tmp_path)
    assert (tmp_path / NAME).read_bytes() == content


def test_a_part_of_another_version_is_not_gone_on_with(hub: Hub, content: bytes, tmp_path: Path) -> None:
    other = tmp_path / f".{NAME}.0123456789ab.part"
    other.write_bytes(b"old")
    fetch(hub, tmp_path)
    assert hub.asked == [(NAME, None)]


def test_a_broken_part_is_thrown_away_and_the_next_call_succeeds(
    hub: Hub, content: bytes, tmp_path: Path
) -> None:
    part = begun(content, tmp_path, 1000)
    part.write_bytes(bytes(1000))
    with pytest.raises(DatasetError, match=r"zelda_frames\.h5: what came has another checksum"):
        fetch(hub, tmp_path)
    assert list(tmp_path.iterdir()) == []
    fetch(hub, tmp_path)
    assert (tmp_path / NAME).read_bytes() == content


def test_a_longer_part_than_the_file_begins_anew(hub: Hub, content: bytes, tmp_path: Path) -> None:
    begun(content, tmp_path, len(content)).write_bytes(content + b"more")
    fetch(hub, tmp_path)
    assert hub.asked == [(NAME, None)]


def test_another_checksum_than_stated_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.stated[NAME] = {"lfs": {"sha256": "0" * 64, "size": len(hub.files[NAME]), "pointerSize": 130}}
    with pytest.raises(DatasetError, match="another checksum than dataset AlmondGod/tinyworlds states"):
        fetch(hub, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_another_size_than_stated_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.stated[NAME] = {"size": len(hub.files[NAME]) + 5}
    with pytest.raises(DatasetError, match=r"sent another size than .* are kept: run the same"):
        fetch(hub, tmp_path)
    assert not (tmp_path / NAME).exists()


def test_what_came_whole_but_is_no_frames_file_is_refused(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"sonic_frames\.h5: came whole .* is no frames file"):
        fetch(hub, tmp_path, "sonic*")
    assert list(tmp_path.iterdir()) == []


def test_a_pattern_that_matches_nothing_says_what_there_is(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(
        DatasetError,
        match=r"^mario\*: matches no file of dataset .* It has: README\.md, sonic_frames\.h5, zelda",
    ):
        fetch(hub, tmp_path, "mario*")


def test_a_file_that_is_gone_since_it_was_listed_is_an_error(hub: Hub, tmp_path: Path) -> None:
    hub.file_status = 404
    with pytest.raises(DatasetError, match=r"zelda_frames\.h5: was listed, but is not there"):
        fetch(hub, tmp_path)


def test_a_repository_that_the_hub_lacks_is_an_error(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="model AlmondGod/tinyworlds-models: not found at http://127"):
        download(MODELS, "*", tmp_path, endpoint=hub.url)


def test_a_hub_in_trouble_is_said_with_its_status(hub: Hub, tmp_path: Path) -> None:
    hub.listing_status = 503
    with pytest.raises(DatasetError, match="answered 503 Service Unavailable"):
        fetch(hub, tmp_path)


@pytest.mark.parametrize(
    "body", [b"<html>log in to the hotel's network</html>", b"[]", b'{"siblings": [{}]}']
)
def test_an_answer_that_is_no_hubs_is_an_error(hub: Hub, tmp_path: Path, body: bytes) -> None:
    hub.listing_body = body
    with pytest.raises(DatasetError, match="does not answer as a Hugging Face hub"):
        fetch(hub, tmp_path)


def test_no_network_is_an_error_with_its_cures(hub: Hub, tmp_path: Path) -> None:
    with serving(Hub({})) as gone:
        address = gone.url
    with pytest.raises(DatasetError, match=f"{address}: cannot be reached.*Is there a network.*HF_ENDPOINT"):
        download(DATASETS, NAME, tmp_path, endpoint=address)


def test_a_hub_that_always_breaks_off_leaves_what_came(
    hub: Hub, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    hub.cut_after = [30_000] + [0] * 9
    with pytest.raises(DatasetError, match=r"broke off .*0\.0 MB of 0\.2 MB are kept: run the same command"):
        fetch(hub, tmp_path)
    hub.cut_after = []
    (got,) = fetch(hub, tmp_path)
    assert got.transferred_bytes == len(content) - 30_000


def test_the_network_can_be_forbidden(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DatasetError, match="HF_HUB_OFFLINE forbids the network"):
        fetch(hub, tmp_path)


def test_a_file_that_is_there_is_not_fetched_again(hub: Hub, content: bytes, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(content)
    (got,) = fetch(hub, tmp_path)
    assert (got.transferred_bytes, hub.asked) == (0, [])


def test_another_file_of_that_name_is_kept_unless_asked(hub: Hub, content: bytes, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"mine")
    with pytest.raises(DatasetError, match="exists already, and is not what dataset"):
        fetch(hub, tmp_path)
    assert (tmp_path / NAME).read_bytes() == b"mine"
    fetch(hub, tmp_path, overwrite=True)
    assert (tmp_path / NAME).read_bytes() == content


def test_small_files_are_checked_by_their_blob_id(hub: Hub, tmp_path: Path) -> None:
    fetch(hub, tmp_path, "README.md")
    assert (tmp_path / "README.md").read_bytes() == b"what there is\n"
    hub.stated["README.md"] = {"blobId": "0" * 40}
    with pytest.raises(DatasetError, match="another checksum"):
        fetch(hub, tmp_path, "README.md", overwrite=True)


def test_models_keep_their_folders(content: bytes, tmp_path: Path) -> None:
    files = {"sonic/sonic_dynamics_step_1.pth": b"weights", "pong/x.pth": b"others"}
    with serving(Hub(files, repository="AlmondGod/tinyworlds-models")) as models:
        (got,) = download(MODELS, "sonic/*", tmp_path, endpoint=models.url)
    assert got.path == tmp_path / "sonic" / "sonic_dynamics_step_1.pth"
    assert got.path.read_bytes() == b"weights"


@pytest.mark.parametrize(
    "name",
    ["../../evil.h5", "/evil.h5", "a/../../evil.h5", "", ".", "a/", "a//b", "a\\b", "a\0b", "\x1b[31m"],
)
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    with (
        serving(Hub({name: b"x"})) as evil,
        pytest.raises(DatasetError, match="under a path that cannot be used"),
    ):
        fetch(evil, tmp_path / "data", "*")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "stated", [{"size": -1}, {"size": "12"}, {"size": None}, {"blobId": "../../evil"}, {"blobId": 5}]
)
def test_a_listing_that_makes_no_sense_is_refused(
    hub: Hub, tmp_path: Path, stated: dict[str, object]
) -> None:
    hub.stated["README.md"] = stated
    with pytest.raises(
        DatasetError, match=r"without size and checksum|does not answer as a Hugging Face hub"
    ):
        fetch(hub, tmp_path / "data", "README.md")
    assert list(tmp_path.iterdir()) == []


def test_no_more_is_kept_than_the_file_is_to_have(hub: Hub, content: bytes, tmp_path: Path) -> None:
    told: list[int] = []
    hub.surplus = 20 * len(content)
    with pytest.raises(DatasetError, match="sent another size than") as refused:
        fetch(hub, tmp_path, progress=lambda done, _: told.append(done))
    assert max(told) <= len(content)
    assert "are kept" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_a_refused_transfer_leaves_no_empty_file(hub: Hub, tmp_path: Path) -> None:
    hub.file_status = 500
    with pytest.raises(DatasetError, match="answered 500"):
        fetch(hub, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_file_is_a_file(hub: Hub, tmp_path: Path) -> None:
    hub.files["empty.txt"] = b""
    fetch(hub, tmp_path, "empty.txt")
    assert (tmp_path / "empty.txt").read_bytes() == b""


def test_a_name_too_long_for_the_disk_is_an_error(hub: Hub, tmp_path: Path) -> None:
    hub.files["l" * 300] = b"x"
    with pytest.raises(DatasetError, match="cannot be written"):
        fetch(hub, tmp_path, "lll*")


def test_a_full_disk_is_said_before_anything_comes(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(DatasetError, match=r"0\.2 MB are to come, and the disk has 0\.0 MB"):
        fetch(hub, tmp_path)


def test_a_place_that_cannot_be_written_is_an_error(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(DatasetError, match=r"zelda_frames\.h5: cannot be written"):
        fetch(hub, tmp_path / "data")


def test_without_huggingface_hub_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(DatasetError, match=r"pip install 'worldloop\[data\]'"):
        download(DATASETS, NAME, tmp_path)
