"""The live page as one HTML file of the bundle: with the run's data and curves inside, it needs no server."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from services.reporter.core.page.fold import PageFold, fold_all
from services.reporter.core.story import tell
from services.reporter.page.histories import Histories
from services.reporter.page.lines import plain
from shared.bundle import Bundle, write_atomic
from shared.bus.protocol import Recorded
from shared.errors import BundleError
from shared.events import RunFinished

STYLE = re.compile(r'<link rel="stylesheet" href="([\w.-]+)"\s*/?>')
SCRIPT = re.compile(r'<script src="([\w.-]+)"></script>')
POINTS = 1500


def write_page(bundle: Bundle, records: Sequence[Recorded]) -> str | None:
    """Write `docs/action/run-page-<stamp>.html`: the run as of its end, or of its last event if it goes on.

    The same events and histories give the same bytes: the page's clock stands at the last event it shows.

    Returns:
        The file's path in the bundle; none if the events do not say what the run is.

    Raises:
        BundleError: A history cannot be read.
        OSError: Nor can a file, or the disk refused.
    """
    ends = [place for place, each in enumerate(records) if isinstance(each.message, RunFinished)]
    told = records[: ends[-1] + 1] if ends else records
    story = tell(told)
    if story is None:
        return None
    fold = fold_all(story.run_id, told)
    page = fold.page(fold.last or 0.0).model_dump(mode="json")
    target = bundle.reports / f"run-page-{story.stamp}.html"
    write_atomic(target, _document(page, _histories(bundle, fold)))
    return bundle.relative(target)


def _histories(bundle: Bundle, fold: PageFold) -> dict[str, dict[str, Any]]:
    """Stage -> column -> its history; a stage that was not trained has none."""
    found: dict[str, dict[str, Any]] = {}
    histories = Histories()
    for stage in fold.spec.stages if fold.spec is not None else ():
        superseded = fold.superseded(stage)
        columns: list[str] = []
        try:
            columns = histories.read(bundle, stage, "train/loss", superseded).columns
        except BundleError:
            continue  # a history without a loss: there is nothing to draw
        for column in columns:
            history = histories.read(bundle, stage, column, superseded, points=POINTS)
            found.setdefault(stage, {})[column] = history.model_dump(mode="json")
    return found


def _document(page: dict[str, Any], histories: dict[str, Any]) -> str:
    """`index.html` with everything that it loads put in its place."""
    data = _element("page", page) + _element("histories", histories)
    html = STYLE.sub(lambda found: f"<style>\n{_static(found[1])}</style>", _static("index.html"))
    first = SCRIPT.search(html)
    at = first.start() if first is not None else html.index("</body>")
    scripts = SCRIPT.sub(lambda found: f"<script>\n{_static(found[1])}</script>", html[at:])
    return html[:at] + data + scripts


def _element(name: str, value: Any) -> str:
    text = plain(value).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>\n'


def _static(name: str) -> str:
    return files("services.reporter.page").joinpath("static", name).read_text(encoding="utf-8")
