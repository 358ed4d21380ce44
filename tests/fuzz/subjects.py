"""Everything that reads a file from outside, each with a valid example to be damaged.

A subject's reader may return anything or raise its refusal; nothing else.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import av
import h5py
import numpy as np
import torch

from services.bundles.core import manifest
from services.commands.configuration.files import file_settings
from services.diagnosis import histories
from services.keys import certificates, seeds
from services.keys.certificates import Certificate
from services.reporter import notify_file
from shared.bus.identity import Identity
from shared.bus.journal import last_event, read_journal, to_line
from shared.bus.protocol import Recorded
from shared.datasets.frames import FramesDataset
from shared.datasets.ingest import ingest
from shared.datasets.inspection import inspect
from shared.errors import WorldloopError
from shared.events import Message, RunFinished, RunPaused, RunResumed
from shared.history_export import csv_rows
from shared.sheets import read_sheet, write_sheet
from shared.wandb_file import WandbFile, ended
from shared.worldmodel.checkpoints import FILES, load_checkpoint
from shared.worldmodel.safe_load import load_file
from shared.worldmodel.single_file import read_single_file

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "tests" / "fixtures"
(CHECKPOINT,) = (FIXTURES / "golden" / "tinyworlds_run" / "results").glob("*/latent_actions/checkpoints/*_59")
UNSAID = {"frame_size": 64, "context_length": 4}
RUN = "20260101_000000"
EVENTS: tuple[Message, ...] = (
    RunPaused(run_id=RUN, reason="asked for", by="operator", ordinal=1),
    RunResumed(run_id=RUN, reason="asked for", by="operator", ordinal=1),
    RunFinished(run_id=RUN, status="stopped", degraded=False, reason="asked for"),
)


@dataclass(frozen=True)
class Subject:
    """A reader, and how to make the file it reads.

    Attributes:
        name: The file's name; a reader may go by its suffix.
        make: Writes a valid file there.
        read: Reads a file as the product does.
        refusal: What it may raise.
        tolerant: It reads whatever it is given, as far as it goes.
        in_process: Whether a damaged file can at worst make Python raise; C libraries may do worse.
    """

    name: str
    make: Callable[[Path], None]
    read: Callable[[Path], object]
    refusal: type[Exception] = WorldloopError
    tolerant: bool = False
    in_process: bool = True


def copy_of(source: Path) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        shutil.copyfile(source, path)

    return make


def journal(path: Path) -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    lines = (to_line(Recorded(at, noon, "gatekeeper", event)) for at, event in enumerate(EVENTS, start=1))
    path.write_text("".join(f"{line}\n" for line in lines))


def read_events(path: Path) -> None:
    last_event(path)
    read_journal(path)


def configs(path: Path) -> None:
    shutil.copyfile(ROOT / "configs" / "policy.yaml", path)


def read_configs(path: Path) -> object:
    """As one of a directory of configuration files, the others being good."""
    directory = path.parent / "configs"
    if not directory.is_dir():
        shutil.copytree(ROOT / "configs", directory)
    shutil.copyfile(path, directory / "policy.yaml")
    return file_settings(directory)


def notify(path: Path) -> None:
    path.write_text("urls:\n  team: json://127.0.0.1:9/told\ntell: [failed, passed]\n")


def bundle_manifest(path: Path) -> None:
    path.write_bytes(manifest.to_bytes(manifest.Manifest({"a b": "0" * 64, "c\n": "1" * 64}, {"d": "a b"})))


def key(path: Path) -> None:
    path.write_text(seeds.new_seed() + "\n")


def certificate(path: Path) -> None:
    path.write_bytes(certificates.new_authority(datetime(2026, 1, 1, tzinfo=UTC))[0])


def sheet(path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 4, 8, 8, 3), dtype=np.uint8)
    write_sheet(path, frames, frames)


def read_wandb(path: Path) -> None:
    ended(path)
    deque(WandbFile(path).rows(), maxlen=0)
    histories.read(path)


def recording(path: Path) -> None:
    """Forty chunked and compressed frames with actions."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        frames = rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
        file.create_dataset("frames", data=frames, chunks=(10, 8, 8, 3), compression="gzip")
        file.create_dataset("actions", data=rng.integers(0, 4, 40))
        file.attrs["fps"] = 15.0


def plain_recording(path: Path) -> None:
    """Forty frames in one piece, which is mapped into memory as it lies."""
    with h5py.File(path, "w") as file:
        frames = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
        file.create_dataset("frames", data=frames)


def read_recording(path: Path) -> None:
    cache = path.parent / "cache"
    inspect(path)
    dataset = FramesDataset.open(path, context_length=4, fps=60, held_out_ratio=0.1, cache_dir=cache)
    dataset.batch([0, dataset.train_windows - 1])


def video(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for shade in range(20):
            picture = np.full((32, 32, 3), 10 * shade, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())


def read_video(path: Path) -> None:
    target = path.parent / "pong_frames.h5"
    target.unlink(missing_ok=True)
    ingest(path, target, size=16)


def checkpoint_file(file: str) -> Callable[[Path], None]:
    """A file of a checkpoint of TinyWorlds', which has no checksums."""
    return copy_of(CHECKPOINT / file)


def read_checkpoint(path: Path) -> None:
    """With the other files of the checkpoint as they were."""
    directory = path.parent / CHECKPOINT.name
    directory.mkdir(exist_ok=True)
    for file in FILES:
        shutil.copyfile(path if file == path.name else CHECKPOINT / file, directory / file)
    load_checkpoint(directory)


def single_file(path: Path) -> None:
    whole = {
        key: load_file(CHECKPOINT / file) for key, file in zip(("model", "optimizer"), FILES, strict=False)
    }
    state = load_file(CHECKPOINT / "state.pt")
    torch.save(whole | {"config": state["config"], "step": state["step"]}, path)


HISTORY = FIXTURES / "histories" / "first_dynamics.csv"
SUBJECTS: Mapping[str, Subject] = {
    "events of a bundle": Subject("events.jsonl", journal, read_events),
    "policy": Subject("policy.yaml", configs, read_configs),
    "notification file": Subject("notify.yaml", notify, notify_file.read),
    "manifest of a bundle": Subject(
        "m.txt", bundle_manifest, lambda path: manifest.parse(path.read_bytes()), refusal=ValueError
    ),
    "key of a user": Subject("operator.nk", key, lambda path: Identity.read(path, None)),
    "certificate": Subject("server.pem", certificate, Certificate.read),
    "certificates of whom to trust": Subject("ca.pem", certificate, lambda path: Identity.read(None, path)),
    "history in CSV": Subject("dynamics_history.csv", copy_of(HISTORY), histories.read),
    "export of a history": Subject(
        "x.csv", copy_of(HISTORY), lambda path: deque(csv_rows(path), maxlen=0), tolerant=True
    ),
    "W&B of 0.19": Subject("a.wandb", copy_of(FIXTURES / "wandb" / "wandb_0.19.wandb"), read_wandb),
    "W&B of 0.31": Subject("b.wandb", copy_of(FIXTURES / "wandb" / "wandb_0.31.wandb"), read_wandb),
    "sheet": Subject("dynamics_prediction_step_4.png", sheet, read_sheet),
    "weights": Subject(FILES[0], checkpoint_file(FILES[0]), read_checkpoint, in_process=False),
    "state of a checkpoint": Subject(FILES[2], checkpoint_file(FILES[2]), read_checkpoint, in_process=False),
    "checkpoint in one file": Subject(
        "pong.pth", single_file, lambda path: read_single_file(path, UNSAID), in_process=False
    ),
    "recording": Subject("pong_frames.h5", recording, read_recording, in_process=False),
    "recording in one piece": Subject("pong_frames.h5", plain_recording, read_recording, in_process=False),
    "video": Subject("video.mp4", video, read_video, in_process=False),
}
