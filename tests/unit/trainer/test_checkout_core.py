"""How a checkout is driven: counting, keys, command line, what its output and rows tell."""

from __future__ import annotations

import ast
import math
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as some

from services.trainer.core.checkout.dialect import by_source, by_steps
from services.trainer.core.checkout.launch import Counts, command, counts, overrides, ranks, warnings
from services.trainer.core.checkout.loss import is_divided
from services.trainer.core.checkout.output import Told, told
from services.trainer.core.checkout.rows import by_update, diverged
from services.trainer.core.checkout.schema import imported_configs, keys_of, keys_of_file
from services.trainer.core.lineage import resume_point
from shared.config import StageConfig
from shared.events import CheckoutSpec, CheckpointInfo, ChunkPlan, Schedule

LOOP = "for i in {}:\n    train(i)\n"


@pytest.mark.parametrize(
    ("iterator", "counts"),
    [
        ("tqdm(range(args.n_updates), disable=not is_main)", "relative"),
        ("tqdm(range(0, args.n_updates))", "relative"),
        ("range(start_step, args.n_updates)", "absolute"),
        ("tqdm(range(int(state['step']) + 1, cfg['n_updates']))", "absolute"),
        ("range(start, n_updates, 1)", "absolute"),
        ("range(args.gradient_accumulation_steps)", None),
        ("steps_of(args)", None),
    ],
)
def test_a_scripts_source_says_how_it_counts(iterator: str, counts: str | None) -> None:
    noise = "for micro in range(args.gradient_accumulation_steps):\n    pass\n"
    assert by_source(noise + LOOP.format(iterator)) == counts


def test_a_source_that_says_both_or_cannot_be_read_says_nothing() -> None:
    both = LOOP.format("range(args.n_updates)") + LOOP.format("range(start, args.n_updates)")
    assert by_source(both) is None
    assert by_source("for i in range(args.n_updates") is None


def test_the_first_step_saved_shows_how_a_resumed_script_counts() -> None:
    assert by_steps([0, 4], 7) == "relative"
    assert by_steps([0, 4, 8], 7) == "relative"
    assert by_steps([8], 7) == "absolute"
    assert by_steps([7], 7) == "absolute"
    assert by_steps([0], 0) is None
    assert by_steps([], 7) is None


@given(some.integers(0, 300), some.integers(1, 300), some.integers(1, 600))
def test_a_relative_launch_ends_with_a_save_past_the_target_by_less_than_the_interval(
    start: int, more: int, interval: int
) -> None:
    found = counts("relative", start, start + more, interval)
    assert (found.updates - 1) % found.log_interval == 0  # its last is saved
    assert more <= found.updates < more + interval
    assert 1 <= found.log_interval <= interval
    assert (found.n_updates, found.offset) == (found.updates, start)


@given(some.integers(0, 300), some.integers(1, 300), some.integers(1, 600))
def test_an_absolute_launch_ends_at_the_target_and_draws_a_picture(
    start: int, more: int, interval: int
) -> None:
    found = counts("absolute", start, start + more, interval)
    assert (found.n_updates, found.updates, found.offset) == (start + more, more, 0)
    assert 1 <= found.log_interval <= interval
    assert any(step % found.log_interval == 0 for step in range(start, start + more))


def test_counts_of_the_documents_commands() -> None:
    assert counts("absolute", 5000, 10000, 500) == Counts(10000, 500, 5000, 0)
    assert counts("relative", 5000, 10000, 500) == Counts(5001, 500, 5001, 5000)
    assert counts("relative", 0, 20, 20) == Counts(20, 19, 20, 0)  # not step 0 alone


def arguments(keys: set[str], **changes: Any) -> dict[str, str]:
    config = StageConfig.model_validate({"device": "cuda", "learning_rate": 1e-5, "dataset": "x"} | changes)
    found = overrides(
        config,
        Counts(10, 5, 10, 0),
        keys,
        dataset="PONG",
        checkpoint=None,
        upstream={"video_tokenizer": "/runs/v", "latent_actions": "/runs/l"},
    )
    return dict(text.split("=", 1) for text in found)


def test_only_keys_of_the_schema_are_passed() -> None:
    keys = {"n_updates", "log_interval", "checkpoint", "device", "distributed.use_ddp", "nproc_per_node"}
    assert arguments(keys) == {
        "n_updates": "10",
        "log_interval": "5",
        "checkpoint": "null",
        "device": "cuda",
        "distributed.use_ddp": "true",
        "nproc_per_node": "2",
    }
    dynamics = arguments(
        keys | {"video_tokenizer_path", "latent_actions_path", "dataset", "n_actions", "amp"}
    )
    assert dynamics["video_tokenizer_path"] == "/runs/v"
    assert (dynamics["dataset"], dynamics["n_actions"], dynamics["amp"]) == ("PONG", "4", "false")
    assert "seed" not in dynamics
    assert "fps" not in arguments({"fps"})  # none is the checkout's default


def test_without_a_gpu_it_is_one_process_without_what_needs_one() -> None:
    keys = {
        "device",
        "distributed.use_ddp",
        "distributed.use_fsdp",
        "nproc_per_node",
        "amp",
        "compile",
        "tf32",
    }
    assert arguments(keys, device="cpu", amp=True, compile=True, tf32=True) == {
        "device": "cpu",
        "distributed.use_ddp": "false",
        "distributed.use_fsdp": "false",
        "nproc_per_node": "1",
        "amp": "false",
        "compile": "false",
        "tf32": "true",
    }
    assert ranks(StageConfig(device="cpu", nproc_per_node=2)) == 1


def test_numbers_are_written_as_yaml_reads_them() -> None:
    assert arguments({"learning_rate"}) == {"learning_rate": "1e-05"}


@pytest.mark.parametrize("path", ["/my runs/#1: Zelda/ünï=1/20260101", "/runs/model #2", "/runs/odd:"])
def test_a_path_is_written_as_yaml_reads_it(path: str) -> None:
    found = overrides(
        StageConfig(), Counts(1, 1, 1, 0), {"checkpoint"}, dataset="PONG", checkpoint=path, upstream={}
    )
    assert yaml.safe_load(found[0].removeprefix("checkpoint=")) == path


def test_several_processes_start_under_torchrun() -> None:
    own = CheckoutSpec(
        directory="/repo", python="/repo/.venv/bin/python", torchrun="/repo/.venv/bin/torchrun"
    )
    assert command(own, 1, "scripts/train_dynamics.py", ["a=1"]) == [
        own.python,
        "scripts/train_dynamics.py",
        "a=1",
    ]
    assert command(own, 2, "s.py", [])[:3] == [own.torchrun, "--standalone", "--nproc_per_node=2"]
    none = own.model_copy(update={"torchrun": None})
    assert command(none, 2, "s.py", [])[:3] == [own.python, "-m", "torch.distributed.run"]


def test_a_stage_in_pieces_is_warned_of() -> None:
    assert warnings("relative", whole_stage=True) == []
    assert "empty optimizer" in warnings("relative", whole_stage=False)[0]
    assert "empty optimizer" not in warnings("absolute", whole_stage=False)[0]


# --- losses -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("divide", "log", "divided"),
    [
        ("loss /= args.gradient_accumulation_steps", "{'train/loss': loss.item()}", True),
        ("loss = loss / cfg['n'].gradient_accumulation_steps", "{'loss': float(loss)}", True),
        ("loss /= args.gradient_accumulation_steps", "{'mse_loss': other.item()}", False),
        ("loss /= args.gradient_accumulation_steps", "{'lossy': loss.item()}", False),
        (
            "loss /= args.gradient_accumulation_steps",
            "{'loss': loss.item() * args.gradient_accumulation_steps}",
            False,
        ),
        ("(loss / args.gradient_accumulation_steps).backward()", "{'loss': loss.item()}", False),
        ("loss /= args.world_size", "{'loss': loss.item()}", False),
        ("loss *= args.gradient_accumulation_steps", "{'loss': loss.item()}", False),
        ("loss /= (", "", False),
    ],
)
def test_a_scripts_source_says_whether_its_logged_loss_is_divided(
    divide: str, log: str, divided: bool
) -> None:
    assert is_divided(f"with context:\n    {divide}\nwandb.log({log}, step=i)\n") is divided


# --- schemas ----------------------------------------------------------------------------------------------

SCRIPT = """
from utils.config import DynamicsConfig, DistributedConfig, load_stage_config_merged
from utils.utils import readable_timestamp
args: DynamicsConfig = load_stage_config_merged(DynamicsConfig, default_config_path="x")
"""
MODULE = """
@dataclass
class Precision:
    param_dtype: str = "bfloat16"

@dataclass
class DistributedConfig:
    use_ddp: bool = False
    precision: Precision | None = None

@dataclass
class Base:
    n_updates: int

@dataclass
class DynamicsConfig(Base):
    checkpoint: Optional[str]
    distributed: DistributedConfig
    use_actions: bool = True

    def __post_init__(self) -> None:
        note: int = 1
"""


def test_the_schema_is_the_class_that_the_script_loads() -> None:
    assert imported_configs(SCRIPT) == {"DynamicsConfig": "utils.config"}
    assert keys_of(MODULE, "DynamicsConfig") == {
        "n_updates",
        "checkpoint",
        "distributed.use_ddp",
        "distributed.precision.param_dtype",
        "use_actions",
    }
    assert keys_of(MODULE, "Missing") == frozenset()


def test_without_a_class_the_file_is_the_schema() -> None:
    found = keys_of_file({"n_actions": 4, "distributed": {"use_fsdp": True}})
    assert {"n_actions", "distributed.use_fsdp", "n_updates", "checkpoint"} <= found
    assert "latent_dim" not in found


def test_broken_source_has_no_keys() -> None:
    with pytest.raises(SyntaxError):
        ast.parse("class (")
    assert imported_configs("class (") == {}
    assert keys_of("class (", "A") == frozenset()


# --- what a launch shows ----------------------------------------------------------------------------------


def test_the_progress_bar_tells_the_updates() -> None:
    other = "Loading frames: 100%|##########| 400/400 [00:00<00:00, 36.04it/s]\r"
    bar = " 12%|#2        | 24/200 [00:03<00:26, 6.6it/s]\r"
    assert told(other + bar, 200) == Told(updates=24)
    assert told("nothing", 200) == Told()


def test_a_printed_loss_that_is_no_number_is_seen() -> None:
    fine = told("\n Step 100 Loss: 0.02 Codebook Usage: 0.5\n Step 200 Loss: 1e-05\n", 200)
    assert fine == Told(loss=1e-05)
    broken = told("\n Step 300 Loss: nan\n", 200)
    assert broken == Told(non_finite=True)
    assert fine.then(broken) == Told(non_finite=True, loss=1e-05)
    assert not told("\n Step 300 Loss: tensor\n", 200).non_finite


def test_what_only_looks_like_a_loss_or_a_bar_tells_nothing() -> None:
    assert told("Step 1 Loss: -\nStep 2 Loss: 1.2.3\nStep 3 Loss: e5\n", 200) == Told()
    assert told("1" * 1_000_000 + "/" + "2" * 5000 + " [", 200) == Told()


def test_logged_rows_come_under_absolute_steps() -> None:
    logged = [
        {"_step": 0, "train/loss": 0.5, "_runtime": 1.5, "_timestamp": 9.0, "action_distribution._type": "x"},
        {"_step": 0, "learning_rate/group_0": 0.1},
        {"_step": 1, "train/loss": "NaN"},
        {"_step": 5, "train/loss": 0.1},
    ]
    found = by_update(logged, 7, first=7, end=9)
    assert found[7] == {"_step": 7, "train/loss": 0.5, "_runtime": 1.5, "learning_rate/group_0": 0.1}
    assert list(found) == [7, 8]
    assert diverged(found.values())
    assert not diverged([found[7], {"_step": 9}])


def test_a_loss_that_was_logged_divided_is_multiplied_back() -> None:
    logged = [{"_step": 0, "train/loss": 0.5, "train/moe_aux_loss": 0.5}]
    found = by_update(logged, 0, first=0, end=9, loss_factor=3)
    assert found[0] == {"_step": 0, "train/loss": 1.5, "train/moe_aux_loss": 0.5}


def test_odd_values_spoil_no_row() -> None:
    logged = [
        {"_step": 0, "step": "NaN", "train/loss": 0.5},
        {"_step": 1, "step": math.inf, "train/loss": 0.5},
        {"_step": 2, "train/loss": 10**400, "text": "x", "many": [1], "none": None},
        {"train/loss": 0.5},
    ]
    assert by_update(logged, 0, first=0, end=9) == {2: {"_step": 2, "train/loss": math.inf}}


def test_older_scripts_log_the_update_in_a_column_of_its_own() -> None:
    logged = [
        {"_step": 0, "step": 0, "train/loss": 0.5},
        {"_step": 1, "step": 0, "learning_rate/group_0": 0.1},
        {"_step": 2, "step": 1, "train/loss": 0.4},
    ]
    found = by_update(logged, 0, first=0, end=10)
    assert found == {
        0: {"_step": 0, "train/loss": 0.5, "learning_rate/group_0": 0.1},
        1: {"_step": 1, "train/loss": 0.4},
    }


def test_a_checkpoint_a_little_past_the_target_is_the_plans_own() -> None:
    plan = ChunkPlan(
        stage="dynamics",
        attempt=2,
        start_step=7,
        target_step=10,
        schedule=Schedule(peak=1e-3, start_step=0, end_step=20),
        parameters={},
        overshoot=3,
    )
    found = [CheckpointInfo(path=f"{step}", step=step, valid=True) for step in (7, 11, 14)]
    assert resume_point(plan, found) == ("11", 11)
