"""Checkpoints that torch reads without a complaint and nobody should use: refused before they cost much."""

from __future__ import annotations

import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from shared.config import StageConfig
from shared.errors import CheckpointError
from shared.worldmodel.build import check_resumable, config_of, model_of
from shared.worldmodel.checkpoints import FILES, load_checkpoint
from shared.worldmodel.safe_load import load_file
from shared.worldmodel.single_file import read_single_file
from tests.fuzz import memory
from tests.fuzz.subjects import CHECKPOINT, UNSAID

MODEL, OPTIMIZER, STATE = FILES
Change = Callable[[dict[str, Any]], object]


def doubled(levels: int = 60) -> dict[str, Any]:
    """Values made of each other: 2^levels of them, in a few hundred bytes."""
    found: dict[str, Any] = {"x": 1}
    for _ in range(levels):
        found = {"a": found, "b": found}
    return found


def with_tensor(make: Callable[[], torch.Tensor]) -> Change:
    return lambda content: content.update({next(iter(content)): make()})


def config(**changes: Any) -> Change:
    return lambda state: state["config"].update(changes)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(CHECKPOINT, tmp_path / CHECKPOINT.name))


def changed(directory: Path, file: str, change: Change) -> Path:
    content = load_file(directory / file)
    change(content)
    torch.save(content, directory / file)
    return directory


WRONG: dict[str, tuple[str, Change, str]] = {
    "values of values": (STATE, lambda state: state.update(z=doubled()), "more than 200000 values"),
    "a tensor that is only declared": (
        MODEL,
        with_tensor(lambda: torch.zeros(1).expand(10**6, 10**6)),
        "8 times its size",
    ),
    "a tensor without data": (MODEL, with_tensor(lambda: torch.empty(4, device="meta")), "no plain array"),
    "a sparse tensor": (MODEL, with_tensor(lambda: torch.zeros(9, 9).to_sparse()), "no plain array"),
    "numbers of eight bits": (
        OPTIMIZER,
        lambda state: state.update(z=torch.ones(4).to(torch.float8_e4m3fn)),
        "no plain array",
    ),
    "a step of thirty digits": (STATE, lambda state: state.update(step=10**30), "has no step"),
    "a schedule that is none": (STATE, lambda state: state.update(scheduler_state_dict=[1]), "is no dict"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_checkpoint_that_is_none_of_a_training_is_refused(name: str, copy: Path) -> None:
    file, change, why = WRONG[name]
    changed(copy, file, change)
    with memory.bounded(), pytest.raises(CheckpointError, match=why):
        load_checkpoint(copy)


@pytest.mark.parametrize(
    "change",
    [
        config(embed_dim=10**6, hidden_dim=10**6),
        config(num_blocks=10**8),
        config(frame_size=2**20),
        config(n_actions=2**60),
    ],
)
def test_a_config_does_not_make_a_model_that_its_weights_are_not_of(change: Change, copy: Path) -> None:
    checkpoint = load_checkpoint(changed(copy, STATE, change))
    with memory.bounded(), pytest.raises(CheckpointError):
        model_of(checkpoint)


@pytest.mark.parametrize(
    "beyond", [{"latent_dim": 10**9, "num_bins": 10**9}, {"frame_size": 2**20}, {"n_actions": 2**60}]
)
def test_a_configuration_has_sizes_that_a_model_can_have(beyond: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"patches a side|codes|less than or equal"):
        StageConfig(**beyond)


@pytest.mark.parametrize(
    "change",
    [
        lambda saved: saved.update(param_groups=5),
        lambda saved: saved["param_groups"].__setitem__(0, "abc"),
        lambda saved: saved["param_groups"][0].update(params=7),
        lambda saved: saved.update(state={0: {"exp_avg": torch.ones(3)}}),
        lambda saved: saved.update(state={10**9: {}}),
        lambda saved: saved.update(state="abc"),
    ],
)
def test_an_optimizer_state_that_does_not_fit_is_said_not_to(change: Change, copy: Path) -> None:
    checkpoint = load_checkpoint(copy)
    config = config_of(checkpoint)
    check_resumable(checkpoint, config)
    damaged = load_checkpoint(changed(copy, OPTIMIZER, change))
    with pytest.raises(CheckpointError, match="does not fit"):
        check_resumable(damaged, config)


def rewritten(path: Path, content: Callable[[str, bytes], bytes], kind: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {each: archive.read(each) for each in archive.namelist()}
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, held in members.items():
            archive.writestr(name, content(name, held))


def test_a_small_file_that_unpacks_to_a_large_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / MODEL
    torch.save({"weight": torch.zeros(10**7)}, path)
    rewritten(path, lambda _, held: held, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10**6
    with pytest.raises(CheckpointError, match="larger than it is"):
        load_file(path)


TWICE = b"".join(b"h" + bytes([at]) + b"\x86q" + bytes([at + 1]) for at in range(60))
NEVER_HASHED = b"\x80\x02}K\x01\x85q\x00" + TWICE + b"K\x05s."
"""The pickle of a dict whose key is a tuple of one tuple twice, and so on."""


def test_tuples_of_tuples_are_refused_before_they_are_hashed(tmp_path: Path) -> None:
    path = tmp_path / STATE
    torch.save({"step": 1}, path)
    rewritten(path, lambda name, held: NEVER_HASHED if name.endswith("data.pkl") else held)
    with pytest.raises(CheckpointError, match="would never end"):
        load_file(path)


def test_a_zip_behind_an_old_file_hides_nothing(tmp_path: Path) -> None:
    path = tmp_path / STATE
    torch.save(5, path, _use_new_zipfile_serialization=False)
    pickled = pickle.dumps(5, 2)
    with path.open("r+b") as stream:  # the content is the fourth of the pickles, after three of torch's own
        head, _, rest = stream.read().rpartition(pickled + pickle.dumps([], 2))
        assert head
        assert not rest
        stream.seek(len(head))
        stream.write(NEVER_HASHED + pickle.dumps([], 2))
        with zipfile.ZipFile(stream, "a") as archive:
            archive.writestr("archive/version", b"3")
    assert zipfile.is_zipfile(path)
    with pytest.raises(CheckpointError, match="would never end"):
        load_file(path)


def test_a_zip_with_two_lists_of_members_is_refused(tmp_path: Path) -> None:
    """Python takes the list before the end, torch the one that the end names."""
    shown, read = tmp_path / MODEL, tmp_path / STATE
    harmless = b"\x80\x02}." + bytes(
        len(NEVER_HASHED) - 4
    )  # as long, so that both lists say the same offsets
    for path, pickled in ((shown, harmless), (read, NEVER_HASHED)):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickled)
    end = read.read_bytes().rindex(b"PK\x05\x06")
    shown.write_bytes(read.read_bytes()[:end] + shown.read_bytes())
    with zipfile.ZipFile(shown) as archive:
        assert archive.read("archive/data.pkl") == harmless
    with pytest.raises(CheckpointError, match="not where its end is"):
        load_file(shown)


def test_an_old_file_that_is_no_zip_is_still_read(tmp_path: Path) -> None:
    path = tmp_path / MODEL
    torch.save({"weight": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    assert load_file(path)["weight"].tolist() == [1, 1, 1]


@pytest.mark.parametrize(("key", "value"), [("optimizer", "abc"), ("scheduler", 5), ("step", 10**30)])
def test_a_single_file_with_a_value_of_the_wrong_kind_is_refused(
    key: str, value: Any, tmp_path: Path
) -> None:
    state = load_file(CHECKPOINT / STATE)
    whole = {"model": load_file(CHECKPOINT / MODEL), "config": state["config"], "step": 1}
    path = tmp_path / "pong.pth"
    torch.save(whole | {key: value}, path)
    with pytest.raises(CheckpointError, match=r"is no dict|does not say its step"):
        read_single_file(path, UNSAID)
