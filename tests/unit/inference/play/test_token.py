"""Only who has the play server's token plays."""

from __future__ import annotations

import pytest

from services.inference.play.legend import Legend
from shared.web.guesses import MOST_WRONG
from tests.unit.inference.play.conftest import TOKEN, PaintingEngine, play_config
from tests.unit.inference.play.test_sessions import Stage


def test_who_shows_the_token_plays(painting: PaintingEngine, legend: Legend) -> None:
    stage = Stage(painting, legend)
    with stage.client, stage.stranger() as player:
        assert player.told() == {"type": "locked"}
        player.say("token", token=TOKEN)
        assert player.told()["type"] == "welcome"


@pytest.mark.parametrize(
    "answer", [{"what": "token", "token": "guess"}, {"what": "token"}, {"what": "press", "code": 1}]
)
def test_who_does_not_takes_no_place(
    painting: PaintingEngine, legend: Legend, answer: dict[str, object]
) -> None:
    stage = Stage(painting, legend)
    with stage.client, stage.stranger() as player:
        assert player.told() == {"type": "locked"}
        player.say(**answer)  # type: ignore[arg-type]
        assert player.told()["reason"] == "locked"
        assert player.gone() == 1008
        assert stage.conductor.players == 0


def test_after_many_wrong_tokens_none_is_looked_at(painting: PaintingEngine, legend: Legend) -> None:
    stage = Stage(painting, legend)
    told = ""
    with stage.client:
        for token in (*(f"guess {number}" for number in range(MOST_WRONG)), TOKEN):
            with stage.stranger() as player:
                player.told()
                player.say("token", token=token)
                told = player.told()["text"]
    assert "too many wrong tokens" in told
    assert stage.conductor.players == 0


def test_the_token_is_in_no_text_about_the_configuration() -> None:
    assert TOKEN not in repr(play_config())
