"""Hard rules of docs/rules.md that no other test holds."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.commands.configuration import yaml_file
from services.commands.configuration.files import profile_names
from services.commands.configuration.resolve import resolve
from services.commands.training.options import TrainOptions
from services.gatekeeper.core.pipeline import decide
from services.gatekeeper.core.state import Accepted
from shared import safe_yaml
from shared.bundle import Bundle
from shared.config import KNOBS, InferenceConfig
from shared.errors import BundleError
from shared.events import STAGES, CheckpointInfo, RunSpec
from tests.unit.gatekeeper.story import COLLAPSED, DIVERGING, Outcome, Story, only, run_spec

ROOT = Path(__file__).parents[2]
FAILING = [
    DIVERGING,
    COLLAPSED,
    Outcome(loss=0.5),
    Outcome(reason="oom"),
    Outcome(reason="runtime_error"),
    Outcome(reason="non_finite"),
    Outcome(checkpoint="all invalid"),
]


@pytest.mark.parametrize("profile", profile_names(ROOT / "configs"))
def test_two_processes_under_ddp_are_the_default(profile: str) -> None:
    training = resolve(ROOT / "configs", profile).run.training
    assert training.nproc_per_node == 2
    assert training.distributed.use_ddp


def test_the_whole_pipeline_from_scratch_is_the_default() -> None:
    options = TrainOptions()
    assert options.stages == list(STAGES)
    assert options.inference
    assert options.checkpoints == {}


def test_the_standard_inference_test_has_the_standard_values() -> None:
    standard = {
        "use_actions": True,
        "context_window": 2,
        "prediction_horizon": 1,
        "generation_steps": 12,
        "temperature": 0.5,
        "max_mse": 0.03,
        "teacher_forced": False,
        "clips": 8,
    }
    shipped = resolve(ROOT / "configs", "inference-safe").run.inference
    assert {key: getattr(InferenceConfig(), key) for key in standard} == standard
    assert {key: getattr(shipped, key) for key in standard} == standard


@pytest.mark.parametrize("how", FAILING, ids=lambda how: how.reason if how.loss is None else "loss")
@pytest.mark.parametrize("stage", STAGES)
def test_no_ladder_changes_anything_but_knobs_and_the_target(how: Outcome, stage: str) -> None:
    story = Story(run_spec(), {(stage, number): how for number in range(1, 4)}).play()
    plans = [plan for plan in story.plans if plan.stage == stage]
    assert len(plans) > 1
    first: dict[str, Any] = plans[0].parameters
    for plan in plans[1:]:
        changed = {key for key, value in plan.parameters.items() if value != first[key]}
        assert changed <= {*KNOBS, "n_updates"}


def test_no_stage_is_complete_before_its_target_whatever_became_of_its_next_chunk() -> None:
    story = Story(only("video_tokenizer")).play()
    stage = story.state.stages["video_tokenizer"]
    short = replace(stage, completed=False, next=None, accepted=Accepted(10, "step_9"))
    state = replace(story.state.with_stage(short), finished=None, ending=None)
    assert decide(state) == []
    there = replace(short, accepted=Accepted(20, "step_19"))
    assert [event.name for event in decide(state.with_stage(there))] == ["stage_completed"]


def test_an_operator_who_retunes_a_paused_run_to_batch_1_makes_it_degraded() -> None:
    story = Story(only("video_tokenizer"), {("video_tokenizer", 1): Outcome(in_work=True)}).play()
    story.pause().finish(story.last_plan).play()
    assert story.status == "paused"
    story.retune(batch_size_per_gpu=1).resume().play()
    assert not any(gate.degraded for gate in story.gates[:1])
    assert story.state.degraded


def test_collapsed_actions_recommend_fewer_codes_for_the_next_cycle_only() -> None:
    story = Story(run_spec(), {("latent_actions", 1): COLLAPSED}).play()
    failed = next(gate for gate in story.gates if gate.stage == "latent_actions")
    assert any("next full cycle: fewer n_actions" in text for text in failed.recommendations)
    assert {plan.parameters["n_actions"] for plan in story.plans} == {4}


def test_no_message_names_a_file_outside_the_bundle(tmp_path: Path) -> None:
    for path in ("/etc/passwd", "../other", "a/../../b", "C:/x", "a\\b", ""):
        with pytest.raises(ValueError, match="no path inside the bundle"):
            CheckpointInfo(path=path, step=1, valid=True)
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "link").symlink_to(tmp_path)
    with pytest.raises(BundleError, match="leads out of the bundle"):
        Bundle(tmp_path / "bundle", "x").resolve("link/secret")


def test_a_run_is_named_so_that_it_stays_below_the_output_root() -> None:
    with pytest.raises(ValueError, match="run_name"):
        RunSpec.model_validate(run_spec().model_dump() | {"run_name": "../elsewhere"})


def test_asset_move_files_are_ignored_by_git() -> None:
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert "docs/action/asset-move-report-*.md" in ignored
    assert "docs/action/asset-move-manifest-*.txt" in ignored


def test_nothing_from_outside_is_run_as_code_or_read_by_a_shell() -> None:
    """No shell, no eval, no YAML or array loader that makes objects: names and files stay data."""
    never = {"os.system", "os.popen", "asyncio.create_subprocess_shell", "subprocess.getoutput"}
    never |= {"eval", "exec", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "h5py.special_dtype"}
    found = []
    for path in [*(ROOT / "services").rglob("*.py"), *(ROOT / "shared").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            words = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if (
                ast.unparse(node.func) in never
                or words.get("shell", "False") != "False"
                or words.get("allow_pickle", "False") != "False"
                or (ast.unparse(node.func) == "yaml.load" and path.name != "safe_yaml.py")
            ):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}")
    assert found == []
    assert issubclass(safe_yaml.Loader, yaml.SafeLoader)
    assert issubclass(yaml_file._Loader, safe_yaml.Loader)


def test_files_are_unpickled_in_one_place_and_never_with_code() -> None:
    """`torch.load` stands once, with weights_only; nothing imports pickle to load."""
    calls: list[tuple[str, ast.Call]] = []
    for path in [*(ROOT / "services").rglob("*.py"), *(ROOT / "shared").rglob("*.py")]:
        name = path.relative_to(ROOT).as_posix()
        calls += [
            (name, node)
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("load", "loads", "Unpickler")
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id in ("torch", "pickle", "dill", "joblib", "marshal")
        ]
    assert {name for name, _ in calls} == {"shared/worldmodel/safe_load.py"}
    for _, call in calls:
        assert ("weights_only", True) in [
            (word.arg, word.value.value) for word in call.keywords if isinstance(word.value, ast.Constant)
        ]
