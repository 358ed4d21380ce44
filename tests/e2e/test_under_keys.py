"""The closed loop with a server of its own, keys and TLS; and no secret in anything it leaves."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from services.keys import directory as keys
from services.keys.permissions import OPERATOR, USERS
from shared.events import SERVICES
from tests.conftest import NatsServer, write_keys
from tests.e2e.world import ROOT, World

SECRETS = {
    "WANDB_API_KEY": "5ec4e7" * 6 + "5ec4",
    "HF_TOKEN": "hf_5ec4e75ec4e75ec4e75ec4e75ec4e7",
    "WORLDLOOP_PAGE_TOKEN": "page-5ec4e7-token",
}
NOTIFY = "notify-5ec4e7-password"


@pytest.fixture
def guarded(world: World) -> Iterator[NatsServer]:
    """A server that asks for keys, and the five services as processes of their own."""
    place = world.directory / "server"
    place.mkdir()
    server = NatsServer(place, write_keys(place))
    server.start()
    world.environment |= SECRETS | {
        "WORLDLOOP_NATS_URL": f"tls://127.0.0.1:{server.port}",
        "WORLDLOOP_NATS_CA": str(place / "keys" / keys.CA),
        "WORLDLOOP_NATS_KEY": str(keys.key_of(place / "keys", OPERATOR)),
        "WORLDLOOP_LOG_LEVEL": "debug",
        "WORLDLOOP_PAGE_PORT": "0",
        "PYTHONPATH": str(ROOT),
    }
    (world.directory / "notify.yaml").write_text(f"urls: {{team: 'json://user:{NOTIFY}@127.0.0.1:1'}}\n")
    (world.directory / "notify.yaml").chmod(0o600)
    processes = []
    for service in SERVICES:
        with (world.directory / f"{service}.log").open("wb") as log:
            own = {"WORLDLOOP_NATS_KEY": str(keys.key_of(place / "keys", service))}
            if service == "reporter":
                own["WORLDLOOP_PAGE_TOKEN"] = ""  # so that it makes one
            command = [sys.executable, "-m", f"services.{service}.main"]
            processes.append(
                subprocess.Popen(
                    command, stdout=log, stderr=log, cwd=world.directory, env=world.environment | own
                )
            )
    yield server
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait(timeout=60)
    server.stop()


def test_the_loop_runs_under_keys_and_tls_with_one_rank_and_leaves_no_secret(
    world: World, guarded: NatsServer
) -> None:
    done = world.run(*world.train("--nproc-per-node", "1", "n_updates=8"))
    address = (world.directory / "state" / "page.url").read_text().strip()
    url, _, token = address.partition("#token=")
    for shown, status in ((token, 200), (SECRETS["WORLDLOOP_PAGE_TOKEN"], 401)):
        bearer = {"Authorization": f"Bearer {shown}"}
        assert httpx.get(f"{url}api/runs", headers=bearer, timeout=60).status_code == status
    assert {each["world_size"] for each in world.named("chunk_done")} == {1}
    assert world.named("run_finished")[0]["status"] == "passed"
    logs = "\n".join(path.read_text(errors="replace") for path in world.directory.glob("*.log"))
    assert "NATS does not allow" not in logs, logs
    assert "Violation" not in (guarded.directory / "server.log").read_text()
    assert "dead letter" not in logs
    seeds = [keys.key_of(guarded.directory / "keys", user) for user in USERS]
    secrets = [*SECRETS.values(), NOTIFY, token, *(path.read_text().strip() for path in seeds)]
    kept = {*seeds, world.directory / "notify.yaml"}
    kept |= {world.directory / "state" / name for name in ("page.url", "page-token")}
    written = [path for path in world.directory.rglob("*") if path.is_file() and path not in kept]
    assert any("jetstream" in str(path) for path in written), "the streams are looked through as well"
    assert any(path.is_relative_to(world.bundle()) for path in written)
    assert [path for path in written if holds(path.read_bytes(), secrets)] == []
    assert not holds((done.stdout + done.stderr).encode(), secrets)


def holds(content: bytes, secrets: list[str]) -> bool:
    return any(secret.encode() in content for secret in secrets)
