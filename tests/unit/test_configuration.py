"""Configuration: how files, profile and flags come together, and what a person is told when they cannot."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from pydantic import ValidationError

from services.commands.configuration.dotted_keys import Setting
from services.commands.configuration.files import find_configs, profile_names
from services.commands.configuration.resolve import Resolution, assignments, resolve
from services.commands.training.options import TrainOptions
from services.policy import Policy
from shared.config import RunConfig
from shared.errors import ConfigurationError, UsageError
from shared.events import STAGES

SHIPPED = Path(__file__).parents[2] / "configs"

# profile: per stage batch, accumulation, learning rate, log interval, chunk, target, floor
PROFILES = {
    "diagnostics-baseline": (
        (16, 2, 4e-4, 2500, 5000, 50000, 8),
        (16, 1, 1e-4, 500, 1000, 15000, 8),
        (12, 1, 2e-4, 1000, 5000, 160000, 4),
    ),
    "diagnostics-safe": (
        (8, 2, 3e-4, 500, 5000, 40000, 8),
        (8, 1, 1e-4, 500, 2000, 10000, 8),
        (8, 1, 2e-4, 1000, 4000, 160000, 4),
    ),
    "inference-baseline": (
        (16, 2, 1e-3, 2500, 5000, 40000, 1),
        (16, 1, 1e-4, 500, 1000, 10000, 1),
        (8, 2, 5e-4, 1000, 5000, 300000, 1),
    ),
    "inference-safe": (
        (8, 2, 3e-4, 500, 5000, 40000, 1),
        (8, 1, 1e-4, 500, 2000, 10000, 1),
        (4, 2, 5e-4, 1000, 4000, 300000, 1),
    ),
    "smoke": (
        (16, 2, 1e-3, 100, 200, 200, 1),
        (16, 1, 1e-4, 100, 200, 200, 1),
        (8, 2, 5e-4, 100, 200, 200, 1),
    ),
}


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the shipped files that a test may spoil."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(SHIPPED, tmp_path / "configs")
    return Path("configs")


def with_line(configs: Path, name: str, key: str, line: str) -> None:
    """Replace the line of a key, or add it."""
    path = configs / name
    kept = [text for text in path.read_text().splitlines() if not text.startswith(f"{key}:")]
    path.write_text("\n".join([*kept, line]) + "\n")


def refusal(
    configs: Path, *, profile: str = "demo", flags: list[Setting] | None = None
) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        resolve(configs, profile, flags=flags or [])
    return caught.value


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_has_the_numbers_of_the_table(profile: str) -> None:
    resolution = resolve(SHIPPED, profile)
    gate = resolution.policy.gatekeeper
    found = tuple(
        (
            stage.batch_size_per_gpu,
            stage.gradient_accumulation_steps,
            stage.learning_rate,
            stage.log_interval,
            gate.chunk.of(name),
            stage.n_updates,
            gate.min_batch_size.of(name),
        )
        for name in STAGES
        for stage in [getattr(resolution.run, name)]
    )
    assert found == PROFILES[profile]


def test_all_profiles_of_the_table_are_there() -> None:
    assert profile_names(SHIPPED) == sorted([*PROFILES, "demo"])


def test_the_demo_has_three_gates_a_stage_and_wants_skill() -> None:
    resolution = resolve(SHIPPED, "demo")
    gate = resolution.policy.gatekeeper
    assert all(getattr(resolution.run, stage).n_updates / gate.chunk.of(stage) >= 3 for stage in STAGES)
    assert gate.require["skill"].above == 0
    assert gate.absolute_loss_from == 1


def test_the_policy_file_shows_the_defaults(configs: Path) -> None:
    (configs / "profiles" / "empty.yaml").write_text("")
    assert resolve(configs, "empty").policy == Policy()


def test_every_value_says_where_it_came_from(configs: Path) -> None:
    options = TrainOptions(init_batch_size=2, assignments=("dynamics.learning_rate=5e-4",))
    resolution = resolve(configs, "demo", flags=[*options.settings(), *assignments(options.assignments)])
    origins = resolution.origins
    assert origins["dynamics.dynamics_masking"] == "configs/dynamics.yaml"
    assert origins["dynamics.embed_dim"] == "profile demo"
    assert origins["dynamics.batch_size_per_gpu"] == "--init-batch-size"
    assert origins["dynamics.learning_rate"] == "command line"
    assert origins["video_tokenizer.learning_rate"] == "profile demo"
    assert origins["policy.gatekeeper.max_retries"] == "configs/policy.yaml"
    with_line(configs, "training.yaml", "amp", "")
    assert resolve(configs, "demo").origins["training.amp"] == "default"


def test_flags_beat_checkpoints_beat_the_profile_beats_the_files(configs: Path) -> None:
    def rate(**given: list[Setting]) -> float:
        return resolve(configs, "demo", **given).run.dynamics.learning_rate

    checkpoint = [Setting(("dynamics", "learning_rate"), 0.25, "checkpoint x", "learning_rate")]
    flag = [Setting(("dynamics", "learning_rate"), 0.5, "--init-learning-rate", "learning_rate")]
    (configs / "profiles" / "empty.yaml").write_text("")
    assert resolve(configs, "empty").run.dynamics.learning_rate == 5e-4
    assert rate() == 5e-3
    assert rate(checkpoints=checkpoint) == 0.25
    assert rate(checkpoints=checkpoint, flags=flag) == 0.5


def test_training_yaml_overrides_the_stage_files(configs: Path) -> None:
    with_line(configs, "training.yaml", "log_interval", "log_interval: 7")
    (configs / "profiles" / "empty.yaml").write_text("")
    resolution = resolve(configs, "empty")
    assert {getattr(resolution.run, stage).log_interval for stage in STAGES} == {7}
    assert resolution.origins["dynamics.log_interval"] == "configs/training.yaml"


def test_an_unprefixed_key_goes_wherever_a_schema_has_it() -> None:
    def resolved(*texts: str) -> Resolution:
        return resolve(SHIPPED, "demo", flags=assignments(texts))

    run = resolved("learning_rate=1e-3", "seed=3", "temperature=0").run
    assert [getattr(run, stage).learning_rate for stage in STAGES] == [1e-3] * 3
    assert (run.training.seed, run.inference.seed) == (3, 3)
    assert resolved("training.seed=4").run.inference.seed == 0
    assert resolved("max_retries=1").policy.gatekeeper.max_retries == 1
    assert resolved("gatekeeper.chunk.dynamics=9").policy.gatekeeper.chunk.dynamics == 9
    assert resolved("inference.action_seeds=2").policy.inference.action_seeds == 2
    assert resolved("require.skill.above=0.6").policy.gatekeeper.require["skill"].above == 0.6


def test_a_section_given_as_a_whole_replaces_what_was_below_it() -> None:
    assert resolve(SHIPPED, "demo", flags=assignments(["require={}"])).policy.gatekeeper.require == {}


def test_an_exponent_without_a_dot_is_a_number(configs: Path) -> None:
    with_line(configs, "dynamics.yaml", "learning_rate", "learning_rate: 1e-3")
    assert resolve(configs, "smoke").run.dynamics.learning_rate == 5e-4
    assert (
        resolve(configs, "smoke", flags=assignments(["learning_rate=1e-3"])).run.dynamics.learning_rate
        == 1e-3
    )


# --- what is refused --------------------------------------------------------------------------------------


def test_a_typo_names_file_key_and_what_was_meant(configs: Path) -> None:
    with_line(configs, "dynamics.yaml", "lerning_rate", "lerning_rate: 1.0e-3")
    assert (
        str(refusal(configs))
        == "configs/dynamics.yaml: lerning_rate: unknown key. Did you mean learning_rate?"
    )


def test_a_typo_in_a_profile_names_its_file(configs: Path) -> None:
    (configs / "profiles" / "mine.yaml").write_text("policy: {gatekeeper: {chunks: {dynamics: 3}}}\n")
    error = refusal(configs, profile="mine")
    assert (error.source, error.key) == ("configs/profiles/mine.yaml", "policy.gatekeeper.chunks")
    assert error.cure == "Did you mean chunk?"


def test_a_typo_on_the_command_line_is_recognized() -> None:
    with pytest.raises(ConfigurationError, match=r"lerning_rate: unknown key\. Did you mean learning_rate\?"):
        assignments(["lerning_rate=1"])
    with pytest.raises(ConfigurationError, match=r"Did you mean gatekeeper\.max_retries\?"):
        assignments(["gatekeeper.max_retrys=1"])
    with pytest.raises(ConfigurationError, match="no KEY=VALUE"):
        assignments(["fast"])


@pytest.mark.parametrize(
    ("key", "written", "text"),
    [
        ("batch_size_per_gpu", "many", "'many' cannot be used. It should be a valid integer"),
        ("batch_size_per_gpu", "'8'", "'8' cannot be used. It should be a valid integer"),
        ("batch_size_per_gpu", "true", "True cannot be used. It should be a valid integer"),
        ("batch_size_per_gpu", "0", "0 cannot be used. It should be greater than 0"),
        ("learning_rate", ".nan", "it must be finite. Give a number"),
        ("learning_rate", "[1, {x: -.inf}]", "it must be finite. Give a number"),
        ("log_interval", "9" * 400, "it must be finite. Give a number"),
        ("learning_rate", "-1", "-1 cannot be used. It should be greater than 0"),
        ("optimizer", "sgd", "'sgd' cannot be used. It should be 'adamw' or 'muon'"),
        ("embed_dim", "[1, 2]", "[1, 2] cannot be used. It should be a valid integer"),
    ],
)
def test_a_wrong_value_names_file_key_and_what_fits(configs: Path, key: str, written: str, text: str) -> None:
    (configs / "profiles" / "empty.yaml").write_text("")
    with_line(configs, "dynamics.yaml", key, f"{key}: {written}")
    assert str(refusal(configs, profile="empty")) == f"configs/dynamics.yaml: {key}: {text}"


@pytest.mark.parametrize("key", ["seed", "inference.seed"])
@pytest.mark.parametrize("seed", [-1, 10**30])
def test_a_seed_that_a_generator_would_refuse_in_the_end_is_refused_at_once(
    configs: Path, key: str, seed: int
) -> None:
    assert refusal(configs, flags=assignments([f"{key}={seed}"])).key == key


def test_values_that_contradict_each_other_name_both_sources(configs: Path) -> None:
    error = refusal(configs, flags=assignments(["frame_size=60"]))
    assert "frame_size 60 is no multiple of patch_size 8" in str(error)
    assert "configs/profiles/demo.yaml" in error.source
    assert "command line" in error.source


def test_a_misaligned_backbone_names_files_and_values(configs: Path) -> None:
    (configs / "profiles" / "empty.yaml").write_text("")
    with_line(configs, "dynamics.yaml", "embed_dim", "embed_dim: 256")
    error = refusal(configs, profile="empty")
    assert error.key == "embed_dim"
    assert "128 for latent_actions in configs/latent_actions.yaml" in error.problem
    assert "256 for dynamics in configs/dynamics.yaml" in error.problem
    assert "embed_dim=128" in error.cure


def test_what_stages_share_comes_from_training_yaml_alone(configs: Path) -> None:
    with_line(configs, "dynamics.yaml", "latent_dim", "latent_dim: 6")
    assert str(refusal(configs)) == (
        "configs/dynamics.yaml: latent_dim: 6 here, 5 in configs/training.yaml. "
        "What all stages share comes from training.yaml alone: remove it here"
    )
    with pytest.raises(ConfigurationError, match=r"Its place is training\.latent_dim"):
        assignments(["dynamics.latent_dim=6"])


def test_a_checkpoint_path_in_a_file_is_refused(configs: Path) -> None:
    with_line(configs, "dynamics.yaml", "video_tokenizer_path", "video_tokenizer_path: results/old")
    error = refusal(configs)
    assert (error.source, error.key) == ("configs/dynamics.yaml", "video_tokenizer_path")
    assert "--video-checkpoint" in error.cure


def test_a_key_given_twice_is_refused(configs: Path) -> None:
    path = configs / "inference.yaml"
    path.write_text(path.read_text() + "clips: 9\n")
    assert "configs/inference.yaml: key 'clips' stands twice (line " in str(refusal(configs))


@pytest.mark.parametrize("content", [b"a: [", b"\xff\xfe", b"- 1\n", b"1: 2\n", b"? [a]\n: 1\n"])
def test_a_file_that_is_no_mapping_is_refused_by_name(configs: Path, content: bytes) -> None:
    (configs / "training.yaml").write_bytes(content)
    assert refusal(configs).source == "configs/training.yaml"


def test_a_missing_file_is_named(configs: Path) -> None:
    (configs / "policy.yaml").unlink()
    assert str(refusal(configs)).startswith("configs/policy.yaml: the file does not exist")


def test_an_unknown_profile_says_what_was_meant(configs: Path) -> None:
    with pytest.raises(UsageError, match="did you mean smoke"):
        resolve(configs, "smok")


def test_the_nearest_configs_directory_is_read(configs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_configs(None) == Path("configs")
    assert find_configs(configs / "profiles") == configs / "profiles"
    with pytest.raises(UsageError, match="--configs nowhere: no such directory"):
        find_configs(Path("nowhere"))
    monkeypatch.chdir(configs / "profiles")
    assert find_configs(None) == SHIPPED


def test_a_resolved_run_survives_the_wire() -> None:
    run = resolve(SHIPPED, "demo").run
    assert RunConfig.model_validate(run.model_dump(mode="json")) == run


def test_what_an_event_holds_is_read_back_without_the_keys_of_another_version() -> None:
    resolved = resolve(SHIPPED, "demo")
    for own in (resolved.run, resolved.policy):
        content = {"of_another_version": {}, **own.model_dump(mode="json")}
        for section in content.values():
            section["of_another_version"] = 1
        with pytest.raises(ValidationError, match="of_another_version"):
            type(own).model_validate(content)
        assert type(own).recorded(content) == own
