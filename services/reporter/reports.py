"""Writing a report: reads what it needs, has `core` say it, puts it into `docs/action/`."""

from __future__ import annotations

from services.reporter.core.inference_report import inference_report
from services.reporter.core.lineage import lineage
from services.reporter.core.loop_report import loop_report
from services.reporter.core.story import Outcome, Story
from services.reporter.exports import gate_export
from services.reporter.plots import draw_losses
from shared.bundle import Bundle, write_atomic
from shared.errors import BundleError, WorldloopError
from shared.events import STAGES, Stage

NAMES = {"loop": "auto-training-loop-report", "inference": "train-to-inference-report"}
"""Kind -> file name, without the time stamp."""


def write_report(kind: str, bundle: Bundle, story: Story, outcome: Outcome) -> str:
    """Write a report of the run.

    Args:
        kind: See `NAMES`.
        bundle: Where the run's files are.
        story: The run.
        outcome: How it ended.

    Returns:
        The report's path, relative to the bundle.

    Raises:
        WorldloopError: There is no such kind.
        OSError: The disk refused.
    """
    if kind == "loop":
        text = loop_report(story, outcome, *_plots(bundle, story))
    elif kind == "inference":
        text = inference_report(story, outcome, _others(bundle, story))
    else:
        raise WorldloopError(
            f"{kind}: this reporter cannot write such a report; it writes {', '.join(NAMES)}"
        )
    path = bundle.reports / f"{_stem(kind, story)}.md"
    write_atomic(path, text)
    return bundle.relative(path)


def _stem(kind: str, story: Story) -> str:
    return f"{NAMES[kind]}-{story.stamp}"


def _plots(bundle: Bundle, story: Story) -> tuple[dict[Stage, str], dict[Stage, str]]:
    """Plots of the stages that were trained, and why others have none."""
    plots: dict[Stage, str] = {}
    problems: dict[Stage, str] = {}
    for stage in STAGES:
        attempts = list(story.of(stage))
        path = bundle.reports / "plots" / _stem("loop", story) / f"{stage}_loss.png"
        if not attempts:
            continue
        try:
            draw_losses(path, bundle, stage, attempts, lineage(attempts))
            plots[stage] = bundle.relative(path)
        except (BundleError, OSError) as error:
            problems[stage] = str(error)
    return plots, problems


def _others(bundle: Bundle, story: Story) -> dict[str, str]:
    loop = bundle.reports / f"{_stem('loop', story)}.md"
    trained = dict.fromkeys(gate.stage for gate in story.gates)
    files = {
        **({"training, gate by gate": loop} if loop.exists() else {}),
        "all events": bundle.events,
        "resolved configuration": bundle.config / "run.yaml",
        "policy": bundle.config / "policy.yaml",
        "where each value came from": bundle.config / "origins.yaml",
        **{f"history of {stage}": gate_export(bundle, story.run_id, stage) for stage in trained},
    }
    return {name: bundle.relative(path) for name, path in files.items()}
