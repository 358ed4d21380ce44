"""Whether the three stages fit together: the architecture each was trained with, and on whose checkpoints."""

from __future__ import annotations

from pydantic import JsonValue

from services.reporter.core.markdown import shown, table
from services.reporter.core.material import Material
from services.reporter.core.story import Story
from shared.config import ALIGNED, ARCHITECTURE, BACKBONE
from shared.events import STAGES, Document, Stage


def alignment(story: Story, material: Material) -> list[str]:
    """The snapshot: each key in each stage and whether they agree; then what was trained on what."""
    parameters = {stage: _parameters(story, stage) for stage in STAGES}
    rows = []
    for key in (*ALIGNED, *BACKBONE):
        values = {stage: parameters[stage].get(key) for stage in STAGES if key in ARCHITECTURE[stage]}
        agree = "yes" if len({repr(value) for value in values.values()}) == 1 else "**no**"
        rows.append((f"`{key}`", *(shown(values.get(stage, "-")) for stage in STAGES), agree))
    differ = [str(row[0]) for row in rows if row[-1] != "yes"]
    verdict = f"**Not aligned: {', '.join(differ)}.**" if differ else "All stages agree on what they share."
    lines = [verdict, "", *table(("key", *STAGES, "agree"), rows)]
    untrained = [stage for stage in STAGES if not any(each.starts for each in story.of(stage))]
    if untrained:
        lines += ["", f"Not trained in this run, shown as configured: {', '.join(untrained)}."]
    return lines + _upstream(story, material)


def _parameters(story: Story, stage: Stage) -> Document:
    """What the stage was trained with; of one that was not trained here, what the configuration says."""
    plans = [attempt.starts[-1].plan for attempt in story.of(stage) if attempt.starts]
    configured: dict[str, JsonValue] = story.configuration.stage(stage).model_dump(mode="json")
    return configured | (plans[-1].parameters if plans else {})


def _upstream(story: Story, material: Material) -> list[str]:
    rows = []
    for stage in STAGES:
        plans = [attempt.starts[-1].plan for attempt in story.of(stage) if attempt.starts]
        for upstream, path in plans[-1].upstream.items() if plans else ():
            same = "yes" if path == story.selected.get(upstream) else "**no**"
            rows.append((stage, upstream, material.link(path), same))
    if not rows:
        return []
    return ["", *table(("stage", "was trained on", "checkpoint", "the one selected now"), rows)]
