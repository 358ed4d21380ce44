"""`worldloop checkpoints`: what lies where, whether it is valid, and one run made of several."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch

from services.commands.checkpoints.commands import merge
from services.commands.checkpoints.found import checkpoints_of, newest_of, run_directories
from shared.bundle import Bundle
from shared.bus.journal import to_line
from shared.bus.memory import MemoryBus
from shared.errors import CheckpointError, UsageError
from shared.events import STAGES, Event, GateDecided, RunSpec, RunStarted
from shared.worldmodel import merge as merging
from shared.worldmodel.checkpoints import FILES, MANIFEST, load_checkpoint
from shared.worldmodel.merge import RECORD
from shared.worldmodel.safe_load import load_file
from tests.unit.cli.conftest import Invoke
from tests.unit.cli.test_given import RUN, released, save

THEIRS = Path(__file__).parents[2] / "fixtures/golden/tinyworlds_run"
(RESULTS,) = (THEIRS / "results").iterdir()
NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
NAME = "2026_03_04_05_06_07"
TAKEN = {"video_tokenizer": 120, "latent_actions": 60, "dynamics": 120}


def merged(*sources: Path | str, into: Path, root: Path | None = None, **changes: Any) -> Path:
    """Merge, and the run directory that came of it."""
    options = {"game": None, "frame_size": None, "context_length": None} | changes
    before = set(run_directories([into, into.absolute().parent]))
    code = merge(
        [str(source) for source in sources], into=into, now=NOW, root=root or into, as_json=False, **options
    )
    assert code == 0
    (made,) = set(run_directories([into, into.absolute().parent])) - before
    return made


@pytest.fixture
def theirs(place: Path) -> Path:
    """A run of TinyWorlds, to be damaged."""
    return Path(shutil.copytree(RESULTS, place / "results" / RESULTS.name))


# --- what a command takes for a checkpoint ----------------------------------------------------------------


def test_a_command_takes_a_step_directory(theirs: Path, place: Path) -> None:
    directory = theirs / "dynamics/checkpoints/dynamics_step_119"
    found = checkpoints_of(str(directory), place, unsaid={})
    assert {stage: one.directory for stage, one in found.checkpoints.items()} == {"dynamics": directory}


def test_a_command_takes_a_checkpoints_folder_and_of_it_the_newest_valid(theirs: Path, place: Path) -> None:
    folder = theirs / "dynamics/checkpoints"
    shutil.copytree(folder / "dynamics_step_119", folder / "dynamics_step_219")
    (folder / "dynamics_step_219/state.pt").unlink()
    (found,) = checkpoints_of(str(folder), place, unsaid={}).checkpoints.values()
    assert found.directory.name == "dynamics_step_119"
    shutil.rmtree(folder / "dynamics_step_119")
    with pytest.raises(CheckpointError, match=r"no valid checkpoint there: .*state\.pt is missing"):
        checkpoints_of(str(folder), place, unsaid={})


@pytest.mark.parametrize("argument", [RESULTS, RESULTS.parent, THEIRS])
def test_a_command_takes_a_run_of_tinyworlds(argument: Path, place: Path) -> None:
    found = checkpoints_of(str(argument), place, unsaid={}).checkpoints
    assert {stage: one.step for stage, one in found.items()} == TAKEN


def test_a_command_takes_a_run_id_and_a_bundle(place: Path) -> None:
    root = place / "runs"
    directories = {stage: save(root, stage) for stage in STAGES}
    for argument in (RUN, str(root / RUN)):
        found = checkpoints_of(argument, root, unsaid={}).checkpoints
        assert {stage: one.directory for stage, one in found.items()} == directories


def test_a_stages_directory_stands_for_that_stage_alone(place: Path) -> None:
    assert list(checkpoints_of(str(RESULTS / "dynamics"), place, unsaid={}).checkpoints) == ["dynamics"]


def test_what_is_none_of_these_is_a_usage_error(place: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere: no step directory, no checkpoints/ folder, no \.pth"):
        checkpoints_of("nowhere", place, unsaid={})


# --- list and validate ------------------------------------------------------------------------------------


def rows(invoke: Invoke, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(invoke("checkpoints", "list", *arguments, "--json").stdout)[
        "checkpoints"
    ]
    return found


def test_a_run_of_tinyworlds_is_listed_with_all_that_it_says(worldloop: Invoke) -> None:
    listed = rows(worldloop, str(THEIRS))
    assert [(row["stage"], row["step"], row["valid"]) for row in listed] == [
        (stage, step, True) for stage, step in TAKEN.items()
    ]
    dynamics = listed[2]
    assert dynamics["architecture"]["n_actions"] == 4
    assert dynamics["size_bytes"] > 100_000
    assert dynamics["trained_on"] == [{"name": "PONG", "fingerprint": None, "frames": None}]
    assert (dynamics["accepted"], dynamics["best"]) == (None, None)
    shown = worldloop("checkpoints", "list", str(THEIRS)).stdout
    assert "dynamics_step_119" in shown
    assert "n_actions=4" in shown


def gate(path: str, best: str) -> GateDecided:
    return GateDecided(
        run_id=RUN, stage="dynamics", attempt=1, gate_step=30, target_step=60, decision="continue",
        verdict="continue", reason="healthy", reasons=[], metrics={}, resume_from=path, resume_step=30,
        accepted_checkpoint=path, best_checkpoint=best, effective_batch=8, launcher_pid=None,
        dual_gpu_ok=None, evidence_paths=[], retries_used=0, retries_max=5, restarts_used=0,
    )  # fmt: skip


async def record(bundle: Bundle, *events: Event) -> None:
    bus = MemoryBus()
    for event in events:
        await bus.publish(event)
    bundle.events.parent.mkdir(parents=True, exist_ok=True)
    bundle.events.write_text("".join(f"{to_line(recorded)}\n" for recorded in await bus.events(RUN)))


async def test_a_bundle_says_which_checkpoints_were_accepted_and_which_is_best(
    place: Path, spec: RunSpec, worldloop: Invoke
) -> None:
    root = place / "runs"
    bundle = Bundle(root / RUN, "2026_01_01_00_00_00_pong")
    first, second, third = (bundle.relative(save(root, "dynamics", step=step)) for step in (30, 60, 90))
    given = bundle.relative(save(root, "video_tokenizer", step=10, seen="abc"))
    begun = spec.model_copy(update={"checkpoints": {"video_tokenizer": given}})
    second_gate = gate(second, first).model_copy(update={"attempt": 2})
    await record(bundle, RunStarted(run_id=RUN, spec=begun), gate(first, first), second_gate)
    listed = rows(worldloop)  # the newest run
    assert {
        row["path"].removeprefix(f"{bundle.root}/"): (row["accepted"], row["best"]) for row in listed
    } == {
        given: (True, False),
        first: (True, True),
        second: (True, False),
        third: (False, False),
    }
    assert listed[0]["trained_on"] == [{"name": "pong_frames.h5", "fingerprint": "abc", "frames": 50}]
    assert rows(worldloop, RUN) == listed

    bundle.events.write_text("no event\n")
    told = json.loads(worldloop("checkpoints", "list", "--json").stdout)
    assert {row["accepted"] for row in told["checkpoints"]} == {None}
    assert "which checkpoints were accepted is not known" in told["notes"][0]


def test_superseded_checkpoints_are_not_listed(place: Path, worldloop: Invoke) -> None:
    root = place / "runs"
    kept, gone = save(root, "dynamics", step=30), save(root, "dynamics", step=60)
    aside = Bundle(root / RUN, "2026_01_01_00_00_00_pong").superseded("dynamics", 2) / "checkpoints"
    aside.mkdir(parents=True)
    gone.rename(aside / gone.name)
    assert [row["path"] for row in rows(worldloop, RUN)] == [str(kept)]


def test_validate_names_file_and_reason_and_never_runs_code(
    theirs: Path, place: Path, worldloop: Invoke
) -> None:
    assert worldloop("checkpoints", "validate", str(theirs)).exit_code == 0

    class RunsCode:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            return os.system, (f"touch {place / 'ran'}",)

    torch.save({"a": RunsCode()}, theirs / "dynamics/checkpoints/dynamics_step_119/state.pt")
    (theirs / "latent_actions/checkpoints/latent_actions_step_59/optim_state_dict.pt").write_bytes(b"")
    result = worldloop("checkpoints", "validate", str(theirs))
    assert result.exit_code == 1
    assert "dynamics_step_119/state.pt is refused: it would import" in result.stdout
    assert "latent_actions_step_59 is no valid checkpoint: optim_state_dict.pt has only 0 b" in result.stdout
    assert not (place / "ran").exists()
    listed = json.loads(worldloop("checkpoints", "validate", str(theirs), "--json").stdout)
    assert [row["valid"] for row in listed["checkpoints"]] == [True, False, False]
    assert worldloop("checkpoints", "list", str(theirs)).exit_code == 0, "listing answers, whatever it lists"


def test_weights_under_another_stages_name_are_invalid(theirs: Path, worldloop: Invoke) -> None:
    folder = theirs / "dynamics/checkpoints"
    shutil.copytree(
        theirs / "latent_actions/checkpoints/latent_actions_step_59", folder / "dynamics_step_500"
    )
    assert (
        "dynamics_step_500 holds a checkpoint of latent_actions"
        in worldloop("checkpoints", "validate", str(folder)).stdout
    )


def test_single_files_are_listed_without_what_they_do_not_say(place: Path, worldloop: Invoke) -> None:
    directory = RESULTS / "dynamics/checkpoints/dynamics_step_119"
    released(directory, place / "pong_dynamics_step_7.pth")
    (row,) = rows(worldloop, str(place))
    assert (row["stage"], row["step"], row["valid"]) == ("dynamics", 8, True)
    assert "frame_size" not in row["architecture"]


def test_hidden_folders_and_what_is_no_file_are_not_listed(
    theirs: Path, place: Path, worldloop: Invoke
) -> None:
    (place / "results/.merging-here-1/dynamics/checkpoints/dynamics_step_3").mkdir(parents=True)
    packages = place / "venv/lib/site-packages"
    packages.mkdir(parents=True)
    (packages / "python_s_own.pth").write_text("import os")
    (place / "folder.pth").mkdir()
    os.mkfifo(place / "pipe.pth")
    assert [Path(row["path"]).parents[2] for row in rows(worldloop, str(place))] == [theirs] * 3


def test_links_are_followed_but_not_in_circles(theirs: Path, place: Path, worldloop: Invoke) -> None:
    (place / "disk").symlink_to(theirs.parent)
    (theirs / "again").symlink_to(place)
    (place / "linked").mkdir()
    (place / "linked/results").symlink_to(theirs.parent)
    for at in (place, place / "linked"):
        assert len(rows(worldloop, str(at))) == 3


def unreadable(monkeypatch: pytest.MonkeyPatch, *paths: Path) -> None:
    """Nobody may look at these files, nor into these folders; chmod does not stop root."""

    def refuse(name: str) -> None:
        original = getattr(os, name)

        def refusing(path: Any, *args: Any, **kwargs: Any) -> Any:
            if not isinstance(path, int) and Path(path) in paths:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return original(path, *args, **kwargs)

        monkeypatch.setattr(os, name, refusing)

    for name in ("stat", "listdir", "scandir"):
        refuse(name)


def test_a_checkpoint_that_nobody_may_read_is_invalid_and_passed_over(
    theirs: Path, place: Path, worldloop: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = theirs / "dynamics/checkpoints"
    shutil.copytree(folder / "dynamics_step_119", folder / "dynamics_step_219")
    unreadable(monkeypatch, folder / "dynamics_step_219/model_state_dict.pt")
    result = worldloop("checkpoints", "validate", str(folder))
    assert result.exit_code == 1
    assert "dynamics_step_219/model_state_dict.pt cannot be read: Permission denied" in result.stdout
    (listed,) = [row for row in rows(worldloop, str(folder)) if not row["valid"]]
    assert listed["size_bytes"] == 0
    found = checkpoints_of(str(theirs), place, unsaid={})
    assert found.checkpoints["dynamics"].step == 120
    assert "cannot be read: Permission denied" in found.reasons(["dynamics"])


def test_a_place_that_nobody_may_read_is_named(
    theirs: Path, place: Path, worldloop: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = theirs / "dynamics/checkpoints"
    unreadable(monkeypatch, folder)
    told = f"{folder} cannot be read: Permission denied"
    assert told in str(worldloop("checkpoints", "validate", str(place)).exception)
    with pytest.raises(UsageError, match=re.escape(told)):
        checkpoints_of(str(theirs), place, unsaid={})
    assert run_directories([place]) == [theirs]
    assert newest_of(theirs).passed_over["dynamics"] == (told,)


@pytest.mark.parametrize("name", ["x" * 300, "/nowhere"])
def test_a_name_that_no_file_can_have_is_a_usage_error(name: str, place: Path) -> None:
    with pytest.raises(UsageError, match=re.escape(name)):
        checkpoints_of(name, place, unsaid={})


def test_a_record_of_recordings_that_is_damaged_makes_a_checkpoint_invalid(
    place: Path, worldloop: Invoke
) -> None:
    directory = save(place / "runs", "dynamics", seen="abc")
    state = load_file(directory / "state.pt")
    state["worldloop"]["extra"]["trained_on"] = []
    torch.save(state, directory / "state.pt")
    (directory / MANIFEST).write_text(json.dumps(manifest_of(directory)))
    (row,) = rows(worldloop, str(directory))
    assert "its entry 'trained_on' cannot be read" in row["problem"]


def manifest_of(directory: Path) -> dict[str, Any]:
    digests = {name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in FILES}
    return {"files": {name: {"sha256": digest} for name, digest in digests.items()}}


@pytest.mark.parametrize(("argument", "problem"), [("nowhere", "no such file"), (".", "holds no checkpoint")])
def test_a_place_without_checkpoints_is_a_usage_error(argument: str, problem: str, worldloop: Invoke) -> None:
    result = worldloop("checkpoints", "validate", argument)
    assert isinstance(result.exception, UsageError)
    assert f"{argument}: " in str(result.exception)
    assert problem in str(result.exception)


# --- merge ------------------------------------------------------------------------------------------------


def test_checkpoints_of_different_runs_become_one_run_directory(theirs: Path, place: Path) -> None:
    copy = shutil.copytree(theirs, place / "other/results/2026_12_01_00_00_00_zelda")
    shutil.rmtree(theirs / "dynamics")
    made = merged(theirs, copy, into=place / "merged")
    assert made == place / "merged/results" / f"{NAME}_zelda", "named as the run dynamics comes from"
    for stage, step in TAKEN.items():
        directory = made / stage / "checkpoints" / f"{stage}_step_{step - 1}"
        assert load_checkpoint(directory).step == step
        for file in directory.iterdir():
            assert (
                file.read_bytes() == (copy / stage / "checkpoints" / directory.name / file.name).read_bytes()
            )
    origin = json.loads((made / RECORD).read_text())
    assert origin["dynamics"]["from"] == str(copy / "dynamics/checkpoints/dynamics_step_119")
    assert origin["latent_actions"]["from"].startswith(str(theirs))


def test_the_first_source_that_has_a_stage_gives_it(place: Path) -> None:
    root = place / "runs"
    newer = save(root, "video_tokenizer", step=90)
    for stage in STAGES:
        save(root, stage, run="20260102_000000")
    made = merged(newer.parent, "20260102_000000", into=place, root=root, game="sonic")
    assert made.name == f"{NAME}_sonic"
    assert sorted(path.name for path in made.glob("*/checkpoints/*")) == [
        "dynamics_step_59", "latent_actions_step_59", "video_tokenizer_step_89",
    ]  # fmt: skip


def test_different_architectures_are_refused_with_every_key_and_its_values(place: Path) -> None:
    root = place / "runs"
    for stage in STAGES[:2]:
        save(root, stage)
    other = save(root, "dynamics", run="20260102_000000", embed_dim=32, n_actions=8)
    with pytest.raises(CheckpointError) as refused:
        merged(RUN, other, into=place, root=root)
    assert "embed_dim is 16 in " in str(refused.value)
    assert f" and 32 in {other}" in str(refused.value)
    assert "n_actions is 4 in " in str(refused.value)
    assert f" and 8 in {other}" in str(refused.value)
    assert not (place / "results").exists()


def test_a_source_that_adds_nothing_and_a_stage_that_none_has_are_refused(theirs: Path, place: Path) -> None:
    with pytest.raises(UsageError, match=r"dynamics adds nothing: dynamics come from sources before it"):
        merged(theirs, theirs / "dynamics", into=place / "m")
    (theirs / "dynamics/checkpoints/dynamics_step_119/state.pt").unlink()
    with pytest.raises(CheckpointError, match=r"no valid checkpoint of dynamics in .*state\.pt is missing"):
        merged(theirs, into=place / "m")


def test_nothing_is_overwritten(theirs: Path, place: Path) -> None:
    made = merged(theirs, into=place / "m")
    (made / "mine").touch()
    with pytest.raises(CheckpointError, match=r"_pong is there already, and nothing is overwritten"):
        merged(theirs, into=place / "m")
    assert (made / "mine").exists()


def test_a_copy_that_differs_is_found_and_nothing_is_left(
    theirs: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Flips:
        """A disk that writes something else."""

        def fsync(self, descriptor: int) -> None:
            os.pwrite(descriptor, b"\xff" * 8, 100)

        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

    monkeypatch.setattr(merging, "os", Flips())
    with pytest.raises(CheckpointError, match=r"the copy of .*model_state_dict\.pt in .* is damaged"):
        merged(theirs, into=place / "m")
    assert list((place / "m/results").iterdir()) == []


def test_a_checkpoint_that_is_replaced_while_it_is_copied_is_found(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = place / "runs"
    directories = {stage: save(root, stage) for stage in STAGES}
    other = save(root, "dynamics", run="20260102_000000")
    weights = {name: tensor + 1 for name, tensor in load_file(other / FILES[0]).items()}
    torch.save(weights, other / FILES[0])
    (other / MANIFEST).write_text(json.dumps(manifest_of(other)))
    copy = merging._copy

    def replacing(source: Path, target: Path) -> None:
        copy(source, target)
        if source == directories["dynamics"] / FILES[1]:
            shutil.rmtree(source.parent)
            shutil.copytree(other, source.parent)

    monkeypatch.setattr(merging, "_copy", replacing)
    with pytest.raises(CheckpointError, match=r"dynamics_step_59/.* is damaged: its checksum is not"):
        merged(RUN, into=place / "m", root=root)
    assert list((place / "m/results").iterdir()) == []


def test_a_results_directory_gets_the_run_itself_however_it_is_named(
    theirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(theirs.parent)
    assert merged(theirs, into=Path(), game="zelda", root=theirs) == theirs.parent / f"{NAME}_zelda"


def test_a_disk_that_refuses_is_told(theirs: Path, place: Path, worldloop: Invoke) -> None:
    (place / "file").touch()
    result = worldloop("checkpoints", "merge", str(theirs), "--into", str(place / "file"))
    assert isinstance(result.exception, UsageError)
    assert "cannot be written" in str(result.exception)
    assert "--into" in str(result.exception)


def test_single_files_are_merged_when_they_or_flags_say_what_they_are(place: Path) -> None:
    files: list[Path] = []
    for stage, step in TAKEN.items():
        directory = RESULTS / stage / "checkpoints" / f"{stage}_step_{step - 1}"
        files.append(released(directory, place / f"pong_{stage}_step_{step - 1}.pth"))
        content = torch.load(files[-1])
        del content["config"]["frame_size"]
        torch.save(content, files[-1])
    with pytest.raises(CheckpointError, match=r"does not say its frame_size: .* as --frame-size"):
        merged(*files, into=place)
    made = merged(*files, into=place, frame_size=64)
    found = {
        stage: one.step for stage, one in checkpoints_of(str(made), place, unsaid={}).checkpoints.items()
    }
    assert found == TAKEN


def test_a_dynamics_of_other_steps_is_refused_where_its_config_tells(theirs: Path, place: Path) -> None:
    folder = theirs / "video_tokenizer/checkpoints"
    later = Path(shutil.copytree(folder / "video_tokenizer_step_119", folder / "video_tokenizer_step_219"))
    torch.save({**load_file(later / "state.pt"), "step": 219}, later / "state.pt")
    with pytest.raises(CheckpointError, match=r"was not trained with .*_step_219, but with .*_step_119"):
        merged(theirs, into=place / "m")


def test_the_report_is_json_when_asked_for(place: Path, worldloop: Invoke) -> None:
    result = worldloop("checkpoints", "merge", str(THEIRS), "--into", str(place), "--game", "zelda", "--json")
    told = json.loads(result.stdout)
    assert told["run"].endswith("_zelda")
    assert {stage: one["step"] for stage, one in told["checkpoints"].items()} == TAKEN
    assert told["notes"] == []


@pytest.mark.parametrize("game", ["Zelda!", "../up"])
def test_a_game_that_cannot_be_part_of_a_name_is_refused(game: str, place: Path) -> None:
    with pytest.raises(UsageError, match="small letters"):
        merged(THEIRS, into=place, game=game)
