"""The live page's server over real HTTP on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog.testing
from starlette.routing import Route

from services.reporter.page.app import Site, create_app
from services.reporter.page.door import MOST_TOLD, Door
from services.reporter.page.server import open_page
from services.reporter.page.static_page import write_page
from shared.bundle import Bundle
from shared.bus.jetstream import JetStreamBus
from shared.bus.journal import read_journal
from shared.bus.memory import MemoryBus
from shared.events import RunPaused
from shared.service import Runs
from shared.settings import Settings
from shared.web import place
from shared.web.access import Access
from shared.web.guesses import MOST_WRONG, WAIT_SEC
from tests.conftest import NatsServer
from tests.e2e.big_run import NAME, RUN, write_big_run
from tests.e2e.page_server import TOKEN, Served, serving
from tests.messages import progress

API = f"api/runs/{RUN}"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_big_run(tmp_path / RUN, gates=4, points=400)


@pytest.fixture
async def served(root: Path) -> AsyncIterator[Served]:
    async with serving([root]) as found:
        yield found


@pytest.fixture
async def client(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=served.url, headers=BEARER, timeout=60) as found:
        yield found


def page_headers(served: Served, **more: str) -> dict[str, str]:
    """What a browser sends with a request of the page's own."""
    return {"Origin": served.url.rstrip("/"), "Content-Type": "application/json", **more}


async def event(lines: AsyncIterator[str], wanted: str) -> Any:
    """The data of the next event of that name."""
    async with asyncio.timeout(60):
        name = ""
        async for line in lines:
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: ") and name == wanted:
                return json.loads(line.removeprefix("data: "))
    raise AssertionError(f"the line ended before {wanted}")


@contextlib.asynccontextmanager
async def streaming(client: httpx.AsyncClient) -> AsyncIterator[AsyncIterator[str]]:
    async with client.stream("GET", f"{API}/stream") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        yield response.aiter_lines()


async def test_the_list_the_page_and_its_curves_are_there(client: httpx.AsyncClient) -> None:
    listed = await client.get("api/runs")
    assert [row["run_id"] for row in listed.json()] == [RUN]
    assert listed.headers["cache-control"] == "no-store"
    assert listed.headers["x-content-type-options"] == "nosniff"
    page = (await client.get(API)).json()
    assert page["live"]
    assert [gate["id"] for gate in page["gates"]] == [f"dynamics/{n}" for n in range(1, 5)]
    history = (await client.get(f"{API}/history/dynamics", params={"points": 50})).json()
    assert history["rows"] == 400
    assert [curve["superseded_from"] for curve in history["curves"]] == [None, None, 250, None]


async def test_an_event_reaches_the_page_as_a_patch(served: Served, client: httpx.AsyncClient) -> None:
    async with streaming(client) as lines:
        page = await event(lines, "page")
        assert page["run"]["status"] == "running"
        assert len(await event(lines, "runs")) == 1
        await served.bus.publish(RunPaused(run_id=RUN, by="operator", reason="lunch"))
        while "run" not in (patch := await event(lines, "patch")):
            pass
        assert patch["run"]["status"] == "paused"
        assert "gates" not in patch
        assert [note["text"] for note in patch["notes"]] == ["Paused: lunch"]
        assert (await event(lines, "runs"))[0]["status"] == "paused"


async def test_progress_reaches_the_page(served: Served, client: httpx.AsyncClient) -> None:
    async with streaming(client) as lines:
        await event(lines, "page")
        await served.bus.publish(progress(RUN, attempt=5, step=7))
        assert (await event(lines, "progress"))["step"] == 7


@pytest.mark.parametrize(
    ("action", "body", "name"),
    [
        ("pause", {}, "pause_run"),
        ("resume", {}, "resume_run"),
        ("stop", {"reason": "enough"}, "stop_run"),
        ("retune", {"stage": "dynamics", "changes": {"learning_rate": 1e-4}}, "retune_run"),
    ],
)
async def test_what_is_asked_for_goes_to_the_gatekeeper(
    served: Served, client: httpx.AsyncClient, action: str, body: dict[str, Any], name: str
) -> None:
    answer = await client.post(f"{API}/actions/{action}", json=body, headers=page_headers(served))
    assert answer.status_code == 202
    queue = next(items for key, items in served.bus.broker.queues.items() if key[0] == "gatekeeper")
    assert [item.envelope.subject.rpartition(".")[2] for item in queue] == [name]
    sent = json.loads(queue[0].envelope.data)
    assert sent["request_id"] == answer.json()["request_id"]
    assert {key: sent[key] for key in body} == body


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": ""}, 403),
        ({"Origin": "http://evil.example", "Host": "evil.example"}, 403),
        ({"Content-Type": "text/plain"}, 415),
    ],
)
async def test_pages_of_others_may_ask_for_nothing(
    served: Served, client: httpx.AsyncClient, change: dict[str, str], status: int
) -> None:
    answer = await client.post(f"{API}/actions/stop", content="{}", headers=page_headers(served) | change)
    assert answer.status_code == status
    assert answer.json()["error"]
    assert not any(key[0] == "gatekeeper" for key in served.bus.broker.queues)


async def test_a_get_asks_for_nothing(served: Served, client: httpx.AsyncClient) -> None:
    assert (await client.get(f"{API}/actions/stop", headers=page_headers(served))).status_code == 405


@pytest.mark.parametrize(
    ("action", "body", "status"),
    [
        ("explode", "{}", 404),
        ("stop", "no json", 400),
        ("stop", '{"reasons": "x"}', 400),
        ("retune", '{"changes": {}}', 400),
        ("stop", '{"reason": "' + "x" * 70_000 + '"}', 413),
    ],
)
async def test_what_cannot_be_asked_for_is_refused_with_a_reason(
    served: Served, client: httpx.AsyncClient, action: str, body: str, status: int
) -> None:
    answer = await client.post(f"{API}/actions/{action}", content=body, headers=page_headers(served))
    assert answer.status_code == status
    assert answer.json()["error"]


@pytest.fixture
async def locked(root: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server that has a token."""
    async with serving([root], token="sécret") as served, httpx.AsyncClient(base_url=served.url) as found:
        found.headers["Origin"] = served.url.rstrip("/")
        yield found


async def test_nothing_is_read_or_asked_for_without_the_token(locked: httpx.AsyncClient) -> None:
    assert (await locked.get("")).status_code == 200  # the page itself is in every package
    app = create_app(Site(None, None, Door(set(), Access("any"))))  # type: ignore[arg-type]
    routes = [route for route in app.routes if isinstance(route, Route)]
    closed = [route for route in routes if route.path.startswith("/api/") and route.path != "/api/session"]
    assert len(closed) == 6
    wrong: tuple[dict[str, str], ...] = (
        {},
        {"Authorization": "Bearer guess"},
        {"Authorization": "Bearer"},
        {"Cookie": "worldloop=1; worldloop-00000000=9999999999-00"},
    )
    for route in closed:
        path = re.sub("{(\\w+)[^}]*}", lambda found: RUN if found[1] == "run" else "dynamics", route.path)
        for headers in wrong:
            answer = await locked.request(next(iter(route.methods or ())), path, headers=headers)
            assert answer.status_code == 401, path
            assert RUN not in answer.text
    bearer = httpx.Headers({"Authorization": "Bearer sécret"}, encoding="utf-8")
    assert (await locked.get(API, headers=bearer)).status_code == 200
    asked = await locked.post(f"{API}/actions/pause", json={}, headers=bearer)
    assert asked.status_code == 202


async def test_the_token_is_given_once_for_a_cookie_that_no_script_and_no_other_site_can_use(
    locked: httpx.AsyncClient,
) -> None:
    assert (await locked.post("api/session", json={"token": "secret"})).status_code == 401
    assert (await locked.post("api/session", json={})).status_code == 400
    evil = {"Origin": "http://evil.example"}
    assert (await locked.post("api/session", json={"token": "sécret"}, headers=evil)).status_code == 403
    assert not locked.cookies
    answer = await locked.post("api/session", json={"token": "sécret"})
    assert answer.status_code == 204
    set_cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict"} <= set(set_cookie.split("; "))
    assert "Secure" not in set_cookie
    assert "sécret" not in set_cookie
    assert "Path" not in set_cookie  # the browser takes `<prefix>/api`
    assert (await locked.get(API)).status_code == 200
    assert (await locked.post(f"{API}/actions/pause", json={})).status_code == 202
    assert (await locked.post(f"{API}/actions/pause", json={}, headers=evil)).status_code == 403


async def test_behind_tls_the_cookie_is_sent_over_tls_only(locked: httpx.AsyncClient) -> None:
    secure = {"Origin": locked.headers["Origin"].replace("http:", "https:")}
    answer = await locked.post("api/session", json={"token": "sécret"}, headers=secure)
    assert "Secure" in answer.headers["set-cookie"]


@pytest.mark.parametrize("path", ["api/runs", API, f"{API}/stream"])
async def test_a_page_of_another_origin_reads_nothing(client: httpx.AsyncClient, path: str) -> None:
    with structlog.testing.capture_logs() as told:
        for number in range(2 * MOST_TOLD):
            answer = await client.get(path, headers={"Origin": f"http://evil{number // 2}.example"})
            assert answer.status_code == 403
        await client.get(path, headers={"Origin": "http://another.example"})
    assert len(told) == MOST_TOLD


async def test_a_name_that_is_not_ours_is_refused(client: httpx.AsyncClient) -> None:
    assert (await client.get("api/runs", headers={"Host": "rebound.example"})).status_code == 403


async def test_a_picture_is_served_and_not_sent_again(root: Path, client: httpx.AsyncClient) -> None:
    path = (await client.get(API)).json()["sheets"][0]["path"]
    (root / path).parent.mkdir(parents=True)
    (root / path).write_bytes(b"\x89PNG picture")
    found = await client.get(f"{API}/files/{path}")
    assert (found.status_code, found.headers["content-type"]) == (200, "image/png")
    assert found.headers["x-content-type-options"] == "nosniff"
    again = await client.get(f"{API}/files/{path}", headers={"If-None-Match": found.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


async def test_nothing_but_what_the_page_names_is_served(
    root: Path, tmp_path: Path, client: httpx.AsyncClient
) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    paths = ["Logs/events.jsonl", "..%2f..%2fsecret.png", "%2fetc/passwd", "config/run.yaml"]
    sheet = (await client.get(API)).json()["sheets"][0]["path"]
    (root / sheet).parent.mkdir(parents=True)
    (root / sheet).symlink_to(secret)
    checkpoint = f"results/{NAME}/dynamics/checkpoints/dynamics_step_99"
    for path in (*paths, sheet, checkpoint, str(secret)):
        answer = await client.get(f"{API}/files/{path}")
        assert answer.status_code == 404, path
        assert b"secret" not in answer.content or b"error" in answer.content


@pytest.mark.parametrize("number", ["x", "1.5", "9" * 40, "٣", "1_0"])
async def test_a_span_of_no_whole_numbers_is_refused(client: httpx.AsyncClient, number: str) -> None:
    for name in ("from", "to", "points"):
        answer = await client.get(f"{API}/history/dynamics", params={name: number})
        assert answer.status_code == 400
        assert answer.json()["error"].startswith(name)


async def test_two_hundred_runs_are_listed_newest_first(root: Path) -> None:
    (started,) = read_journal(root / "Logs" / "events.jsonl")[:1]
    runs = [f"20260102_{number // 60:02}{number % 60:02}00" for number in range(200)]
    told = [
        replace(
            started,
            message=started.message.model_copy(update={"run_id": run}),
            time=started.time + timedelta(seconds=place),
        )
        for place, run in enumerate(runs)
    ]
    async with (
        serving(records=told) as served,
        httpx.AsyncClient(base_url=served.url, headers=BEARER) as client,
    ):
        assert [row["run_id"] for row in (await client.get("api/runs")).json()] == runs[::-1]
        async with client.stream("GET", f"api/runs/{runs[0]}/stream") as response:
            lines = response.aiter_lines()
            assert (await event(lines, "page"))["run"]["run_id"] == runs[0]
            await served.bus.publish(RunPaused(run_id=runs[7], by="operator", reason="lunch"))
            rows = await event(lines, "runs")
            while (row := rows[200 - 1 - 7])["status"] != "paused":
                rows = await event(lines, "runs")
            assert row["run_id"] == runs[7]
            assert len(rows) == 200


async def test_the_whole_page_is_made_once_for_all_who_come_until_something_changes(served: Served) -> None:
    board = served.server.board
    view = await board.view(RUN)
    assert view is not None
    lines = [board.join(view), board.join(view)]
    first, second = [await line.take() for line in lines]
    assert first is not None
    assert second is not None
    page = first.partition(b"\n\n")[0]
    assert second.startswith(page)
    await served.bus.publish(RunPaused(run_id=RUN, by="operator", reason="lunch"))
    async with asyncio.timeout(60):
        while view.fold.run.status != "paused":  # noqa: ASYNC110 - the follower is another task
            await asyncio.sleep(0.01)
    third = await board.join(view).take()
    assert third is not None
    assert json.loads(third.partition(b"\n\n")[0].partition(b"data: ")[2])["run"]["status"] == "paused"


@pytest.mark.parametrize(
    "path", ["api/runs/20200101_000000", "api/runs/nonsense", f"{API}/history/pong", "x.js"]
)
async def test_what_is_not_there_is_said_so(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"]


async def test_a_browser_that_falls_behind_gets_a_fresh_page(served: Served) -> None:
    board = served.server.board
    view = await board.view(RUN)
    assert view is not None
    line = board.join(view)
    await line.take()
    for _ in range(100):
        line.put(b"event: patch\ndata: {}\n\n")
    fresh = await line.take()
    assert fresh is not None
    assert fresh.startswith(b"event: page")
    assert fresh.count(b"event: ") == 1


async def test_a_page_outlives_its_bundle(root: Path, client: httpx.AsyncClient) -> None:
    import shutil

    shutil.rmtree(root)
    assert (await client.get(API)).status_code == 200
    missing = (await client.get(f"{API}/history/dynamics")).json()["error"]
    assert missing.startswith(f"the run's bundle is not at {root}: if it was moved, move it back")


async def test_a_page_outlives_the_nats_server_and_knows_runs_it_never_saw(
    fresh_nats_server: NatsServer, root: Path, tmp_path: Path
) -> None:
    settings = Settings(page_port=0, page_token=TOKEN, state_dir=tmp_path / "state")
    told = read_journal(root / "Logs" / "events.jsonl")
    bus = await JetStreamBus.connect(fresh_nats_server.url, source="reporter")
    page = open_page(bus, Runs(bus, settings), settings)
    assert page is not None
    task = asyncio.create_task(page.run())
    try:
        for record in told[:6]:
            await bus.publish(record.message)
        async with (
            httpx.AsyncClient(base_url=page.url, headers=BEARER, timeout=60) as client,
            streaming(client) as lines,
        ):
            assert len((await event(lines, "page"))["gates"]) <= 1
            fresh_nats_server.stop()
            fresh_nats_server.start()
            for record in told[6:]:
                await bus.publish(record.message)
            seen: set[str] = set()
            while f"dynamics/{4}" not in seen:
                seen |= {gate["id"] for gate in (await event(lines, "patch")).get("gates", [])}
            assert len((await client.get(API)).json()["gates"]) == 4
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await bus.close()


@pytest.mark.parametrize("given", [None, TOKEN])
async def test_a_page_that_was_given_no_token_asks_for_one_of_its_own(
    tmp_path: Path, given: str | None
) -> None:
    settings = Settings(page_port=0, page_token=given, state_dir=tmp_path)
    page = open_page(MemoryBus(), Runs(MemoryBus(), settings), settings)
    assert page is not None
    task = asyncio.create_task(page.run())
    kept = tmp_path / "page-token"
    token = given or kept.read_text().strip()
    try:
        assert kept.exists() == (given is None)
        assert place.address(settings) == place.with_token(page.url, token)
        assert TOKEN not in (tmp_path / "page.url").read_text()
        for shown, status in (("x", 401), (token[:-1], 401), (token, 200)):
            async with httpx.AsyncClient(base_url=page.url, timeout=60) as client:
                found = await client.get("api/runs", headers={"Authorization": f"Bearer {shown}"})
                assert found.status_code == status
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_where_no_token_can_be_had_there_is_no_page_and_the_reports_go_on(tmp_path: Path) -> None:
    (tmp_path / "page-token").write_text("\n")
    settings = Settings(page_port=0, state_dir=tmp_path)
    with structlog.testing.capture_logs() as told:
        assert open_page(MemoryBus(), Runs(MemoryBus(), settings), settings) is None
    assert "page-token" in told[0]["problem"]


async def test_after_many_wrong_tokens_none_is_looked_at_for_a_while_and_open_pages_go_on(
    locked: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await locked.post("api/session", json={"token": "sécret"})).status_code == 204
    url = str(locked.base_url)
    async with httpx.AsyncClient(base_url=url, headers={"Origin": url.rstrip("/")}) as guessing:
        for number in range(MOST_WRONG - 1):
            bearer = {"Authorization": f"Bearer {number}", "X-Forwarded-For": f"192.0.2.{number}"}
            assert (await guessing.get(API, headers=bearer)).status_code == 401
        assert (await guessing.post("api/session", json={"token": "guess"})).status_code == 401
        for _ in range(3):
            refused = await guessing.post("api/session", json={"token": "sécret"})
            assert refused.status_code == 429
            assert 0 < int(refused.headers["retry-after"]) <= WAIT_SEC
            assert "too many wrong tokens" in refused.json()["error"]
        right = httpx.Headers({"Authorization": "Bearer sécret"}, encoding="utf-8")
        assert (await guessing.get(API, headers=right)).status_code == 429
        assert (await guessing.get(API)).status_code == 401, "no token is no guess"
    assert (await locked.get(API)).status_code == 200
    told = [each.getMessage() for each in caplog.records if "wrong tokens" in each.getMessage()]
    assert len(told) == 1
    assert told[0].startswith("10 wrong tokens from 127.0.0.1")


def test_the_static_page_is_the_same_however_often_it_is_written(root: Path) -> None:
    bundle = Bundle(root, NAME)
    records = read_journal(bundle.events)
    path = write_page(bundle, records)
    assert path is not None
    text = (root / path).read_text()
    assert write_page(bundle, records) == path
    assert (root / path).read_text() == text
    assert 'src="' not in text.partition("<body")[2].partition("<script type")[2]
    data = text.partition('id="page">')[2].partition("</script>")[0]
    assert json.loads(data)["run"]["run_id"] == RUN
    assert (
        "train/loss" in json.loads(text.partition('id="histories">')[2].partition("</script>")[0])["dynamics"]
    )
