"""Stand-in checkouts: small repositories that behave as TinyWorlds does, made where a test wants one.

Their scripts are real, run by real `python` and `torchrun`, and write real checkpoints, sheets and W&B files
within seconds. How they fail is asked for by environment variables; see `tinyworlds/utils/stage.py`.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Literal

from shared.events import STAGES

HERE = Path(__file__).parent / "tinyworlds"
FRAMES = Path(__file__).parents[1] / "fixtures" / "pong_frames.h5"
CLASSES = {
    "video_tokenizer": "VideoTokenizerConfig",
    "latent_actions": "LatentActionsConfig",
    "dynamics": "DynamicsConfig",
}

Way = Literal["absolute", "relative", "absolute_unseen", "relative_unseen"]
"""How scripts count; of an unseen one the source does not tell."""
STEPS: dict[Way, str] = {
    "absolute": "range(stage.resumed + 1, args.n_updates)",
    "relative": "range(args.n_updates)",
    "absolute_unseen": "steps_of(stage.resumed + 1, args)",
    "relative_unseen": "steps_of(0, args)",
}
SCRIPT = '''\
"""Trains {stage}."""

from utils.config import {schema}, load_stage_config_merged
from utils.stage import Stage


def steps_of(first, args):
    return range(first, args.n_updates)


def main():
    args = load_stage_config_merged({schema}, "configs/{stage}.yaml")
    stage = Stage("{stage}", args)
{begin}    for i in stage.bar({steps}):
        stage.begin_update()
        for micro_batch in range(args.gradient_accumulation_steps):
            loss = stage.forward()
            loss /= args.gradient_accumulation_steps
            loss.backward()
        stage.end_update(loss)
        stage.log({{"train/loss": loss.item()}}, i)
        if i % args.log_interval == 0:
            stage.save(i)
            stage.draw(i)
{end}    stage.finish()


if __name__ == "__main__":
    main()
'''
BEGIN = "    stage.restore_optimizer()\n"
END = """\
    if stage.made and (args.n_updates - 1) % args.log_interval:
        stage.save(args.n_updates - 1)
"""


def build(root: Path, way: Way) -> Path:
    """Make a checkout.

    Args:
        root: Its directory; there is nothing yet.
        way: How its scripts count.
    """
    shutil.copytree(HERE, root, ignore=shutil.ignore_patterns("__pycache__", "run_inference.py"))
    (root / "scripts").mkdir()
    shutil.copy(HERE / "run_inference.py", root / "scripts")
    for stage in STAGES:
        absolute = way.startswith("absolute")
        text = SCRIPT.format(
            stage=stage,
            schema=CLASSES[stage],
            steps=STEPS[way],
            begin=BEGIN if absolute and stage != "latent_actions" else "",
            end=END if absolute else "",
        )
        (root / "scripts" / f"train_{stage}.py").write_text(text)
    (root / "data").mkdir()
    (root / "data" / FRAMES.name).symlink_to(FRAMES)
    return root


def digest(root: Path) -> dict[str, str]:
    """Every file and directory below a place, with what is in it."""
    return {
        path.relative_to(root).as_posix(): (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "a directory"
        )
        for path in sorted(root.rglob("*"))
    }
