"""Keeps the beat: at every beat one decoding gives each player a frame.

Players share the models, and their frames are decoded as one batch: four in one take two thirds of the time
of four decodings. The event loop only waits; decoding, PNG and mp4 run in one worker thread.
"""

from __future__ import annotations

import asyncio
import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from typing import Any, assert_never

from PIL import Image

from services.inference.play.config import PlayConfig
from services.inference.play.controls import Controls
from services.inference.play.engine import Engine
from services.inference.play.messages import NewSeed, Press, Record, Release, Request, Reset, binary
from services.inference.play.movie import EncoderError, Movie
from services.inference.play.pace import Pace
from services.inference.play.session import Session
from shared.datasets.mapping import Frames


@dataclass(frozen=True, slots=True)
class Beat:
    """What one beat made; times in seconds."""

    sent: list[tuple[Session, dict[str, Any], bytes]]
    """A frame for each player: header and PNG."""
    mail: list[tuple[Session, dict[str, Any] | bytes]]
    """Recordings, and what went wrong with them."""
    decoding: float
    """Seconds that depend on the number of decoding steps; 0 if nobody's frame was decoded."""
    total: float


class Conductor:
    """All sessions, and the loop that serves them.

    Args:
        engine: Decodes.
        config: Rate, limits.
        codes: Number of action codes.
        idle: The code while a player holds nothing.
        chance: Picks seed frames.
    """

    def __init__(
        self, engine: Engine, config: PlayConfig, *, codes: int, idle: int, chance: random.Random
    ) -> None:
        self._engine, self._config, self._chance = engine, config, chance
        self._codes, self._idle = codes, idle
        self._sessions: list[Session] = []
        self._anyone = asyncio.Event()
        self._pace = Pace(config.fps, engine.most_steps, engine.most_steps)

    @property
    def players(self) -> int:
        """Sessions there are."""
        return len(self._sessions)

    def join(self, now: float) -> Session | None:
        """A new session; none if there are as many as may be."""
        if len(self._sessions) >= self._config.players:
            return None
        session = Session(Controls(self._idle), self._chance.choice(self._engine.starts), now)
        self._sessions.append(session)
        self._anyone.set()
        return session

    def leave(self, session: Session) -> None:
        """Forget a session."""
        if session in self._sessions:
            self._sessions.remove(session)
        if not self._sessions:
            self._anyone.clear()

    def take(self, session: Session, request: Request, now: float) -> None:
        """Do what a player asks for; it shows in the next frame."""
        session.heard = now
        match request:
            case Press(code=code) if code >= self._codes:
                session.end("invalid", f"There is no action {code} in this world. Load the page again.")
            case Press(code=code):
                session.controls.press(code)
            case Release():
                session.controls.release()
            case Reset():
                session.restart = True
            case NewSeed():
                session.start, session.restart = self._chance.choice(self._engine.starts), True
            case Record(on=on):
                session.recording = on
            case _:
                assert_never(request)

    async def run(self) -> None:
        """Serve the sessions until cancelled; when decoding fails, all end and the error goes on."""
        loop, period = asyncio.get_running_loop(), 1 / self._config.fps
        with ThreadPoolExecutor(1, "decoder") as worker:
            due = loop.time()
            while True:
                await self._anyone.wait()
                due = max(due + period, loop.time())
                await asyncio.sleep(due - loop.time())
                self._end_idle(loop.time())
                playing = [session for session in self._sessions if not session.over]
                if not playing:
                    continue
                taken = [(each, each.controls.take(), _restarted(each)) for each in playing]
                try:
                    beat = await loop.run_in_executor(worker, self._beat, taken, self._pace.steps)
                except Exception as error:
                    for session in playing:
                        session.end("failed", f"The server cannot go on: {type(error).__name__}: {error}")
                    raise
                if beat.decoding:
                    self._pace = self._pace.after(beat.decoding, beat.total)
                for session, message in beat.mail:
                    session.tell(message)
                for session, header, png in beat.sent:
                    session.show(binary(header, png))

    def _end_idle(self, now: float) -> None:
        for session in self._sessions:
            if not session.over and now - session.heard > self._config.idle_sec:
                session.end("idle", "Nothing was pressed for a while, so this session was ended.")

    # --- in the worker thread -----------------------------------------------------------------------------

    def _beat(self, taken: list[tuple[Session, int, bool]], steps: int) -> Beat:
        began = time.perf_counter()
        frames: dict[Session, Frames] = {}
        tokenize = dynamics = pixels = 0.0
        for session, _, restarted in taken:
            if restarted or session.state is None:
                session.state, frames[session], seconds = self._engine.begin(session.start)
                tokenize += seconds
        going = [(each, code, each.state) for each, code, _ in taken if each not in frames and each.state]
        if going:
            decoded = self._engine.advance(
                [state for _, _, state in going], [code for _, code, _ in going], steps
            )
            dynamics, pixels = decoded.dynamics_sec, decoded.pixels_sec
            for (session, _, _), state, frame in zip(going, decoded.states, decoded.frames, strict=True):
                session.state, frames[session] = state, frame
        encoding = time.perf_counter()
        mail = [(each, message) for each, _, _ in taken if (message := self._record(each, frames[each]))]
        pngs = {session: _png(frame) for session, frame in frames.items()}
        ended = time.perf_counter()
        parts = {
            "tokenize": tokenize,
            "dynamics": dynamics,
            "pixels": pixels,
            "encode": ended - encoding,
        }
        sent = []
        for session, code, restarted in taken:
            ms = {
                name: round(1000 * seconds, 3)
                for name, seconds in (*parts.items(), ("send", session.send_sec))
            }
            header = {
                "type": "frame",
                "number": session.number,
                "seed": session.start if restarted else None,
                "code": code,
                "steps": steps,
                "players": len(taken),
                "recording": session.movie is not None,
                "ms": ms,
            }
            session.number += 1
            sent.append((session, header, pngs[session]))
        return Beat(sent, mail, dynamics, ended - began)

    def _record(self, session: Session, frame: Frames) -> dict[str, Any] | bytes | None:
        """Add a frame to a session's recording; what there is to tell about it, if anything."""
        try:
            if session.recording and session.movie is None:
                session.movie = Movie(self._engine.size, self._config.fps)
            if session.movie is None:
                return None
            if session.recording and not session.movie.full:
                session.movie.add(frame)
                return None
            movie, session.movie, session.recording = session.movie, None, False
            return binary({"type": "recording", "frames": movie.frames}, movie.finish())
        except EncoderError as error:
            session.movie, session.recording = None, False
            return {"type": "notice", "text": f"The recording failed: {error}"}


def _restarted(session: Session) -> bool:
    restarted, session.restart = session.restart, False
    return restarted


def _png(frame: Frames) -> bytes:
    stream = BytesIO()
    Image.fromarray(frame).save(stream, "PNG", compress_level=1)
    return stream.getvalue()
