from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from typer.testing import Result

from shared.errors import ConfigurationError
from tests.unit.reporter.webhook import TOKEN, Webhook, hook

__all__ = ["hook"]

Invoke = Callable[..., Result]


@pytest.fixture
def file(place: Path) -> Path:
    return place / "notify.yaml"


def write(file: Path, **urls: str) -> None:
    file.write_text(yaml.safe_dump({"urls": urls, "tell": ["failed"]}))
    file.chmod(0o600)


def test_show_prints_services_by_name_and_scheme_alone(worldloop: Invoke, file: Path, hook: Webhook) -> None:
    write(file, team=hook.url, mail="mailtos://me:p4ssw0rd@example.com")
    for output in (worldloop("notify", "show").stdout, worldloop("notify", "show", "--json").stdout):
        assert "json://..." in output
        assert "mailtos://..." in output
        for secret in (TOKEN, "p4ssw0rd", "example.com", "127.0.0.1"):
            assert secret not in output
    shown = json.loads(output)
    assert shown["tell"] == ["failed"]
    assert [each["name"] for each in shown["services"]] == ["mail", "team"]


def test_show_without_a_file_says_where_one_could_be(worldloop: Invoke, file: Path) -> None:
    shown = worldloop("notify", "show")
    assert shown.exit_code == 0
    assert str(file) in shown.stdout
    assert json.loads(worldloop("notify", "show", "--json").stdout)["exists"] is False


def test_show_warns_of_a_file_that_others_can_read(worldloop: Invoke, file: Path, hook: Webhook) -> None:
    write(file, team=hook.url)
    file.chmod(0o644)
    assert f"chmod 600 {file}" in worldloop("notify", "show").stderr
    assert "chmod 600" in json.loads(worldloop("notify", "show", "--json").stdout)["problem"]


def test_the_test_message_reaches_a_service_and_a_refusal_has_its_reason(
    worldloop: Invoke, file: Path, hook: Webhook
) -> None:
    refusing = Webhook()
    refusing.answer = 403
    try:
        write(file, team=hook.url, phone=refusing.url)
        tried = worldloop("notify", "test", "--json")
    finally:
        refusing.close()
    assert tried.exit_code == 1
    assert hook.titles == ["worldloop: a test"]
    rows = {row["name"]: row for row in json.loads(tried.stdout)["services"]}
    assert rows["team"]["sent"]
    assert "error=403" in rows["phone"]["problem"]
    assert TOKEN not in tried.output
    assert worldloop("notify", "test").exit_code == 1


def test_the_test_message_needs_a_file(worldloop: Invoke, file: Path) -> None:
    with pytest.raises(ConfigurationError) as raised:
        raise worldloop("notify", "test").exception or AssertionError
    assert raised.value.exit_code == 2
    assert str(file) in str(raised.value)
