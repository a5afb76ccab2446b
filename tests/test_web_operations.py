"""What takes long can be followed by who asked for it, and by nobody else."""

from __future__ import annotations

from http import HTTPStatus

import pytest
from starlette.testclient import TestClient

from tomodex.operations import Operations
from tomodex.rebuilding import KIND
from tomodex.settings import Settings, load_settings
from tomodex.web.app import make_app
from tomodex.wiring import operations_of

TOKENS = {"ada": ("researcher",), "bob": ("researcher",), "ops": ("operator",)}


@pytest.fixture
def settings(tmp_path, monkeypatch) -> Settings:
    for name in TOKENS:
        monkeypatch.setenv(f"TOKEN_{name}", f"{name}-has-a-long-secret")
    tokens = {
        name: {"secret": f"env:TOKEN_{name}", "roles": roles} for name, roles in TOKENS.items()
    }
    return load_settings(data=tmp_path / "data", access={"tokens": tokens})


@pytest.fixture
def operations(settings) -> Operations:
    return operations_of(settings)


@pytest.fixture
def client(settings) -> TestClient:
    return TestClient(make_app(settings), base_url="http://127.0.0.1")


def ask(client: TestClient, name: str, path: str, method: str = "GET"):
    headers = {"Authorization": f"Bearer {name}-has-a-long-secret"}
    return client.request(method, path, headers=headers)


def test_who_asked_can_follow_it(client, operations):
    placed = operations.put("segment", '{"series": "1.2.3"}', "ada")
    held = operations.lease({"segment"}, 60)
    operations.report(held, 2, 5, 60)
    operations.complain(held, "one file is broken")
    seen = ask(client, "ada", f"/v1/operations/{placed.id}").json()
    assert (seen["status"], seen["done"], seen["total"]) == ("in-progress", 2, 5)
    assert seen["errors"] == ["one file is broken"]
    assert "1.2.3" not in str(seen)
    assert held.token not in str(seen)
    operations.finish(held, {"files": "a.nii.gz"})
    seen = ask(client, "ada", f"/v1/operations/{placed.id}").json()
    assert (seen["status"], seen["result"]) == ("completed", {"files": "a.nii.gz"})


def test_nobody_else_is_told_that_there_is_one(client, operations):
    placed = operations.put("segment", "{}", "ada")
    other = ask(client, "bob", f"/v1/operations/{placed.id}")
    none = ask(client, "bob", "/v1/operations/nonsense")
    assert (other.status_code, other.json()) == (HTTPStatus.NOT_FOUND, none.json())
    assert ask(client, "bob", "/v1/operations").json() == []
    assert [one["id"] for one in ask(client, "ada", "/v1/operations").json()] == [placed.id]


def test_who_operates_sees_all(client, operations):
    placed = operations.put("segment", "{}", "ada")
    assert ask(client, "ops", f"/v1/operations/{placed.id}").json()["id"] == placed.id
    assert len(ask(client, "ops", "/v1/operations").json()) == 1


def test_who_operates_may_have_the_index_made_anew(client, operations):
    refused = ask(client, "ada", "/v1/operations/rebuild", "POST")
    assert refused.status_code == HTTPStatus.FORBIDDEN
    assert operations.newest() == []
    placed = ask(client, "ops", "/v1/operations/rebuild", "POST")
    assert placed.status_code == HTTPStatus.ACCEPTED
    assert ask(client, "ops", placed.headers["location"]).json() == placed.json()
    (found,) = operations.newest()
    assert (found.kind, found.asker) == (KIND, "ops")
