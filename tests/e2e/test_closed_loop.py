"""The closed loop, end to end: real server, services, torchrun and game frames."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from tests.e2e.world import World

STAGES = ("video_tokenizer", "latent_actions", "dynamics")


def test_a_run_goes_through_all_gates_to_passed(finished: World) -> None:
    gates = [(gate["stage"], gate["gate_step"], gate["decision"]) for gate in finished.named("gate_decided")]
    assert gates == [
        *((stage, step, "continue") for stage in STAGES for step in (8, 16, 24)),
        ("inference", 24, "continue"),
    ]
    assert finished.named("run_finished")[0]["status"] == "passed"


def test_every_decision_names_evidence_that_is_in_the_bundle(finished: World) -> None:
    for gate in finished.named("gate_decided"):
        assert gate["reasons"]
        assert gate["evidence_paths"]
        for path in gate["evidence_paths"]:
            assert (finished.bundle() / path).exists(), path


def test_the_bundle_holds_what_the_governance_says_and_nothing_else_was_written(finished: World) -> None:
    bundle = finished.bundle()
    for stage in STAGES:
        kept = {path.name for path in bundle.glob(f"results/*/{stage}/checkpoints/*")}
        assert f"{stage}_step_23" in kept
        assert list(bundle.glob(f"results/*/{stage}/visualizations/*_step_23.png"))
        assert list(bundle.glob(f"Logs/history/{stage}/attempt_*.csv"))
    assert list(bundle.glob("inference_results/inference_results_gt_vs_pred_*.png"))
    assert list(bundle.glob("docs/action/auto-training-loop-report-*.md"))
    assert list(bundle.glob("docs/action/train-to-inference-report-*.md"))
    assert list(bundle.glob("wandb/offline-run-*"))
    assert {path.name for path in finished.directory.iterdir()} <= {
        "configs", "data", "home", "runs", "state", "cache", "cli.log",
    }  # fmt: skip
    assert list((finished.directory / "runs").iterdir()) == [bundle]
    assert not [path for path in (finished.directory / "home").rglob("*") if path.is_file()]


def test_nothing_is_left_running(finished: World) -> None:
    assert finished.processes() == {}
    assert finished.ranks() == []


def test_events_are_read_from_the_bundle_without_a_server(finished: World) -> None:
    lines = finished.run("events", str(finished.bundle()), "--json").stdout.splitlines()
    events = [json.loads(line) for line in lines]
    assert events == finished.events()
    assert [each["sequence"] for each in events] == sorted({each["sequence"] for each in events})
    assert {each["specversion"] for each in events} == {"1.0"}


def test_a_killed_service_server_or_rank_changes_nothing(world: World, finished: World) -> None:
    """Kill -9 of each of the seven, one after the other, in the middle of a run."""
    run = world.start(*world.train())
    victims = ["gatekeeper", "trainer", "monitor", "rank", "reporter", "nats-server", "inference"]
    for number, victim in enumerate(victims, start=1):
        world.wait(
            f"chunk {number}",
            lambda number=number: (world.directory / "runs").exists() and len(starts(world)) >= number,
        )
        if victim == "rank":
            world.wait("ranks", lambda: len(world.ranks()) >= 2)
            world.ranks()[-1].send_signal(signal.SIGKILL)
        else:
            before = world.processes()[victim]
            before.send_signal(signal.SIGKILL)
            world.wait(
                f"{victim} to come back",
                lambda victim=victim, before=before: world.processes().get(victim, before).pid != before.pid,
            )
    assert run.wait(timeout=300) == 0, world.logs()
    decided = world.named("gate_decided")
    assert len({(gate["stage"], gate["attempt"]) for gate in decided}) == len(decided) == 10
    assert all(gate["retries_used"] == 0 for gate in decided)
    assert [(gate["stage"], gate["gate_step"], gate["decision"]) for gate in decided] == [
        (gate["stage"], gate["gate_step"], gate["decision"]) for gate in finished.named("gate_decided")
    ]
    for stage in STAGES:
        assert weights(world, stage) == weights(finished, stage)


def test_an_operator_pauses_retunes_resumes_and_stops(world: World) -> None:
    run = world.start(*world.train("n_updates=4000"))
    world.wait("the first chunk", lambda: (world.directory / "runs").exists() and starts(world))
    world.run("pause")
    world.wait("the pause", lambda: world.named("run_paused"))
    assert "paused" in world.run("status").stdout
    world.run("retune", "learning_rate=1e-3")
    refused = world.run("retune", "embed_dim=8", code=None)
    assert refused.returncode != 0
    assert "embed_dim" in refused.stdout + refused.stderr
    world.run("resume")
    world.wait("the retuned chunk", lambda: starts(world)[-1]["plan"]["parameters"]["learning_rate"] == 1e-3)
    world.run("stop")
    assert run.wait(timeout=300) == 1
    assert world.named("run_finished")[-1]["status"] == "stopped"
    assert {each["report"] for each in world.named("report_written") if each["ok"]} >= {"loop", "inference"}
    assert world.named("gate_decided")[-1]["retries_used"] == 0


def test_a_stopped_run_is_resumed_and_passes(world: World, finished: World) -> None:
    run = world.start(*world.train())
    world.wait("the second chunk", lambda: (world.directory / "runs").exists() and len(starts(world)) >= 2)
    world.run("stop")
    assert run.wait(timeout=300) == 1, world.logs()
    world.run("train", "--resume", world.bundle().name)
    assert world.named("run_finished")[-1]["status"] == "passed"
    assert weights(world, "dynamics") == weights(finished, "dynamics")


def test_a_wrong_configuration_stops_before_anything_starts(world: World) -> None:
    said = world.run(*world.train("learning_rat=1"), code=2).stderr
    assert all(name in said for name in ("learning_rat", "learning_rate")), said
    assert "Traceback" not in said
    assert not (world.directory / "runs").exists()
    assert not (world.directory / "state" / "stack.json").exists()


def starts(world: World) -> list[dict]:  # type: ignore[type-arg]
    return world.named("chunk_started")


def weights(world: World, stage: str) -> dict[str, bytes]:
    """The final checkpoint's tensors of model and optimizer, as bytes."""
    import torch

    (directory,) = world.bundle().glob(f"results/*/{stage}/checkpoints/{stage}_step_23")
    found: dict[str, bytes] = {}
    for name in ("model_state_dict.pt", "optim_state_dict.pt"):
        flat(torch.load(Path(directory) / name, weights_only=True), name, found)
    return found


def flat(value: object, name: str, into: dict[str, bytes]) -> None:
    import torch

    if isinstance(value, torch.Tensor):
        into[name] = value.numpy().tobytes()
    elif isinstance(value, dict):
        for key, each in value.items():
            flat(each, f"{name}/{key}", into)
    else:
        into[name] = repr(value).encode()
