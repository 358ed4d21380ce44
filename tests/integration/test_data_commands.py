"""`worldloop data` as people run it: what comes on stdout, what on stderr, and how much memory it takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.unit.datasets.hub import Hub, serving
from tests.unit.datasets.videos import level, made

ROOT = Path(__file__).parents[2]


def run(where: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`worldloop data ...`, away from a terminal and from this machine's settings."""
    settings = {"PYTHONPATH": str(ROOT), "HF_HOME": str(where / "hf"), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "services.cli", "data", *arguments],
        cwd=where,
        env={**os.environ, **settings, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def said(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The one object on stdout, of a command that had nothing else to say."""
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def test_a_video_becomes_a_data_set_that_can_be_inspected(tmp_path: Path) -> None:
    made(tmp_path / "play.mkv", 120)
    found = said(run(tmp_path, "ingest", "play.mkv", "--game", "Zelda", "--fps", "15", "--json"))
    assert (found["path"], found["frames"], found["size"]) == ("data/zelda_frames.h5", 60, 128)
    with h5py.File(tmp_path / "data" / "zelda_frames.h5") as file:
        assert file["frames"][:, 0, 0, 0].tolist() == [level(i) for i in range(0, 120, 2)]
    about = said(run(tmp_path, "inspect", "data/zelda_frames.h5", "--json"))
    assert about["frame_rate"]["advice"] == 60
    assert about["sheet"] == "data/zelda_frames_sheet.png"
    assert (tmp_path / about["sheet"]).read_bytes().startswith(b"\x89PNG")


def test_a_game_is_named_by_letters_wherever_its_name_points(tmp_path: Path) -> None:
    made(tmp_path / "play.mkv", 5)
    found = said(run(tmp_path, "ingest", "play.mkv", "--game", "../Zelda v1.2", "--json"))
    assert found["path"] == "data/zelda_v1_2_frames.h5"
    nameless = run(tmp_path, "ingest", "play.mkv", "--game", "..")
    assert (nameless.returncode, nameless.stdout) == (2, "")
    assert nameless.stderr.startswith("worldloop: --game '..': names the file")


def test_a_watched_bar_shows_names_as_they_are(tmp_path: Path) -> None:
    done = run(tmp_path, "ingest", "play [x] [1080p].mkv", "--game", "pong", FORCE_COLOR="1")
    assert "reading play [x] [1080p].mkv" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_damaged_video_is_said_on_stderr(tmp_path: Path) -> None:
    video = made(tmp_path / "play.mkv", 120)
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    done = run(tmp_path, "ingest", "play.mkv", "--game", "pong", "--json")
    assert done.returncode == 0
    assert "worldloop: play.mkv: it is cut short: 4.0 s are declared" in done.stderr
    assert json.loads(done.stdout)["damage"]


def test_a_game_is_recorded_with_the_size_of_its_name(tmp_path: Path) -> None:
    options = ("--frames", "20", "--policy", "random", "--out", "data/sonic_frames.h5", "--json")
    found = said(run(tmp_path, "record", "--env", "ALE/Pong-v5", *options))
    assert (found["size"], found["frames"], found["actions"]) == (128, 20, 6)
    assert sorted(each.name for each in tmp_path.rglob("*.*")) == ["sonic_frames.h5"]


def test_files_come_from_the_hub_that_the_environment_names(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "made.h5", "w") as file:
        file["frames"] = np.zeros((3, 64, 64, 3), np.uint8)
    content = (tmp_path / "made.h5").read_bytes()
    with serving(Hub({"zelda_frames.h5": content})) as hub:
        options = ("download", "--pattern", "zelda_frames.h5", "--json")
        found = said(run(tmp_path, *options, HF_ENDPOINT=hub.url))
        assert found["files"][0]["transferred_bytes"] == len(content)
        assert (tmp_path / "data" / "zelda_frames.h5").read_bytes() == content
        nothing = run(tmp_path, "download", "--pattern", "mario.h5", HF_ENDPOINT=hub.url)
    assert (nothing.returncode, nothing.stdout) == (2, "")
    assert nothing.stderr.startswith("worldloop: mario.h5: matches no file of dataset AlmondGod/tinyworlds.")
    assert "Traceback" not in nothing.stderr


MEMORY = """
import sys
from pathlib import Path
from shared.datasets.ingest import ingest

def held(*_):
    global most
    lines = Path("/proc/self/status").read_text().splitlines()
    most = max(most, next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")))

most, calls = 0, 0
def told(*_):
    global calls
    calls += 1
    if calls % 100 == 0:
        held()

summary = ingest(Path(sys.argv[1]), Path(sys.argv[2]), size=64, progress=told)
held()
print(summary.frames, most)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_memory_does_not_grow_with_the_video(tmp_path: Path) -> None:
    peaks = []
    for count in (1_000, 12_000):
        video = made(tmp_path / f"{count}.mp4", count, codec="mpeg4", size=(32, 32), gop=250)
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, video, tmp_path / f"{count}.h5"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        frames, kilobytes = map(int, done.stdout.split())
        assert frames == count
        peaks.append(kilobytes)
    assert peaks[1] - peaks[0] < 12_000  # all 11,000 frames more would take 135,000 KB
