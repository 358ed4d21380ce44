"""The whole view of a run: the page's document and the histories as lines for a terminal of some size."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import tzinfo

from rich.text import Text

from services.commands.terminal import around, training
from services.commands.terminal.layout import arrange, some
from services.commands.terminal.text import DIM, UNICODE, Signs, fit
from services.commands.terminal.training import Frame
from services.reporter.core.page.model import History, Page
from shared.events import Stage


def view(
    page: Page,
    histories: Mapping[Stage, History],
    *,
    width: int,
    height: int | None = None,
    signs: Signs = UNICODE,
    zone: tzinfo | None = None,
    hint: str = "",
) -> list[Text]:
    """A run as lines, clean, none wider than the terminal; the important parts where not all have room.

    Args:
        page: The run.
        histories: Loss of the stages that have any.
        width: Cells of a line.
        height: Lines there are; none for as many as it takes.
        signs: What the terminal's alphabet has.
        zone: Of the times of day; none is local.
        hint: Last line.
    """
    frame = Frame(width, signs, zone)
    sections = [
        training.head(page, frame),
        training.stages(page, frame),
        around.notes(page, frame),
        training.gates(page, frame),
        training.inference(page, frame),
        *(training.loss(page, history, frame) for history in histories.values()),
        training.ladders(page),
        training.attempts(page, frame),
        around.gpus(page, frame),
        around.services(page, frame),
        around.time(page, frame),
        around.files(page, frame),
        some([Text(hint, style=DIM)] if hint else [], rank=0),
    ]
    return [fit(line, width, signs) for line in arrange(sections, height)]
