"""Writing `wandb-analysis-*`: the report, its JSON and a picture for each stage."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from services.reporter.config import WandbSource
from services.reporter.core.wandb.history import StageHistory
from services.reporter.core.wandb.text import document, report, switched_off
from services.reporter.kinds import Request
from services.reporter.wandb import bundle as ours
from services.reporter.wandb.plots import draw_stage
from shared.bundle import write_atomic
from shared.events import Stage

NAME = "wandb-analysis"


def write_wandb(request: Request, source: WandbSource | None = None) -> str:
    """Write the W&B analysis of a run.

    Args:
        request: What is asked for.
        source: Where the history comes from, asked for by hand; none is what the run's policy says.

    Returns:
        The report's path, relative to the bundle.

    Raises:
        WorldloopError: `api_only` by hand, and W&B's API has no history.
        OSError: The disk refused.
    """
    title = f"{request.story.spec.run_name} (run {request.story.run_id})"
    path = request.path(NAME)
    if not request.policy.enable_wandb_analysis and source is None:
        write_atomic(path, switched_off(title))
        return request.bundle.relative(path)
    asked = source or request.policy.wandb_source
    by_hand = source is not None
    histories = ours.histories(request.bundle, request.story, asked, again=request.again, by_hand=by_hand)
    write_analysis(path, title, asked, histories, in_bundle=True)
    return request.bundle.relative(path)


def write_analysis(
    path: Path, title: str, asked: str, histories: Sequence[StageHistory], *, in_bundle: bool
) -> list[Path]:
    """Write the report, the JSON beside it, and the pictures below `plots/`; returns all, the report first.

    Args:
        path: The report's.
        title: Which run.
        asked: Which source was asked for.
        histories: One a stage.
        in_bundle: Whether their files are named relative to a bundle whose `docs/action/` this is.

    Raises:
        OSError: The disk refused.
    """
    pictures: dict[Stage, Path] = {}
    for history in histories:
        picture = path.parent / "plots" / path.stem / f"{history.stage}.png"
        draw_stage(picture, history)
        if picture.is_file():
            pictures[history.stage] = picture
    links = {stage: each.relative_to(path.parent).as_posix() for stage, each in pictures.items()}
    content = {"title": title, "asked": asked, "stages": document(histories), "plots": links}
    write_atomic(path.with_suffix(".json"), json.dumps(content, indent=2) + "\n")
    write_atomic(path, report(title, asked, histories, links, in_bundle=in_bundle))
    return [path, path.with_suffix(".json"), *pictures.values()]
