"""policy show: what train would start with, and what set each value."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from services.commands.configuration.dotted_keys import leaves
from services.commands.configuration.files import Tree
from services.commands.training.options import TrainOptions
from services.commands.training.start import prepare
from shared.errors import CheckpointError, ConfigurationError, UsageError
from tests.unit.cli.test_given import SMALL, save

UNTIL_THE_MACHINE_IS_LOOKED_AT = {("inference", "device"), ("policy", "reporter", "history_repo")}
SHIPPED = Path(__file__).parents[3] / "configs"
Invoke = Callable[..., Result]


def shown(worldloop: Invoke, *arguments: str) -> dict[str, dict[str, object]]:
    result = worldloop("policy", "show", *arguments, "--json")
    assert result.exit_code == 0, result.exception
    return json.loads(result.stdout)  # type: ignore[no-any-return]


def test_every_value_there_is_is_shown_as_train_would_start_with_it(dataset: Path, worldloop: Invoke) -> None:
    found = shown(worldloop, "--profile", "demo", f"dataset={dataset}", "dynamics.learning_rate=1e-3")
    assert found.keys() == {".".join(path) for path in leaves(Tree)}
    options = TrainOptions(profile="demo", dataset=str(dataset), assignments=("dynamics.learning_rate=1e-3",))
    resolution = prepare(options, gpus=0).resolution
    content = {**resolution.run.model_dump(mode="json"), "policy": resolution.policy.model_dump(mode="json")}
    for path in leaves(Tree):
        if path not in UNTIL_THE_MACHINE_IS_LOOKED_AT:
            value: object = content
            for part in path:
                value = value[part]  # type: ignore[index]
            assert found[".".join(path)]["value"] == value, path


def test_each_of_the_five_origins_has_its_word(place: Path, worldloop: Invoke) -> None:
    save(place / "runs", "video_tokenizer")
    arguments = ("--video-checkpoint", "20260101_000000", "--profile", "demo", "max_retries=1")
    sizes = [f"{key}={value}" for key, value in SMALL.items() if key == "n_actions"]
    found = shown(worldloop, *arguments, *sizes)
    assert found["policy.gatekeeper.max_retries"]["origin"] == "flag"
    assert found["video_tokenizer.learning_rate"] == {
        "value": 0.125,
        "origin": "checkpoint",
        "source": found["video_tokenizer.learning_rate"]["source"],
    }
    assert found["training.patch_size"]["origin"] == "checkpoint"
    assert found["dynamics.n_updates"] == {"value": 3600, "origin": "profile", "source": "profile demo"}
    assert found["policy.gatekeeper.max_restarts"]["origin"] == "file"
    assert str(found["policy.gatekeeper.max_restarts"]["source"]).endswith("configs/policy.yaml")
    assert found["dynamics.use_moe"]["origin"] in ("file", "default")
    assert "default" in {row["origin"] for row in found.values()}


def test_a_directory_named_like_a_layer_is_a_file_all_the_same(place: Path, worldloop: Invoke) -> None:
    shutil.copytree(SHIPPED, place / "profile")
    found = shown(worldloop, "--configs", "profile", "--profile", "demo")
    assert found["policy.gatekeeper.max_restarts"] == {
        "value": 2,
        "origin": "file",
        "source": "profile/policy.yaml",
    }


def test_a_mapping_that_several_set_has_the_word_of_the_highest(worldloop: Invoke) -> None:
    arguments = ("--profile", "demo", "gatekeeper.require.psnr.min=20")
    found = shown(worldloop, *arguments)["policy.gatekeeper.require"]
    assert (found["origin"], found["source"]) == ("flag", "profile demo, command line")


def test_sections_keep_what_begins_so(worldloop: Invoke) -> None:
    found = shown(worldloop, "--section", "dynamics", "--section", "policy.gatekeeper.chunk")
    assert {key.rpartition(".")[0] for key in found} == {"dynamics", "policy.gatekeeper.chunk"}
    with pytest.raises(UsageError, match="did you mean dynamics"):
        raise worldloop("policy", "show", "--section", "dynamcs").exception  # type: ignore[misc]


def test_lines_are_key_value_and_origin(worldloop: Invoke) -> None:
    lines = worldloop("policy", "show", "--profile", "demo", "--section", "policy.gatekeeper.chunk").stdout
    rows = [line.split() for line in lines.splitlines()]
    assert rows[0] == ["policy.gatekeeper.chunk.video_tokenizer", "700", "profile:", "demo"]
    assert worldloop("policy", "show", "max_retries=3").stdout.count("flag: command line") == 1


def test_what_train_refuses_is_refused(worldloop: Invoke) -> None:
    for arguments, kind in (
        (["lerning_rate=1"], ConfigurationError),
        (["--profile", "nix"], UsageError),
        (["--video-checkpoint", "runs"], (UsageError, CheckpointError)),
    ):
        error = worldloop("policy", "show", *arguments).exception
        assert isinstance(error, kind)
