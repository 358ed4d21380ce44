"""Where others can reach the play server, only who has its token plays."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.inference.play.legend import Legend
from services.inference.play.server import serve
from shared.errors import UsageError
from tests.unit.inference.play.conftest import PaintingEngine, play_config
from tests.unit.inference.play.test_sessions import Stage

TOKEN = "open sesame ä"


def test_a_server_that_others_can_reach_is_not_served_without_a_token() -> None:
    with pytest.raises(UsageError, match="WORLDLOOP_PAGE_TOKEN"):
        serve(play_config(host="0.0.0.0", dataset=Path("/nowhere")), lambda url: None)


def test_who_shows_the_token_plays(painting: PaintingEngine, legend: Legend) -> None:
    stage = Stage(painting, legend, token=TOKEN)
    with stage.client, stage.player() as player:
        assert player.told() == {"type": "locked"}
        player.say("token", token=TOKEN)
        assert player.told()["type"] == "welcome"


@pytest.mark.parametrize(
    "answer", [{"what": "token", "token": "guess"}, {"what": "token"}, {"what": "press", "code": 1}]
)
def test_who_does_not_takes_no_place(
    painting: PaintingEngine, legend: Legend, answer: dict[str, object]
) -> None:
    stage = Stage(painting, legend, token=TOKEN)
    with stage.client, stage.player() as player:
        assert player.told() == {"type": "locked"}
        player.say(**answer)  # type: ignore[arg-type]
        assert player.told()["reason"] == "locked"
        assert player.gone() == 1008
        assert stage.conductor.players == 0


def test_the_token_is_in_no_text_about_the_configuration() -> None:
    assert TOKEN not in repr(play_config(token=TOKEN))
