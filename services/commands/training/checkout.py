"""A TinyWorlds checkout as `worldloop train` finds it: what its files set, its data, its programs.

The files that a checkout needs, and its programs, are found by `shared.checkout`.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from services.commands.configuration.dotted_keys import KeyPath, Setting, find
from services.commands.configuration.files import Tree, display
from services.commands.configuration.resolve import Resolution
from services.commands.configuration.yaml_file import read_mapping
from services.trainer.checkout.repository import Repository
from services.trainer.core.checkout.launch import warnings
from shared.checkout import TRAINING, config, locate, script
from shared.config import ALIGNED, BACKBONE
from shared.datasets.names import dataset_path
from shared.errors import ConfigurationError, UsageError
from shared.events import STAGES, CheckoutSpec, Stage
from shared.home import expanded

OF_TRAINING = (*ALIGNED, "dataset", "fps", "preload_ratio", "amp", "tf32", "compile", "wandb_project")
OF_STAGES = (
    *BACKBONE,
    "optimizer",
    "use_actions",
    "use_moe",
    "num_experts",
    "top_k_experts",
    "moe_aux_loss_coeff",
)
"""What a checkout's own files say of the model and its data. How it is trained is the profile's: batch,
learning rate, intervals, targets, processes."""
HARD_CODED = ("checkpoint", "video_tokenizer_path", "latent_actions_path")
WORLDLOOPS = ("dataset", "device", "nproc_per_node", "distributed", "held_out_ratio", "wandb", "output_root")
"""Keys of training.yaml that worldloop itself acts on, whatever the scripts take."""
PROBE = "import torch; print(torch.cuda.device_count())"
PROBE_SEC = 180.0


def locate_asked(resolution: Resolution) -> CheckoutSpec | None:
    """The checkout that the policy names, looked over; none where the built-in trainer trains.

    Raises:
        UsageError: It lacks a file, or a program that was named is not there.
        ConfigurationError: Something is asked of a checkout, and none is named.
    """
    asked, backend = resolution.policy.trainer, resolution.policy.inference.backend
    if asked.checkout is not None:
        return locate(
            expanded(asked.checkout),
            python=expanded(asked.python_exec) if asked.python_exec else None,
            torchrun=expanded(asked.torchrun) if asked.torchrun else None,
            inference=backend,
        )
    wanted = {
        "policy.trainer.python_exec": asked.python_exec,
        "policy.trainer.torchrun": asked.torchrun,
        "policy.inference.backend": backend if backend == "checkout" else None,
    }
    for key, value in wanted.items():
        if value is not None:
            raise ConfigurationError(
                resolution.origins[key],
                key,
                f"{value} is asked of a checkout, and there is none",
                "Name the TinyWorlds repository with --checkout, or leave this out",
            )
    return None


def file_settings(directory: Path) -> list[Setting]:
    """What a checkout's own configs/ say of the model and its data; training.yaml comes last, as there.

    A key without a value, and what worldloop does not know, is left to the checkout.

    Raises:
        ConfigurationError: A file cannot be read.
    """
    found: list[Setting] = []
    for stage in STAGES:
        content, shown = _read(directory, config(stage))
        found += [
            Setting((stage, key), content[key], shown, key)
            for key in OF_STAGES
            if content.get(key) is not None and find(Tree, (stage, key)) is not None
        ]
        found += [
            Setting(("training", key), content[key], shown, key)
            for key in OF_TRAINING
            if content.get(key) is not None
        ]
    content, shown = _read(directory, TRAINING)
    for key in (*OF_TRAINING, *OF_STAGES):
        if content.get(key) is not None:
            found += [Setting(path, content[key], shown, key) for path in _places(key)]
    return found


def check_keys(checkout: CheckoutSpec, flags: Sequence[Setting], stages: Sequence[Stage]) -> None:
    """Refuse what the command line sets and no script that trains takes: it would have no effect.

    Raises:
        ConfigurationError: Names the key.
    """
    if not stages:
        return
    known = {stage: {key.partition(".")[0] for key in Repository(checkout).keys(stage)} for stage in stages}

    def takes(setting: Setting) -> bool:
        section, key = setting.path[:2]
        return any(key in known[stage] for stage in stages if section in ("training", stage))

    asked = [one for one in flags if one.path[0] in ("training", *stages) and one.path[1] not in WORLDLOOPS]
    taken = {setting.key for setting in asked if takes(setting)}
    for setting in asked:
        if setting.key not in taken:
            raise ConfigurationError(
                setting.source,
                setting.key,
                f"{' and '.join(map(script, stages))} of {checkout.directory} take no {setting.path[1]}",
                "Leave it out, or train without --checkout",
            )


def notices(checkout: CheckoutSpec, resolution: Resolution, stages: Sequence[Stage]) -> list[str]:
    """What a person should know about training with a checkout, and that stops nothing."""
    found = []
    repository = Repository(checkout)
    for stage in stages:
        whole = resolution.policy.gatekeeper.chunk.of(stage) >= getattr(resolution.run, stage).n_updates
        counted = repository.dialect(stage)
        if counted is not None:
            found += warnings(counted, whole_stage=whole)
    for stage in STAGES:
        content, shown = _read(Path(checkout.directory), config(stage))
        found += [
            f"{shown}: {key}: {content[key]} is hard-coded; worldloop gives every launch its own"
            for key in HARD_CODED
            if content.get(key) is not None
        ]
    return list(dict.fromkeys(found))


def gpus_of(checkout: CheckoutSpec, *, named: str | None) -> int:
    """GPUs that the checkout's own torch can use.

    Args:
        checkout: Where it is, and its programs.
        named: The torchrun that was asked for by name: it has to start, too.

    Raises:
        UsageError: Its interpreter has no torch, or the torchrun does not start or is none.
    """
    answer = _ask("--python-exec", checkout.python, "-c", PROBE)
    gpus = answer.strip().rpartition("\n")[2]
    if not gpus.isdecimal():
        raise UsageError(f"--python-exec {checkout.python}: is no Python: it answered {answer[-200:]!r}")
    if named is not None and checkout.torchrun is not None:
        answer = _ask("--torchrun", checkout.torchrun, "--help")
        if "torchrun" not in answer:
            raise UsageError(
                f"--torchrun {checkout.torchrun}: is no torchrun: to --help it answered {answer[:200]!r}"
            )
    return int(gpus)


def dataset_of(checkout: CheckoutSpec, configured: str) -> Path:
    """The file that a checkout's scripts read for a dataset.

    Raises:
        ConfigurationError: They would read another file than the configured one.
    """
    data = Path(checkout.directory) / "data"
    name = Repository(checkout).dataset(str(dataset_path(configured, data)))
    return dataset_path(name, data)


def _places(key: str) -> list[KeyPath]:
    if key in OF_TRAINING:
        return [("training", key)]
    return [(stage, key) for stage in STAGES if find(Tree, (stage, key)) is not None]


def _read(directory: Path, name: str) -> tuple[dict[str, object], str]:
    shown = display(directory / name)
    return read_mapping(directory / name, shown), shown


def _ask(flag: str, program: str, *arguments: str) -> str:
    """What a program prints; it runs as the checkout's scripts will, but leaves no bytecode behind."""
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            [program, *arguments],
            capture_output=True,
            text=True,
            timeout=PROBE_SEC,
            env=environment,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"{flag} {program}: cannot be used ({error})") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise UsageError(
            f"{flag} {program}: cannot run TinyWorlds ({last}); install the checkout's requirements there, "
            "or name another"
        )
    return done.stdout
