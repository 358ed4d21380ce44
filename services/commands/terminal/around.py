"""What is around the training as sections: notes, services, GPUs, where the time went, pictures, reports."""

from __future__ import annotations

from rich.text import Text

from services.commands.terminal.layout import Section, some
from services.commands.terminal.text import (
    BAD,
    BOLD,
    DIM,
    STYLES,
    WATCH,
    clock,
    columns,
    flow,
    levels,
    path_end,
    size,
    span,
)
from services.commands.terminal.training import Frame
from services.reporter.core.page.model import Page

NOTES = 8
RECENT = 20
"""Readings of a GPU that are drawn."""
WORDS = {"bad": "!", "watch": "?", "good": "", "info": ""}
"""A note's level, for eyes without colour."""


def notes(page: Page, frame: Frame) -> Section:
    """What a person may want to know, newest first."""
    newest = page.notes[: -NOTES - 1 : -1]
    lines = [
        Text.assemble(
            (f"{WORDS[each.level]:<1} ", STYLES[each.level]),
            (f"{clock(each.time, page.now, frame.zone)}  ", DIM),
            (each.text, STYLES[each.level]),
        )
        for each in newest
    ]
    return some(lines, rank=1 if any(each.level in ("bad", "watch") for each in newest[:3]) else 6, good=2)


def services(page: Page, frame: Frame) -> Section:
    """Heartbeat ages, what each service works on, lag and dead letters."""
    known = [row for row in page.services if row.heard is not None or row.waiting is not None or row.dead]
    if not known:
        return some([], rank=4)
    heads = ("services", "heard", "waiting", "unsettled", "dead letters", "works on")
    rows = [[Text(each, style=DIM if at else BOLD) for at, each in enumerate(heads)]]
    heard = any(row.heard is not None for row in known)
    for row in page.services:
        counts = (row.waiting, row.unsettled, row.dead)
        rows.append(
            [
                Text(row.service),
                Text("-" if row.heard is None else f"{span(max(0.0, page.now - row.heard))} ago"),
                *(Text("-" if count is None else str(count)) for count in counts[:2]),
                Text("-" if row.dead is None else str(row.dead), style=BAD if row.dead else ""),
                Text(", ".join(row.working_on) or "-"),
            ]
        )
    if not heard:  # nobody listened, as in `status`: heartbeats come now and then
        rows = [[row[at] for at in (0, 2, 3, 4)] for row in rows]
    table = columns(rows, frame.width, right=(1, 2, 3, 4), drop=(5, 3, 2) if heard else (2, 1))
    brief = _brief(page)
    return Section(4, 1, 1, len(table), lambda count: table if count >= len(table) else [brief])


def _brief(page: Page) -> Text:
    """All services on one line: who is heard, what waits, what is dead."""
    ages = {row.service: max(0.0, page.now - row.heard) for row in page.services if row.heard is not None}
    silent = [row.service for row in page.services if row.service not in ages]
    parts = [Text("services", style=BOLD)]
    dead = [f"{row.service} {row.dead}" for row in page.services if row.dead]
    if dead:
        parts.append(Text(f"dead letters: {', '.join(dead)}", style=BAD))
    lag = {row.service: (row.waiting or 0) + (row.unsettled or 0) for row in page.services}
    waits = [f"{service} {count}" for service, count in lag.items() if count]
    if waits:
        parts.append(Text(f"lag: {', '.join(waits)}", style=WATCH))
    elif any(row.waiting is not None for row in page.services):
        parts.append(Text("nothing waits"))
    if ages:
        parts.append(Text(f"{len(ages)} of {len(page.services)} heard within {span(max(ages.values()))}"))
        if silent:
            parts.append(Text(f"not {', '.join(silent)}", style=WATCH))
    return Text("  ").join(parts)


def gpus(page: Page, frame: Frame) -> Section:
    """Each GPU, or the CPU's ranks: use, memory, the last readings."""
    lines = []
    for row in page.gpus:
        use = "-" if row.utilization is None else f"{row.utilization:.0f} %"
        memory = f"  {size(row.memory)} of {size(row.memory_total)} GB" if row.memory is not None else ""
        drawn = levels((value for _, value in row.recent[-RECENT:]), frame.signs)
        text = Text.assemble((f"{row.name}  ", BOLD), f"{use:>5}{memory}  ", (drawn, "cyan"))
        if row.problem:
            text.append(f"  {row.problem}", style=BAD)
        lines.append(text)
    return some(lines, rank=5)


def time(page: Page, frame: Frame) -> Section:
    """Where the time went."""
    spent = [each for each in page.goodput.spent if each.seconds > 0]
    total = sum(each.seconds for each in spent)
    if not total:
        return some([], rank=5)
    parts = [
        Text(f"{each.name} {span(each.seconds)} ({each.seconds / total:.0%})")
        for each in sorted(spent, key=lambda each: -each.seconds)
    ]
    lines = flow([Text("time", style=BOLD), *parts], frame.width)
    return some([*lines, Text(f"  goodput: {page.goodput.definition}", style=DIM)], rank=5, good=len(lines))


def files(page: Page, frame: Frame) -> Section:
    """Where the bundle is, the newest picture of each stage, the reports."""
    newest = {row.stage: row for row in page.sheets if not row.superseded}
    rows = [(f"{row.stage} at {row.step}", row.path, row.verdict) for row in newest.values()]
    if page.inference is not None and page.inference.picture:
        rows.append(("inference", page.inference.picture, ""))
    lines = [Text.assemble(("picture  ", BOLD), _path(*row, frame)) for row in reversed(rows)]
    for report in reversed(page.reports):
        if report.path is not None:
            lines.append(Text.assemble(("report   ", BOLD), _path(report.kind, report.path, "", frame)))
        else:
            lines.append(Text(f"report   {report.kind} failed: {report.error}", style=BAD))
    if page.bundle:
        lines.insert(
            0, Text.assemble(("bundle   ", BOLD), path_end(page.bundle, frame.width - 9, frame.signs))
        )
    return some(lines, rank=8, good=2)


def _path(what: str, path: str, verdict: str, frame: Frame) -> Text:
    room = frame.width - 11 - len(what)
    said = f"  {verdict}" if verdict and len(path) + 2 + len(verdict) <= room else ""
    return Text.assemble((f"{what}  ", DIM), path_end(path, room, frame.signs), said)
