"""How far the visual verdict can be believed: false alarms and caught collapses over a labelled corpus.

Records fifteen games of ALE, trains a small model of each stage on each of them, draws sheets at several
training ages, degrades the oldest in every way of `tests/unit/monitor/visual_corpus.py`, and counts. That
takes about a quarter of an hour on one core; `--corpus` keeps recordings and sheets for the next time.

Last line: JSON with `false_alarm_rate` and `strong_caught_rate` on the held-out games, also per sheet kind.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

from services.trainer.worker.data import Data
from services.trainer.worker.tasks import DynamicsTask, LatentActionsTask, Task, TokenizerTask
from shared.config import StageConfig
from shared.datasets.frames import FramesDataset
from shared.datasets.recording import record
from shared.events import STAGES, Stage
from shared.sheets import Pixels, read_sheet, write_sheet
from shared.worldmodel.build import build_model
from shared.worldmodel.optim import make_optimizer
from shared.worldmodel.token_cache import TokenCache
from tests.unit.monitor.visual_corpus import HELD_OUT, TUNING, Case, collapsed, copies, masked

AGES: dict[int, dict[Stage, tuple[int, ...]]] = {
    64: {"video_tokenizer": (50, 100, 200), "latent_actions": (50, 100), "dynamics": (50,)},
    128: {"video_tokenizer": (100,), "latent_actions": (50,), "dynamics": (50,)},
}
"""Updates at which a sheet is drawn, by frame size."""
RATES: dict[Stage, float] = {"video_tokenizer": 3e-3, "latent_actions": 2e-3, "dynamics": 2e-3}
FRAMES = {64: 600, 128: 200}
LARGE = ("Skiing", "Enduro")
"""Games that are also recorded at 128 pixels: one for tuning, one held out."""
WINDOW = 4


def main() -> None:
    """Make the corpus, count, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, help="keep recordings and sheets here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.corpus or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        found = {}
        for half, games in (("tuning", TUNING), ("held out", HELD_OUT)):
            found[half] = _count(half, (case for game in games for case in _healthy(game, folder)))
    print(json.dumps(found["held out"]))


def _healthy(game: str, folder: Path) -> Iterator[tuple[Case, bool]]:
    """The sheets of a game, and whether each is one to be degraded: real frames, and the oldest of a kind."""
    for size, stages in AGES.items():
        if size > 64 and game not in LARGE:
            continue
        recording = _recording(game, size, folder)
        for case in copies(game, _shown(recording)):
            yield case, "soft" not in case.name
        for stage, ages in stages.items():
            paths = [folder / f"{game}_{size}_{stage}_{age}.png" for age in ages]
            if not paths[-1].exists():
                _train(game, size, recording, folder)
            sheets = [read_sheet(path) for path in paths]
            cases = [
                Case(path.stem, stage, sheet.originals, sheet.generated)
                for path, sheet in zip(paths, sheets, strict=True)
            ]
            oldest = max((case for case in cases if case.honest), key=cases.index, default=None)
            for case in cases:
                yield case, case is oldest
            if (
                stage == "video_tokenizer" and oldest is not None
            ):  # what TinyWorlds' dynamics sheets look like
                hidden = masked(oldest.originals, last_only=False, share=0.7, grey=131)
                yield Case(f"{oldest.name}, all masked", "dynamics", hidden, oldest.generated), True


def _recording(game: str, size: int, folder: Path) -> FramesDataset:
    path = folder / f"{game}_{size}.h5"
    if not path.exists():
        record(f"ALE/{game}-v5", path, frames=FRAMES[size], size=size, seed=0)
    return FramesDataset.open(path, context_length=WINDOW, fps=60, cache_dir=folder)


def _shown(recording: FramesDataset) -> Pixels:
    """Four windows from all over the recording, [4, WINDOW, H, W, 3]."""
    return recording.batch(np.linspace(0, recording.train_windows - 1, 4).round().astype(np.int64))


def _train(game: str, size: int, recording: FramesDataset, folder: Path) -> None:
    """All three stages, one after the other, and their sheets into the folder."""
    config = StageConfig.model_validate(
        {
            "frame_size": size,
            "patch_size": size // 8,
            "context_length": WINDOW,
            "latent_dim": 5,
            "num_bins": 4,
            "n_actions": 4,
            "embed_dim": 64,
            "num_heads": 4,
            "hidden_dim": 128,
            "num_blocks": 2,
        }
    )
    data = Data(recording, torch.device("cpu"), folder, print)
    tokenizer = build_model("video_tokenizer", config)
    latent_actions = build_model("latent_actions", config)
    tokens = TokenCache(recording, tokenizer, latent_actions, folder=folder, limit_gb=0, report=print)
    tasks: dict[Stage, Task] = {
        "video_tokenizer": TokenizerTask(tokenizer, data),
        "latent_actions": LatentActionsTask(latent_actions, data),
        "dynamics": DynamicsTask(build_model("dynamics", config), tokenizer, latent_actions, tokens),
    }
    random = np.random.default_rng(0)
    shown = torch.from_numpy(_shown(recording))
    for stage, task in tasks.items():
        ages = AGES[size][stage]
        optimizer = make_optimizer(task.model, config.model_copy(update={"learning_rate": RATES[stage]}))
        generator = torch.Generator().manual_seed(0)
        for update in range(1, ages[-1] + 1):
            windows = random.integers(0, recording.train_windows, 8 if stage == "dynamics" else 4)
            with torch.no_grad():
                inputs = task.inputs(windows, generator)
            task.model(*inputs.positional, **inputs.named).loss.backward()
            torch.nn.utils.clip_grad_norm_(task.model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if update in ages:
                task.model.eval()
                with torch.no_grad():
                    originals, generated = task.sheet(shown)
                task.model.train()
                write_sheet(folder / f"{game}_{size}_{stage}_{update}.png", originals, generated)
        task.model.eval().requires_grad_(False)  # noqa: FBT003 - torch's signature
        print(f"  {game} at {size}: {stage} trained", flush=True)


def _count(half: str, cases: Iterable[tuple[Case, bool]]) -> dict[str, object]:
    """Print a half's table and return its rates."""
    healthy, alarms = Counter[str](), Counter[str]()
    given, caught = Counter[str](), Counter[str]()
    unlike, unlike_caught, seconds = 0, 0, []
    print(f"\n{half}")
    for case, oldest in cases:
        begun = time.process_time()
        good, text = case.verdict()
        seconds.append(time.process_time() - begun)
        if not case.honest:
            unlike, unlike_caught = unlike + 1, unlike_caught + (not good)
            print(f"  no picture yet, or no more: {case.name}: {'passed' if good else text}")
            continue
        healthy[case.stage] += 1
        alarms[case.stage] += not good
        if not good:
            print(f"  false alarm: {case.name} ({case.stage}): {text}")
        for bad in collapsed(case) if oldest else ():
            passed, _ = bad.verdict()
            key = f"{bad.degradation}|{bad.strength}"
            for group in (key, f"{bad.stage}|{bad.strength}", f"all|{bad.strength}"):
                given[group] += 1
                caught[group] += not passed
            if passed and bad.strength == "strong":
                print(f"  missed: {bad.name}, {bad.degradation} ({bad.stage})")
    print(f"\n  {'degradation':<40}{'weak':>10}{'medium':>10}{'strong':>10}")
    for name in sorted({key.rpartition("|")[0] for key in given}):
        row = [f"{name}|{strength}" for strength in ("weak", "medium", "strong")]
        print(f"  {name:<40}" + "".join(f"{_share(caught[key], given[key]):>10}" for key in row))
    rates = {
        "false_alarm_rate": sum(alarms.values()) / max(sum(healthy.values()), 1),
        "strong_caught_rate": caught["all|strong"] / max(given["all|strong"], 1),
        "healthy": sum(healthy.values()),
        "strong": given["all|strong"],
        "no_picture": unlike,
        "no_picture_caught": unlike_caught,
        "sheet_ms_median": 1e3 * float(np.median(seconds)),
        "kinds": {
            stage: {
                "false_alarm_rate": alarms[stage] / max(healthy[stage], 1),
                "strong_caught_rate": caught[f"{stage}|strong"] / max(given[f"{stage}|strong"], 1),
            }
            for stage in STAGES
        },
    }
    print(f"  {rates}")
    return rates


def _share(part: int, whole: int) -> str:
    return f"{part}/{whole}" if whole else "-"


if __name__ == "__main__":
    main()
