"""`worldloop watch --path`: looks at a run's files again and again, and only reads them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml
from pydantic import ValidationError
from rich.live import Live
from rich.text import Text

from services.commands.judging.diagnose import configured
from services.commands.places import EVENTS_FILE
from services.commands.terminal.output import CleanConsole, say, say_json, warn
from services.commands.terminal.text import seconds
from services.commands.watching.journal import Journal
from services.commands.watching.seen import RunSeen, Signs, exit_code, lines, see
from services.diagnosis.collect import Thresholds, collect
from services.diagnosis.core.diagnosis import diagnose
from services.diagnosis.core.model import StageDiagnosis
from services.diagnosis.layout import find_results
from services.monitor.config import SilenceLimits
from services.monitor.files import WRITING_SEC, changed
from shared import safe_yaml
from shared.bundle import Bundle
from shared.errors import BundleError, ConfigurationError
from shared.events import ENDED
from shared.sheets import newest_sheet
from shared.wandb_file import ended

DEFAULT_SEC = 10.0
SHARE, MOST_SEC = 3, 60.0
"""A pause is at least so many times as long as a look, up to a minute: a growing history is read anew."""


def watch(path: Path, *, every: str | None, once: bool, as_json: bool, profile: str | None) -> int:
    """Look until a run of ours is over or the person leaves.

    Args:
        path: Bundle, results or TinyWorlds run directory.
        every: Between two looks, as 4h; what is seen is then kept in `Logs/`. None: every few seconds.
        once: Look once.
        as_json: One JSON object for each look.
        profile: Judge by the policy of this profile; none: by the run's own, else the configured one.

    Returns:
        0 if the last look found nothing wrong, else 1.

    Raises:
        WorldloopError: There is nothing to look at, or the policy cannot be used.
    """
    pause = seconds(every) if every is not None else DEFAULT_SEC
    look = looking(path, profile)
    # In the bundle, or for other runs in the working directory.
    own = path if (path / EVENTS_FILE).is_file() else Path()
    journal = Journal(Bundle(own, "").logs) if every is not None else None
    seen: RunSeen | None = None
    with _screen(as_json=as_json, once=once) as show, contextlib.suppress(KeyboardInterrupt):
        while True:
            began = time.process_time()
            try:
                now = look()
            except (BundleError, OSError) as error:  # a file that went away under our eyes
                if seen is None:
                    raise BundleError(str(error)) from error
                warn(f"worldloop: {error}")
            else:
                new = [text for name, text in now.alerts.items() if seen is None or name not in seen.alerts]
                seen = now
                if journal is not None:
                    journal.write(lines(seen), new)
                show(seen)
            if once or (seen is not None and seen.status in ENDED):
                break
            time.sleep(rest(pause, time.process_time() - began))
    return exit_code(seen) if seen is not None else 0


def rest(pause: float, took: float) -> float:
    """Seconds until the next look, from those asked for and the CPU seconds of the last."""
    return max(pause, min(MOST_SEC, SHARE * took))


def looking(path: Path, profile: str | None) -> Callable[[], RunSeen]:
    """What looks at a run's files once.

    Args:
        path: Bundle, results or TinyWorlds run directory.
        profile: Judge by the policy of this profile; none: by the run's own, else the configured one.

    Raises:
        ConfigurationError: The policy cannot be used.
        UsageError: There is no such profile.
    """
    policy, origin = configured(profile)
    thresholds = Thresholds(policy.gatekeeper, origin, own=profile is not None)
    limits = _own_limits(path) or policy.monitor.silence_sec
    return lambda: look(path, thresholds, limits, clock=time.time)


def look(path: Path, thresholds: Thresholds, limits: SilenceLimits, *, clock: Callable[[], float]) -> RunSeen:
    """One look.

    Args:
        path: Bundle, results or TinyWorlds run directory.
        thresholds: What to judge by.
        limits: How long channels may be silent.
        clock: Unix seconds; read when all files have been.

    Raises:
        BundleError: There is nothing to look at.
        OSError: A file went away meanwhile.
    """
    found = diagnose(collect(path, thresholds))
    results = find_results(path)
    place = results.path if results is not None else None
    signs = {stage.stage: _signs(stage, place) for stage in found.stages}
    return see(
        found,
        signs,
        limits=limits.model_dump(),
        writing_sec=WRITING_SEC,
        ended=found.status in ENDED,
        now=clock(),
    )


def _signs(stage: StageDiagnosis, run: Path | None) -> Signs:
    """A stage's signs of life."""
    histories = [Path(each) for each in stage.histories]
    place = run / stage.stage if run is not None else None
    sheet = newest_sheet(place / "visualizations") if place is not None else None
    written = [at for at in map(changed, histories) if at is not None]
    saved = [each.modified for each in stage.checkpoints]
    pictured = changed(sheet)
    traces = [*written, *saved, *(at for at in (pictured, changed(place)) if at is not None)]
    logged = any(each.suffix == ".wandb" and ended(each) for each in histories[-1:])
    reached = stage.step is not None and stage.target is not None and stage.step >= stage.target
    return Signs(
        began=min(traces, default=0.0),
        last={
            "history": max(written, default=None),
            "checkpoint": max(saved, default=None),
            "visualization": pictured,
        },
        ended=logged or reached,
    )


def _own_limits(path: Path) -> SilenceLimits | None:
    """How long channels of a run of ours may be silent; none for others."""
    file = Bundle(path, "").config / "policy.yaml"
    if not (path / EVENTS_FILE).is_file() or not file.is_file():
        return None
    try:
        section = (safe_yaml.load(file.read_bytes()) or {}).get("monitor", {})
        return SilenceLimits.recorded(section.get("silence_sec", {}))
    except (yaml.YAMLError, AttributeError, ValidationError) as error:
        raise ConfigurationError(str(file), "monitor.silence_sec", str(error), "Mend it.") from error


@contextlib.contextmanager
def _screen(*, as_json: bool, once: bool) -> Iterator[Callable[[RunSeen], None]]:
    """Where looks are shown: a panel on a terminal, lines elsewhere, or JSON."""
    console = CleanConsole()
    if as_json:
        yield lambda seen: say_json(seen.model_dump_json(indent=2 if once else None))
    elif once or not console.is_terminal:
        yield lambda seen: say("\n".join(lines(seen)))
    else:
        with Live(console=console, auto_refresh=False) as live:
            hint = "Ctrl-C leaves; nothing is touched"
            yield lambda seen: live.update(Text("\n".join([*lines(seen), "", hint])), refresh=True)
