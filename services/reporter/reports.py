"""Writing reports: reads what they need, has `core` say it, puts them into `docs/action/`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import get_args

import structlog

from services.reporter.core.inference_report import inference_report
from services.reporter.core.lineage import lineage
from services.reporter.core.loop_report import loop_report
from services.reporter.core.material import Material
from services.reporter.core.retrospective import retrospective
from services.reporter.core.story import Outcome, Story
from services.reporter.exports import gate_export, write_gate_export
from services.reporter.git_evidence import write_git
from services.reporter.kinds import Kind, Request, Writer
from services.reporter.places import Places
from services.reporter.plots.inference import draw_frames
from services.reporter.plots.training import draw_actions, draw_losses
from services.reporter.wandb_analysis import write_wandb
from shared.bundle import Bundle, write_atomic
from shared.errors import BundleError, WorldloopError
from shared.events import STAGES, Stage

LOOP, RETROSPECTIVE, INFERENCE = (
    "auto-training-loop-report",
    "train-to-inference-retrospective",
    "train-to-inference-report",
)
TITLES: dict[Kind, str] = {
    "loop": "training, gate by gate",
    "git": "git evidence",
    "wandb": "W&B analysis",
    "retrospective": "retrospective",
    "inference": "from training to inference",
}

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Written:
    """A report that was asked for."""

    kind: str
    path: str | None
    """Relative to the bundle; none if it could not be written."""
    error: str | None = None


def write_reports(
    bundle: Bundle,
    story: Story,
    outcome: Outcome,
    kinds: Collection[str],
    *,
    known: Mapping[str, str] = MappingProxyType({}),
    again: bool = False,
) -> Iterator[Written]:
    """Write reports of a run, one by one, in the order in which they link each other.

    One that fails is said to have failed, and costs no other.

    Args:
        bundle: Where the run's files are.
        story: The run.
        outcome: How it ended, or where it is.
        kinds: Which ones.
        known: Reports of this outcome that are there: kind -> path, for links.
        again: Only from the bundle, see `Request`.
    """
    written: dict[Kind, str] = {}
    problems: dict[Kind, str] = {}
    for kind, writer in WRITERS.items():
        if kind in kinds:
            found = _write(
                kind, writer, Request(bundle, story, outcome, dict(written), dict(problems), again)
            )
            if found.path is not None:
                written[kind] = found.path
            else:
                problems[kind] = found.error or "no reason given"
            yield found
        elif kind in known:
            written[kind] = known[kind]
    for unknown in [kind for kind in kinds if kind not in WRITERS]:
        yield Written(unknown, None, f"{unknown}: no such report; there are {', '.join(WRITERS)}")


def required(story: Story) -> list[str]:
    """The kinds that the run's own policy requires; one that trains nothing needs no loop report."""
    policy = story.spec.policy.get("gatekeeper", {})
    named = policy.get("required_reports") if isinstance(policy, dict) else None
    kinds = [str(kind) for kind in named] if isinstance(named, list) else list(get_args(Kind))
    return [kind for kind in kinds if kind != "loop" or story.spec.stages]


def _write(kind: str, writer: Writer, request: Request) -> Written:
    try:
        return Written(kind, writer(request))
    except (WorldloopError, OSError) as problem:
        return Written(kind, None, str(problem))
    except Exception as problem:
        log.exception("a report could not be written", report=kind)
        return Written(kind, None, f"{type(problem).__name__}: {problem}")


def write_loop(request: Request) -> str:
    """Write the report on training, with its plots."""
    story, bundle = request.story, request.bundle
    plots, folder = _Plots(bundle), request.plots(LOOP)
    for stage in STAGES:
        attempts = list(story.of(stage))
        if attempts:
            loss = partial(draw_losses, bundle=bundle, stage=stage, attempts=attempts)
            plots.draw(folder / f"{stage}_loss.png", loss)
        if attempts and stage == "latent_actions":
            actions = partial(draw_actions, bundle=bundle, stage=stage, attempts=attempts)
            plots.draw(folder / f"{stage}_actions.png", actions)
    return _put(request, LOOP, loop_report(story, request.outcome, _material(request, plots)))


def write_retrospective(request: Request) -> str:
    """Write what is to be learned from the run."""
    text = retrospective(request.story, request.outcome, _material(request, _Plots(request.bundle)))
    return _put(request, RETROSPECTIVE, text)


def write_inference(request: Request) -> str:
    """Write the report from checkpoints to the inference gate, with its plots; it links to all others."""
    story, plots = request.story, _Plots(request.bundle)
    limit = story.configuration.inference.max_mse
    for done in story.inferences:
        if done.ok:
            path = request.plots(INFERENCE) / f"inference_{done.inference_try}.png"
            plots.draw(path, partial(draw_frames, done=done, max_mse=limit))
    return _put(request, INFERENCE, inference_report(story, request.outcome, _material(request, plots)))


WRITERS: Mapping[Kind, Writer] = {
    "loop": write_loop,
    "git": write_git,
    "wandb": write_wandb,
    "retrospective": write_retrospective,
    "inference": write_inference,
}
"""In the order of writing."""


class _Plots:
    """Plots that were drawn, and why others were not."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self.drawn: dict[str, str] = {}
        self.problems: dict[str, str] = {}

    def draw(self, path: Path, make: Callable[[Path], list[str]]) -> None:
        """Draw one; the name of the file is that of the plot."""
        try:
            missing = make(path)
            self.drawn[path.stem] = self._bundle.relative(path)
            if missing:
                self.problems[path.stem] = "; ".join(missing)
        except (BundleError, OSError) as error:
            self.problems[path.stem] = str(error)


def _put(request: Request, name: str, text: str) -> str:
    path = request.path(name)
    write_atomic(path, text)
    return request.bundle.relative(path)


def _material(request: Request, plots: _Plots) -> Material:
    places = Places(request.bundle)
    return Material(places.where, plots.drawn, plots.problems, _others(request))


def _others(request: Request) -> dict[str, str]:
    bundle, story = request.bundle, request.story
    found = {TITLES[kind]: path for kind, path in request.written.items()}
    files = {
        "all events": bundle.events,
        "resolved configuration": bundle.config / "run.yaml",
        "policy": bundle.config / "policy.yaml",
        "where each value came from": bundle.config / "origins.yaml",
    }
    for stage in dict.fromkeys(gate.stage for gate in story.gates):
        if stage != "inference" and (export := _export(request, stage)) is not None:
            files[f"history of {stage}"] = export
    return found | {name: bundle.relative(path) for name, path in files.items()}


def _export(request: Request, stage: Stage) -> Path | None:
    """The stage's history as it counts; written now if the last gate's handler has not come to it."""
    bundle, story = request.bundle, request.story
    path = gate_export(bundle, story.run_id, stage)
    if not path.exists():
        try:
            write_gate_export(bundle, story.run_id, stage, lineage(story.of(stage)))
        except (WorldloopError, OSError) as error:
            log.warning("no history export", problem=str(error))
            return None
    return path
