"""The flags of train: which keys they set, which need or exclude each other, what --help says of them."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from services import cli
from services.commands.configuration.dotted_keys import find
from services.commands.configuration.files import Tree
from services.commands.configuration.resolve import paths_of, resolve
from services.commands.groups.train import train
from services.commands.training.flags import OF_PROFILE, OF_TRAINING, flag_of
from services.commands.training.options import FLAGS, TrainOptions, paths
from shared.errors import UsageError
from shared.events import STAGES

SHIPPED = Path(__file__).parents[3] / "configs"
SPEC_FLAGS = [
    "--profile",
    "--dataset",
    "--train-stage",
    "--only-stage",
    "--video-checkpoint",
    "--latent-checkpoint",
    "--dynamics-checkpoint",
    "--checkpoint-policy",
    "--target-updates",
    "--video-chunk",
    "--latent-chunk",
    "--dynamics-chunk",
    "--video-min-batch-size",
    "--latent-min-batch-size",
    "--dynamics-min-batch-size",
    "--init-batch-size",
    "--init-grad-accum",
    "--init-learning-rate",
    "--init-log-interval",
    "--nproc-per-node",
    "--allow-single-gpu",
    "--device",
    "--cleanup-extra-processes",
    "--enforce-dual-gpu-check",
    "--monitor-interval-sec",
    "--gpu-util-threshold",
    "--gpu-required-samples",
    "--max-retries",
    "--max-inference-retries",
    "--retry-chunk",
    "--retry-init-learning-rate",
    "--retry-lr-decay",
    "--max-mse",
    "--teacher-forced",
    "--sample-index",
    "--enable-wandb-analysis",
    "--wandb-source",
    "--history-audit-year",
    "--history-audit-mode",
    "--history-repo",
    "--checkout",
    "--repo-root",
    "--python-exec",
    "--torchrun",
    "--inference-backend",
    "--output-root",
    "--resume",
    "--observe",
    "--json",
]


KEYED = {name: flag for name, flag in FLAGS.items() if flag.key is not None}


def helps() -> dict[str, str]:
    parameters = inspect.signature(train, eval_str=True).parameters
    return {
        name: parameter.annotation.__metadata__[0].help or ""
        for name, parameter in parameters.items()
        if hasattr(parameter.annotation, "__metadata__")
    }


def written() -> dict[str, list[str]]:
    """Each flag as it may be written."""
    command = get_command(cli.app).commands["train"]  # type: ignore[attr-defined]
    return {parameter.name: parameter.opts for parameter in command.params}


def test_every_flag_sets_a_key_that_exists() -> None:
    lost = [
        path
        for flag in KEYED.values()
        for path in paths(str(flag.key), list(STAGES))
        if find(Tree, path) is None
    ]
    assert lost == []


@pytest.mark.parametrize(
    "name", [name for name in KEYED if KEYED[name].default not in (OF_PROFILE, OF_TRAINING)]
)
def test_help_names_the_key_and_the_default_of_a_flag(name: str) -> None:
    found = re.search(r"\(([\w.]+), default (.+)\)$", helps()[name])
    assert found is not None
    key, default = found.groups()
    (path,) = paths(str(KEYED[name].key), list(STAGES))
    assert path in paths_of(key)
    resolution = resolve(SHIPPED, "inference-safe")
    value: object = resolution if path[0] == "policy" else resolution.run
    for part in path:
        value = getattr(value, part)
    assert value is None or str(value).lower().removesuffix(".0") == default


def test_help_names_the_key_of_a_flag_whose_default_is_the_profiles() -> None:
    of_profile = [name for name in KEYED if KEYED[name].default == OF_PROFILE]
    assert len(of_profile) == 11
    for name in of_profile:
        key = str(KEYED[name].key).removeprefix("policy.")
        assert helps()[name].endswith(f"({key}, default of the profile)")
    assert helps()["dataset"].endswith("(training.dataset, default of training.yaml)")


@pytest.mark.parametrize("flag", SPEC_FLAGS)
def test_the_flags_of_the_documents_are_there_under_their_names(flag: str) -> None:
    assert flag in {name for names in written().values() for name in names}


def test_every_option_is_a_flag_and_every_flag_an_option() -> None:
    options = {field.name for field in dataclasses.fields(TrainOptions)}
    assert helps().keys() - options == {"resume", "nats_url", "as_json"}
    assert options <= helps().keys()


def test_the_table_becomes_the_options_that_the_command_gets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[TrainOptions] = []

    def record(options: TrainOptions, **_: object) -> int:
        seen.append(options)
        return 0

    monkeypatch.setattr("services.commands.training.train.train", record)
    typed = (
        "dynamics.context_noise=0 --only-stage dynamics --init-learning-rate 5e-4 --teacher-forced "
        "--cleanup-extra-processes false --checkpoint-policy latest --repo-root . --wandb-source local_only"
    )
    assert CliRunner().invoke(cli.app, ["train", *typed.split()]).exit_code == 0
    assert seen == [
        TrainOptions(
            assignments=("dynamics.context_noise=0",),
            only_stage="dynamics",
            init_learning_rate=5e-4,
            teacher_forced=True,
            cleanup_extra_processes=False,
            checkpoint_policy="latest",
            checkout=Path(),
            wandb_source="local_only",
        )
    ]


def test_a_flag_that_was_not_given_sets_nothing() -> None:
    assert TrainOptions().settings() == []
    given = TrainOptions(teacher_forced=True, cleanup_extra_processes=False, checkout=Path("a")).settings()
    assert [(".".join(setting.path), setting.value) for setting in given] == [
        ("policy.trainer.cleanup_extra_processes", False),
        ("inference.teacher_forced", True),
        ("policy.trainer.checkout", "a"),
    ]


def test_init_flags_and_the_target_go_to_the_stages_that_are_trained() -> None:
    one = TrainOptions(only_stage="video_tokenizer", init_batch_size=4, target_updates=9).settings()
    assert [(setting.path, setting.value, setting.origin) for setting in one] == [
        (("video_tokenizer", "n_updates"), 9, "--target-updates"),
        (("video_tokenizer", "batch_size_per_gpu"), 4, "--init-batch-size"),
    ]
    assert len(TrainOptions(init_learning_rate=1e-3).settings()) == 3


def test_a_flag_is_named_as_it_is_written() -> None:
    assert flag_of("gpu_util_threshold") == "--gpu-util-threshold"


def test_dynamics_alone_needs_the_checkpoints_of_the_other_two() -> None:
    with pytest.raises(UsageError, match="needs --video-checkpoint"):
        _ = TrainOptions(only_stage="dynamics", latent_checkpoint="x").checkpoints
    with pytest.raises(UsageError, match="needs --latent-checkpoint"):
        _ = TrainOptions(only_stage="dynamics", video_checkpoint="x").checkpoints


def test_the_newest_checkpoints_may_stand_in_for_those_that_dynamics_needs() -> None:
    assert TrainOptions(only_stage="dynamics", checkpoint_policy="latest").checkpoints == {}
    assert TrainOptions(only_stage="dynamics").needed == list(STAGES)
    assert TrainOptions(only_stage="latent_actions").needed == ["latent_actions"]


def test_only_a_run_with_dynamics_or_without_training_reaches_the_inference_gate() -> None:
    assert TrainOptions().inference
    assert TrainOptions(train_stage="none").inference
    assert TrainOptions(only_stage="dynamics").inference
    assert not TrainOptions(only_stage="latent_actions").inference


def test_flags_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(UsageError, match="give one of them"):
        _ = TrainOptions(train_stage="none", only_stage="dynamics").stages
    with pytest.raises(UsageError, match="--dynamics-checkpoint plays no part"):
        _ = TrainOptions(only_stage="video_tokenizer", dynamics_checkpoint="x").checkpoints
