"""What compose.yaml says of every container; `make compose-check` sees it happen on a machine with Docker."""

from __future__ import annotations

import gzip
import io
import re
import subprocess
import tarfile
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from docker.check import images
from docker.check.stack import Broken
from services import nats_server
from shared.events import SERVICES
from tests import needs

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
CONTAINERS: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
ON_GPUS = ("trainer", "monitor", "inference")
EACH = pytest.mark.parametrize("name", CONTAINERS)


def service_of(name: str) -> str:
    return name.removesuffix("-gpu")


def sources(container: dict[str, Any]) -> dict[str, str]:
    """Place in the container -> volume."""
    return {each.split(":")[1]: each.split(":")[0] for each in container.get("volumes", ())}


def test_there_are_the_keys_the_server_and_the_five_services_three_of_them_also_with_gpus() -> None:
    assert set(CONTAINERS) == {"keys", "nats", *SERVICES, *(f"{name}-gpu" for name in ON_GPUS)}


@EACH
def test_nobody_is_root_or_may_do_more_than_its_work(name: str) -> None:
    container = CONTAINERS[name]
    assert container["user"] == "10001:10001"
    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"]
    assert container["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "pid", "devices"} & container.keys()


@EACH
def test_everything_has_limits(name: str) -> None:
    assert CONTAINERS[name]["mem_limit"]
    assert CONTAINERS[name]["pids_limit"]
    assert "cpus" in CONTAINERS[name]


@EACH
def test_what_dies_is_started_again_and_what_hangs_is_seen(name: str) -> None:
    container = CONTAINERS[name]
    assert container["init"] is True
    if name == "keys":
        assert container["restart"] == "no"
        return
    assert container["restart"] == "unless-stopped"
    if name == "nats":
        assert "healthz" in str(container["healthcheck"]["test"])
    else:
        assert "healthcheck" not in container
        assert re.search(r'HEALTHCHECK [^\n]*\\\n\s+CMD find "/state/\$SERVICE\.alive"', DOCKERFILE)
        assert container["depends_on"]["nats"] == {"condition": "service_healthy"}


@EACH
def test_only_the_hosts_loopback_reaches_it(name: str) -> None:
    ports = CONTAINERS[name].get("ports", [])
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert bool(ports) == (name in ("nats", "reporter")) == ("host" in CONTAINERS[name].get("networks", ()))
    assert COMPOSE["networks"]["bus"] == {"internal": True}


@EACH
def test_what_it_keeps_lies_in_named_volumes(name: str) -> None:
    assert set(sources(CONTAINERS[name]).values()) <= set(COMPOSE["volumes"])


@pytest.mark.parametrize("name", sorted(set(CONTAINERS) - {"keys", "nats"}))
def test_a_service_sees_its_own_key_alone_and_has_the_image_of_its_own_extra(name: str) -> None:
    container, service = CONTAINERS[name], service_of(name)
    mounts = sources(container)
    assert mounts["/keys"] == f"keys-{service}"
    assert [volume for volume in mounts.values() if volume.startswith("keys")] == [f"keys-{service}"]
    assert container["environment"]["WORLDLOOP_NATS_KEY"] == f"/keys/{service}.nk"
    assert container["environment"]["WORLDLOOP_NATS_URL"].startswith("tls://")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    arguments = container["build"]["args"]
    assert arguments["SERVICE"] == service
    assert (arguments.get("BASE") == "torch") == any(each.startswith("torch") for each in extras[service])


def test_the_gatekeeper_has_no_files_but_its_key() -> None:
    assert set(sources(CONTAINERS["gatekeeper"])) == {"/keys"}


@pytest.mark.parametrize("service", ON_GPUS)
def test_with_gpus_it_is_the_same_container_with_gpus(service: str) -> None:
    plain, gpu = CONTAINERS[service], CONTAINERS[f"{service}-gpu"]
    assert (plain["profiles"], gpu["profiles"]) == (["cpu"], ["gpu"])
    devices = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}]
    others = {"profiles", "deploy"}
    assert {k: v for k, v in gpu.items() if k not in others} == {
        k: v for k, v in plain.items() if k not in others
    }
    assert "COMPOSE_PROFILES=cpu" in (ROOT / ".env").read_text().splitlines()


def test_the_server_has_what_it_acks_on_the_disk_and_asks_for_keys() -> None:
    conf = (ROOT / "docker" / "nats.conf").read_text()
    assert "sync_interval: always" in conf
    assert f"max_payload: {nats_server.MAX_PAYLOAD}\n" in conf
    assert 'include "../../keys/nats-auth.conf"' in conf  # the server joins it to /etc/nats
    assert sources(CONTAINERS["nats"])["/keys"] == "keys-nats"


@pytest.mark.parametrize(("flags", "suffix"), [((), ""), (("--profile", "gpu"), "-gpu")])
def test_compose_reads_it_and_starts_one_of_each(flags: tuple[str, ...], suffix: str) -> None:
    docker = needs.program("docker")
    if subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        needs.missing("docker compose")
    command = [docker, "compose", "--file", str(ROOT / "compose.yaml"), *flags, "config", "--services"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    ours = {f"{name}{suffix if name in ON_GPUS else ''}" for name in SERVICES}
    assert set(found.stdout.split()) == {"keys", "nats", *ours}


@pytest.mark.parametrize("packed", [False, True])
def test_the_check_finds_a_secret_in_any_layer_also_where_two_pieces_meet(
    packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "CHUNK", 64)
    layer = b"x" * 60 + b"SECRET" + b"x" * 100
    with pytest.raises(Broken, match=r"a secret is in layer\.tar"):
        images.search(archive(gzip.compress(layer) if packed else layer), [b"OTHER", b"SECRET"])
    assert images.search(archive(layer), [b"OTHER"]) == len(layer) + 1


def archive(layer: bytes) -> io.BytesIO:
    """What `docker image save` writes, with one layer."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as files:
        link = tarfile.TarInfo("0/layer.tar")
        link.type, link.linkname = tarfile.SYMTYPE, "../layer.tar"
        files.addfile(link)
        for name, content in (("manifest.json", b"1"), ("layer.tar", layer)):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            files.addfile(entry, io.BytesIO(content))
    stream.seek(0)
    return stream
