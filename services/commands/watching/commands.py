"""`worldloop status` and `worldloop watch`: a run as the live page shows it, in a terminal or as JSON."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.commands import connection, places, runs
from services.commands.places import RunRef
from services.commands.terminal.output import CleanConsole, say, say_json
from services.commands.terminal.painter import signs, write
from services.commands.terminal.view import view
from services.commands.watching import render
from services.commands.watching.follow import Screen, follow, interrupts, leave, with_page
from services.commands.watching.journal import Journal
from services.commands.watching.news import News, from_bus, from_file
from services.commands.watching.periodic import FilesLook, Periodic
from services.commands.watching.seen import lines
from services.commands.watching.sight import Sight
from services.reporter.core.page.fold import fold_all
from shared.bundle import Bundle
from shared.bus.protocol import Bus
from shared.errors import BundleError, BusError
from shared.settings import Settings
from shared.web import place


@dataclass(frozen=True, slots=True)
class Watched:
    """A run that was found, with what is known of it."""

    run: RunRef
    sight: Sight
    bus: Bus | None
    """The server that knows the run; none where its bundle is read."""

    def news(self) -> AsyncGenerator[News, None]:
        """What comes after."""
        if self.bus is not None:
            return from_bus(self.bus, self.run.run_id, after=self.sight.fold.sequence)
        assert self.run.bundle is not None  # else nothing would be known
        return from_file(self.run.bundle / places.EVENTS_FILE, after=self.sight.fold.sequence)

    def print(self, *, as_json: bool) -> None:
        """All of it, once."""
        page = self.sight.page()
        if as_json:
            say_json(page.model_dump_json(indent=2))
            return
        console = CleanConsole()
        write(console, view(page, self.sight.losses(page), width=console.width, signs=signs(console)))


async def find(argument: str | None, bus: Bus | None, root: Path) -> Watched:
    """The run that an argument names, else the newest one.

    Raises:
        BundleError: There is none, nothing is known of it, or something in its bundle leads out of it.
    """
    run = places.checked(await runs.locate(argument, bus, root))
    records = await bus.events(run.run_id) if bus is not None else []
    known = bool(records)
    fold = fold_all(run.run_id, records or await runs.past(run, bus))
    if bus is not None and known:
        try:
            fold.backlog(await bus.backlog())
        except BusError:
            fold.backlog(None)
    return Watched(run, Sight(fold, run.bundle, live=known), bus if known else None)


async def status(argument: str | None, *, nats_url: str | None, root: Path, as_json: bool) -> int:
    """Print where a run is."""
    async with connection.connect_if_up(nats_url) as bus:
        watched = await find(argument, bus, root)
    watched.print(as_json=as_json)
    if not as_json and watched.bus is not None and (page := place.address(Settings())) is not None:
        say(f"live page: {page}")
    return render.exit_code(watched.sight.fold.run)


def channels(bundle: Path) -> FilesLook | None:
    """What looks at a bundle's history, checkpoints and visualizations; none without the packages for it.

    Raises:
        ConfigurationError: The policy, by which it is judged, cannot be used.
    """
    try:
        from services.commands.watching import files
    except ModuleNotFoundError:
        return None
    look = files.looking(bundle, None)

    def looked() -> tuple[Sequence[str], Mapping[str, str]]:
        try:
            seen = look()
        except (BundleError, OSError) as error:  # nothing there yet, or a file that went away under our eyes
            return [str(error)], {}
        return list(lines(seen)), seen.alerts

    return looked


async def watch(
    argument: str | None, *, nats_url: str | None, root: Path, every: float | None, as_json: bool
) -> int:
    """Follow a run until it ends, and print it once more then; Ctrl-C leaves, the run goes on.

    Args:
        argument: Run id or bundle directory; none is the newest run.
        nats_url: Existing server.
        root: Where bundles are.
        every: Print it so often, in seconds, and keep it in the bundle's Logs; none shows each change.
        as_json: With `every`: as one JSON document a line.

    Returns:
        The run's exit code; 0 while it goes on.
    """
    async with connection.connect_if_up(nats_url) as bus:
        watched = await find(argument, bus, root)
        console = CleanConsole()
        periodic = None
        if every is not None:
            bundle = watched.run.bundle
            journal = Journal(Bundle(bundle, "").logs) if bundle is not None else None
            files = channels(bundle) if bundle is not None else None
            periodic = Periodic(console, watched.sight, files, journal, every=every, as_json=as_json)
        if not watched.sight.fold.ended:
            where = "" if watched.bus is not None else "no server: read from the bundle. "
            hint = f"{where}Ctrl-C leaves; the run goes on"
            hint = with_page(hint) if watched.bus is not None else hint
            with interrupts() as interrupted, periodic or Screen(console, watched.sight, hint=hint) as screen:
                news, fold = watched.news(), watched.sight.fold
                if await follow(news, fold, screen, interrupted=interrupted, ask=leave):
                    return 0
    if periodic is not None:
        periodic.look()
    else:
        watched.print(as_json=as_json)
    return render.exit_code(watched.sight.fold.run)
