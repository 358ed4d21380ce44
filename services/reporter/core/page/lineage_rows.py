"""Attempts, gates and sheets of all stages, and which of their updates were rolled back (`core.lineage`)."""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field

from services.reporter.core.page.branches import Branch, Cut
from services.reporter.core.page.gates import file_link, gate_row
from services.reporter.core.page.model import AttemptRow, GateRow, SheetRow
from services.reporter.core.page.table import Table
from shared.events import STAGES, ArtifactEvidence, ChunkDone, ChunkStarted, GateDecided, Stage


@dataclass(slots=True)
class _Stage:
    """What is remembered of a stage to keep each step cheap."""

    branch: Branch[None] = field(default_factory=Branch)
    attempts: list[int] = field(default_factory=list)
    """In the order they were started."""
    done: dict[int, ChunkDone] = field(default_factory=dict)
    """Those that have no gate yet."""
    gates: list[tuple[int, str]] = field(default_factory=list)
    """Step and id of the gates whose files lie where they were written, lowest step first."""
    sheets: list[tuple[int, str]] = field(default_factory=list)
    """The same of sheets."""
    of_attempt: dict[int, list[int]] = field(default_factory=dict)
    """Attempt -> steps of its sheets."""


class LineageRows:
    """Three tables that rollbacks touch."""

    def __init__(self) -> None:
        self.attempts: Table[AttemptRow] = Table()
        self.gates: Table[GateRow] = Table()
        self.sheets: Table[SheetRow] = Table()
        self._stages: dict[Stage, _Stage] = {stage: _Stage() for stage in STAGES}

    def superseded(self, stage: Stage) -> dict[int, int | None]:
        """Attempt -> from which update on it was rolled back; none where it was not."""
        rows = ((n, self.attempts.get(f"{stage}/{n}")) for n in self._stages[stage].attempts)
        return {n: row.superseded_from for n, row in rows if row is not None}

    def start(self, event: ChunkStarted, time: float) -> None:
        """A launch of an attempt; the first has moved what lies beyond its start out of the way."""
        stage, plan, row_id = self._stages[event.stage], event.plan, f"{event.stage}/{event.attempt}"
        if row_id in self.attempts:
            self.attempts.update(row_id, launches=event.launch)
            return
        owner = stage.branch.owner(plan.start_step) if plan.resume_from is not None else None
        stage.attempts.append(event.attempt)
        self.attempts.put(
            AttemptRow(
                id=row_id,
                stage=event.stage,
                attempt=event.attempt,
                parent=f"{event.stage}/{owner}" if owner is not None else None,
                start_step=plan.start_step,
                end_step=None,
                target_step=plan.target_step,
                superseded_from=None,
                launches=event.launch,
                warm=event.warm,
                began=time,
                ended=None,
                end=None,
                decision=None,
                parameters=plan.parameters,
                device=f"{event.world_size} x {event.device}",
            )
        )
        self._move(event.stage, plan.start_step, event.attempt)

    def done(self, event: ChunkDone, time: float) -> None:
        """An attempt ended."""
        row_id = f"{event.stage}/{event.attempt}"
        self._stages[event.stage].done[event.attempt] = event
        if row_id in self.attempts:
            self.attempts.update(row_id, end_step=event.end_step, ended=time, end=event.reason)

    def picture(self, event: ArtifactEvidence) -> None:
        """The newest sheet was measured; one from before the chunk is known already."""
        if event.visual is not None and event.visual.fresh:
            self._sheet(event.stage, event.attempt, event.visual.step, event.visual.sheet)

    def found(self, stage: Stage, step: int, path: str) -> None:
        """A sheet lies where a running attempt writes them."""
        attempts = self._stages[stage].attempts
        if attempts:
            row = self.attempts.get(f"{stage}/{attempts[-1]}")
            if row is not None and row.start_step < step and (row.end_step is None or step <= row.end_step):
                self._sheet(stage, row.attempt, step, path)

    def decide(self, gate: GateDecided, time: float) -> None:
        """A gate: its row, what it rolls back, and what it says of the attempt and its sheet."""
        row = gate_row(gate, time)
        if gate.stage == "inference":
            self.gates.put(row)
            return
        stage, done = self._stages[gate.stage], self._stages[gate.stage].done.pop(gate.attempt, None)
        self.gates.put(row.model_copy(update={"start_step": done.start_step}) if done is not None else row)
        stage.gates.append((gate.gate_step, row.id))
        if row.id in self.attempts:
            self.attempts.update(row.id, decision=gate.decision)
        looked = next((each.text for each in gate.reasons if each.name == "visual_structure"), "")
        newest = f"{row.id}/{max(stage.of_attempt.get(gate.attempt, [0]))}"
        if newest in self.sheets:
            self.sheets.update(newest, verdict=looked)
        if done is None:
            return
        cuts = stage.branch.grow(gate.attempt, done.start_step, done.end_step, None)
        if gate.accepted_checkpoint is None:
            cuts += stage.branch.cut(gate.resume_step)
        for cut in cuts:
            self._supersede(gate.stage, cut)

    def _sheet(self, stage: Stage, attempt: int, step: int, path: str) -> None:
        row_id = f"{stage}/{attempt}/{step}"
        if row_id in self.sheets:
            return
        known = self._stages[stage]
        insort(known.sheets, (step, row_id))
        known.of_attempt.setdefault(attempt, []).append(step)
        row = self.attempts.get(f"{stage}/{attempt}")
        over = row is not None and row.superseded_from is not None and step > row.superseded_from
        self.sheets.put(
            SheetRow(
                id=row_id, stage=stage, attempt=attempt, step=step, path=path, superseded=over, verdict=""
            )
        )

    def _supersede(self, stage: Stage, cut: Cut[None]) -> None:
        row_id = f"{stage}/{cut.attempt}"
        if row_id in self.attempts:
            self.attempts.update(row_id, superseded_from=cut.start)
        gate = self.gates.get(row_id)
        if gate is not None and gate.step > cut.start:
            self.gates.update(row_id, superseded=True)
        for step in self._stages[stage].of_attempt.get(cut.attempt, []):
            if step > cut.start:
                self.sheets.update(f"{row_id}/{step}", superseded=True)

    def _move(self, stage: Stage, step: int, attempt: int) -> None:
        """Follow the files beyond a step to where the trainer has put them."""
        known = self._stages[stage]
        while known.gates and known.gates[-1][0] > step:
            row = self.gates.get(known.gates.pop()[1])
            if row is not None:
                links = [file_link(moved(link.path, stage, step, attempt)) for link in row.evidence]
                self.gates.update(row.id, evidence=links)
        while known.sheets and known.sheets[-1][0] > step:
            sheet = self.sheets.get(known.sheets.pop()[1])
            if sheet is not None:
                self.sheets.update(sheet.id, path=moved(sheet.path, stage, step, attempt))


def moved(path: str, stage: Stage, step: int, attempt: int) -> str:
    """Where a checkpoint or sheet beyond a step lies after an attempt began there; other paths stay.

    Args:
        path: Relative to the bundle.
        stage: The attempt's stage.
        step: Where it began.
        attempt: Its number.
    """
    parts = path.split("/")
    if len(parts) < 3 or parts[-3] != stage or parts[-2] not in ("checkpoints", "visualizations"):
        return path
    number = parts[-1].rpartition("_step_")[2].removesuffix(".png")
    if not number.isascii() or not number.isdigit() or int(number) + 1 <= step:
        return path
    return "/".join([*parts[:-2], "superseded", str(attempt), *parts[-2:]])
