from __future__ import annotations

import threading
import time

import pytest
from starlette.testclient import TestClient

from tomodex.errors import Unavailable
from tomodex.settings import Settings, load_settings
from tomodex.web import health
from tomodex.web.app import make_app
from tomodex.wiring import cohorts_of

QUEUE = "tomodex.queues.sqlite.SqliteQueue.count"
INDEX = "tomodex.indexes.duckdb.DuckDBIndex.seen"


@pytest.fixture
def settings(tmp_path) -> Settings:
    return load_settings(data=tmp_path / "data", serve={"per_second": 10_000})


@pytest.fixture
def client(settings) -> TestClient:
    return TestClient(make_app(settings), base_url="http://127.0.0.1")


def refuse(*args: object) -> None:
    raise Unavailable("nobody is there")


@pytest.mark.parametrize("path", ["/v1/live", "/v1/health", "/v1/ready"])
def test_all_is_well_where_queue_and_index_answer(client, path):
    answer = client.get(path)
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_without_its_queue_it_lives_and_is_not_ready(client, monkeypatch):
    monkeypatch.setattr(QUEUE, refuse)
    paths = ("/v1/live", "/v1/health", "/v1/ready")
    assert [client.get(path).status_code for path in paths] == [200, 503, 503]


def test_without_its_index_it_is_healthy_and_not_ready(client, monkeypatch):
    monkeypatch.setattr(INDEX, refuse)
    paths = ("/v1/live", "/v1/health", "/v1/ready")
    assert [client.get(path).status_code for path in paths] == [200, 200, 503]
    assert client.get("/v1/ready").json()["detail"] == "nobody is there"


def test_ready_is_the_index_that_people_ask(settings, monkeypatch):
    asked = cohorts_of(settings)
    monkeypatch.setattr(asked, "reach", refuse)
    client = TestClient(make_app(settings, asked), base_url="http://127.0.0.1")
    assert client.get("/v1/ready").status_code == 503


def test_an_index_that_hangs_is_said_so_in_time_and_holds_up_nobody_else(client, monkeypatch):
    let_go = threading.Event()
    monkeypatch.setattr(INDEX, lambda *args: let_go.wait(60))
    monkeypatch.setattr(health, "PATIENCE_S", 0.2)
    begin = time.monotonic()
    try:
        answers = [client.get("/v1/ready") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [503] * 4
        assert answers[0].json()["detail"].startswith("the index does not answer within")
        assert client.get("/v1/health").status_code == 200
        assert time.monotonic() - begin < 20
    finally:
        let_go.set()


def test_who_watches_needs_no_token(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKEN", "x" * 32)
    guarded = load_settings(data=tmp_path / "data", serve={"token": "env:TOKEN"})
    client = TestClient(make_app(guarded), base_url="http://127.0.0.1")
    for path in ("/v1/live", "/v1/health", "/v1/ready"):
        assert client.get(path).status_code == 200
    assert client.get("/v1/stats").status_code == 401
