"""The training of a run as sections: where it is, its stages, gates, attempts, losses, inference test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from textwrap import wrap

from rich.text import Text

from services.commands.terminal import curve
from services.commands.terminal.layout import Section, some
from services.commands.terminal.text import (
    BAD,
    BOLD,
    DIM,
    GOOD,
    WATCH,
    Signs,
    clock,
    columns,
    flow,
    measurements,
    number,
    span,
    styled,
)
from services.reporter.core.page.model import AttemptRow, GateRow, History, Measured, Page, StageRow

OLDER_GATES = 8
ATTEMPTS = 8
CURVE_LEAST, CURVE_GOOD, CURVE_MOST = 6, 9, 14
"""Lines of a loss curve with its heading."""
BAR = 20
LONG = 30
"""Letters of value and threshold from which a check that holds is only named."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What the sections are drawn for."""

    width: int
    signs: Signs
    zone: tzinfo | None
    """Of the times of day; none is local."""


def head(page: Page, frame: Frame) -> Section:
    """Which run it is, what it does, when it will be done."""
    run = page.run
    game = "".join(run.run_name.split("_", 6)[6:])  # until it has started, the run has no name but its id
    title = Text.assemble(
        styled(run.status),
        (" (degraded)" if run.degraded else "", WATCH),
        ("" if page.mode == "autoregressive" else f" ({page.mode})", WATCH),
        ("  " + run.run_id, BOLD),
        f"  {game}" if game else "",
        f"  {page.profile}" if page.profile else "",
    )
    reason = f" ({page.reason})" if page.reason and run.status != "running" else ""
    lines = [title, Text(f"{page.phase}{reason}")]
    if page.requested:
        lines.append(Text(f"asked for: {'; '.join(page.requested)}", style=WATCH))
    facts = list(_times(page, frame))
    lines += flow(facts, frame.width)
    return some(lines, rank=0, least=len(lines))


def _times(page: Page, frame: Frame) -> Iterator[Text]:
    run = page.run
    if page.eta is not None and run.ended is None:
        yield Text(f"ETA {clock(page.eta, page.now, frame.zone)} (in {span(max(0.0, page.eta - page.now))})")
    if run.began:
        end = run.ended if run.ended is not None else page.now
        word = "took" if run.ended is not None else "for"
        yield Text(f"began {clock(run.began, page.now, frame.zone)}, {word} {span(end - run.began)}")
    if page.goodput.fraction is not None:
        yield Text(f"goodput {page.goodput.fraction:.0%}")


def current(page: Page) -> StageRow | None:
    """The stage that is being worked on, else the last one that was."""
    busy = [row for row in page.stages if row.state in ("training", "at gate", "paused", "blocked")]
    worked = busy or [row for row in page.stages if row.gates or row.step]
    return worked[-1] if worked else None


def stages(page: Page, frame: Frame) -> Section:
    """The stages with their bars and budgets, and the figures of the one that trains."""
    heads = ("stage", "", "step/target", "gates", "retries", "restarts", "state")
    rows = [[Text(each, style=DIM) for each in heads]]
    for row in page.stages:
        trains = row.stage != "inference"
        rows.append(
            [
                Text(row.stage, style=BOLD if row.state in ("training", "at gate") else ""),
                _bar(row, frame) if trains else Text(),
                Text(f"{row.step}/{row.target}" if trains else "-"),
                Text(str(row.gates)),
                Text(f"{row.retries_used}/{row.retries_max}"),
                Text(f"{row.restarts_used}/{row.restarts_max}" if trains else "-"),
                styled(row.state),
            ]
        )
    lines = columns(rows, frame.width, right=(2, 3, 4, 5), drop=(5, 3, 1, 4)) if page.stages else []
    now = current(page) if page.run.ended is None else None
    figures = list(_figures(now, page, frame)) if now is not None else []
    told = flow(figures, frame.width)
    return some([*lines, *told], rank=1, least=len(lines) + min(1, len(told)))


def _bar(row: StageRow, frame: Frame) -> Text:
    width = min(BAR, max(6, frame.width // 6))
    share = [min(1.0, max(0.0, step / max(1, row.target))) for step in (row.accepted_step, row.step)]
    done, doing = (int(each * width) for each in (min(share), share[1]))
    signs = frame.signs
    return Text.assemble(
        (signs.done * done, GOOD), (signs.doing * (doing - done), "cyan"), (signs.todo * (width - doing), DIM)
    )


def _figures(row: StageRow, page: Page, frame: Frame) -> Iterator[Text]:
    if row.loss is not None:
        yield Text(f"loss {number(row.loss, 5)}")
    if row.learning_rate is not None:
        yield Text(f"learning rate {row.learning_rate:.3g}")
    if row.updates_per_sec:
        yield Text(f"{number(row.updates_per_sec, 3)} updates/s")
    if row.frames_per_sec:
        yield Text(f"{number(row.frames_per_sec, 3)} frames/s")
    if row.chunk_target is not None:
        yield Text(f"chunk to {row.chunk_target}")
    if row.eta is not None:
        yield Text(f"stage done {clock(row.eta, page.now, frame.zone)}")


def ladders(page: Page) -> Section:
    """What a failed gate changes, and what was changed: of the stages that had one, else of the current."""
    shown = [row for row in page.stages if row.climbed] or [
        row for row in (current(page),) if row is not None and page.run.ended is None
    ]
    lines = []
    for row in shown:
        if row.rungs:
            lines.append(Text.assemble(("ladder  ", BOLD), f"{row.stage}: {'; '.join(row.rungs)}"))
        lines += [Text(f"  changed {change}") for change in row.climbed[:-4:-1]]
    return some(lines, rank=6)


def loss(page: Page, history: History, frame: Frame) -> Section:
    """A stage's loss with its gates; its newest value is of the telemetry where there is any."""
    row = current(page)
    here = row is not None and row.stage == history.stage
    gates = [gate for gate in page.gates if gate.stage == history.stage]
    size = (frame.width, CURVE_MOST, frame.signs)

    def lines(count: int) -> list[Text]:
        drawn = curve.draw(history, gates, width=size[0], height=count - 1, signs=size[2])
        rolled_back = any(each.superseded_from is not None for each in history.curves)
        told = f"; {frame.signs.old} was rolled back" if rolled_back else ""
        heading = Text.assemble(("loss  ", BOLD), f"{history.stage}", (told, DIM))
        return [heading, *drawn] if drawn else []

    if not curve.draw(history, (), width=frame.width, height=CURVE_LEAST - 1, signs=frame.signs):
        return some([], rank=3)
    return Section(3 if here else 9, CURVE_LEAST, CURVE_GOOD, CURVE_MOST, lines)


def gates(page: Page, frame: Frame) -> Section:
    """The newest gate with its values and why, and those before it."""
    if not page.gates:
        return some([], rank=2)
    newest, *older = page.gates[: -OLDER_GATES - 2 : -1]
    lines = [Text.assemble(("gate  ", BOLD), _gate(newest))]
    for said in (newest.why, *(f"next cycle: {each}" for each in newest.recommendations)):
        lines += [Text(f"  {line}") for line in wrap(said, max(10, frame.width - 2))]
    lines += _values(newest.values, frame)
    for gate in older:
        told = Text.assemble(f"  {clock(gate.time, page.now, frame.zone)}  ", _gate(gate), f"  {gate.why}")
        lines.append(told)
    return some(lines, rank=2, least=4, good=7)


def _gate(gate: GateRow) -> Text:
    watched = ("", "") if gate.verdict != "watch" else (" (watch)", WATCH)
    return Text.assemble(
        f"{gate.stage} {'try' if gate.stage == 'inference' else f'at {gate.step}, attempt'} {gate.attempt}: ",
        styled(gate.decision),
        watched,
        (" rolled back" if gate.superseded else "", DIM),
    )


def _values(values: Sequence[Measured], frame: Frame) -> list[Text]:
    """What was measured against what, side by side: first what failed, then the verdict, then evidence."""
    signs = frame.signs
    failed = [Text.assemble((signs.no, BAD), f" {_value(each)}") for each in values if not each.ok]
    last_first = sorted(values, key=lambda each: -(each.check or 0))  # the verdict's checks are the last
    holding = [Text.assemble((signs.yes, GOOD), f" {_value(each)}") for each in last_first if each.ok]
    holding.sort(key=lambda each: "(" not in each.plain)
    return flow(failed + holding, frame.width, indent=2)


def _value(each: Measured) -> str:
    """Value against threshold, where they are short; else the name, and what is wrong with it."""
    if len(each.value) + len(each.threshold) <= LONG and each.value != each.threshold:
        return f"{each.name} {each.value} (limit {each.threshold})"
    return each.name if each.ok else f"{each.name}: {each.text}"


def attempts(page: Page, frame: Frame) -> Section:
    """The chunks, newest first: what each went on from and what became of it."""
    if not page.attempts:
        return some([], rank=7)
    back = sum(each.superseded_from is not None for each in page.attempts)
    names = {each.id: f"{each.stage} {each.attempt}" for each in page.attempts}
    told = f"{len(page.attempts)}, newest first{f', {back} rolled back' if back else ''}"
    lines = [Text.assemble(("attempts  ", BOLD), told)]
    newest = page.attempts[: -ATTEMPTS - 1 : -1]
    rows = [[Text(cell) for cell in _attempt(each, names)] for each in newest]
    lines += columns(rows, frame.width - 2)
    return some([lines[0], *(Text("  ") + line for line in lines[1:])], rank=7, good=2)


def _attempt(row: AttemptRow, names: Mapping[str, str]) -> tuple[str, ...]:
    end = row.target_step if row.end_step is None else row.end_step
    came = "fresh" if row.parent is None and not row.start_step else "given"
    parent = came if row.parent is None else f"from {names.get(row.parent, row.parent)}"
    state = (
        "trains"
        if row.ended is None
        else ", ".join(each for each in (row.end if row.end != "completed" else "", row.decision) if each)
    )
    launches = f"{row.launches} launches" if row.launches > 1 else "warm" if row.warm else ""
    back = "" if row.superseded_from is None else f"rolled back from {row.superseded_from}"
    return (f"{row.stage} {row.attempt}", f"{row.start_step} to {end}", parent, launches, f"{state}  {back}")


def inference(page: Page, frame: Frame) -> Section:
    """The newest inference test."""
    test = page.inference
    if test is None:
        return some([], rank=2)
    word = {True: "passed", False: "not passed", None: "measured"}[test.passed]
    style = {True: GOOD, False: BAD, None: ""}[test.passed]
    heading = Text.assemble(
        ("inference  ", BOLD), f"try {test.inference_try}: ", (word, style), f"  {test.mode}"
    )
    lines = [heading, *([Text(f"  {test.problem}", style=BAD)] if test.problem else [])]
    numbers = measurements(test.numbers)
    lines += flow((Text(f"{name} {value}") for name, value in numbers), frame.width, indent=2)
    if page.gates and page.gates[-1].stage != "inference":  # else they stand at the gate
        lines += _values(test.values, frame)
    return some(lines, rank=2, good=2)
