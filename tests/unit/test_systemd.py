"""What the units of deploy/systemd say; docs/deployment.md tells how they were seen to work."""

from __future__ import annotations

import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from shared.bus.identity import Identity
from shared.events import SERVICES
from tests import needs

PLACE = Path(__file__).parents[2] / "deploy" / "systemd"
UNITS = {path.name: path.read_text() for path in PLACE.glob("*.service")}
EACH = pytest.mark.parametrize("name", UNITS)


def settings(name: str, instance: str = "") -> dict[str, list[str]]:
    """Setting -> its values, with the instance and the places of its files filled in."""
    found = defaultdict(list)
    for line in UNITS[name].splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found[key].append(value.replace("%i", instance).replace("%d", "/credentials"))
    return found


def environment(name: str, instance: str = "") -> dict[str, str]:
    words = " ".join(settings(name, instance)["Environment"]).split()
    return dict(word.split("=", 1) for word in words)


@EACH
def test_whatever_ends_it_it_is_started_again_for_ever(name: str) -> None:
    found = settings(name)
    assert found["Restart"] == ["always"]
    assert found["StartLimitIntervalSec"] == ["0"]
    assert UNITS[name].index("StartLimitIntervalSec") < UNITS[name].index("[Service]")


@EACH
def test_nobody_is_root_or_may_do_more_than_its_work(name: str) -> None:
    found = settings(name)
    assert found["User"] in (["worldloop"], ["nats"])
    assert found["NoNewPrivileges"] == ["yes"]
    assert found["CapabilityBoundingSet"] == [""]
    assert found["ProtectSystem"] == ["strict"]


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_finds_its_own_key_under_the_name_by_which_the_server_knows_it(
    service: str, tmp_path: Path
) -> None:
    name = "worldloop@.service"
    credentials = dict(each.split(":") for each in settings(name, service)["LoadCredential"])
    key = Path(environment(name, service)["WORLDLOOP_NATS_KEY"])
    assert credentials[key.name] == f"/etc/worldloop/keys/{service}.nk"
    (tmp_path / key.name).write_text("SU" + "A" * 56)
    assert Identity.read(tmp_path / key.name, None).user == service  # the file's stem is the user's name
    ca = Path(environment(name, service)["WORLDLOOP_NATS_CA"])
    assert credentials[ca.name] == "/etc/worldloop/keys/ca.pem"


@pytest.mark.parametrize("name", ["worldloop.service", "worldloop@.service"])
def test_nothing_is_looked_for_in_a_home_directory_which_the_unit_hides(name: str) -> None:
    assert settings(name)["ProtectHome"] == ["yes"]
    found = environment(name)
    for where in ("HOME", "WORLDLOOP_STATE_DIR", "WORLDLOOP_CACHE_DIR", "WORLDLOOP_NOTIFY_FILE"):
        assert found[where].startswith(("%S/", "%C/", "/etc/"))


def test_systemd_accepts_them(tmp_path: Path) -> None:
    analyze = needs.program("systemd-analyze")
    for name, text in UNITS.items():
        there = tmp_path / name.replace("@.", "@trainer.")
        there.write_text(text.replace("/opt/worldloop/bin/", "/bin/true "))  # not installed here
    command = [analyze, "verify", "--man=no", *map(str, tmp_path.iterdir())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
