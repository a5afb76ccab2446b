"""A viewer, over HTTP: every route answers with numbers, or refuses without a look at the data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.corpus import corpus
from tomodex import wiring
from tomodex.settings import load_settings
from tomodex.web.app import make_app

TOKEN = "v" * 32

#: A series that is in the index, and one that is not.
THERE, NOT_THERE = "1.2.9.0", "1.2.9.999"

#: Routes that tell a viewer something, each with what it is asked.
COUNTING: dict[str, Any] = {
    "POST /v1/cohort/counts": {"json": {"query": "liver"}},
    "POST /v1/cohort/facets": {"json": {"query": "liver", "fields": ["PatientSex"]}},
    "POST /v1/chips": {"json": {"query": "liver"}},
    "GET /v1/attributes": {},
    "GET /v1/attributes/{keyword}/values": {},
    "GET /v1/completions": {"params": {"text": "PatientSex = ", "cursor": 13}},
    "GET /v1/structures": {},
    "GET /v1/stats": {},
    "GET /v1/operations": {},
    "GET /v1/live": {},
    "GET /v1/health": {},
    "GET /v1/ready": {},
    "GET /v1/version": {},
}
#: Where a viewer may ask, but for what nobody has.
UNKNOWN = ("/v1/operations/{id}",)
BODIES: dict[str, Any] = {
    "/v1/identities": {"pseudonyms": ["pseudonym-1"], "reason": "curious about her"},
    "/v1/cohorts": {"name": "mine", "query": "liver"},
    "/v1/segmentations": {"series": THERE, "structures": ["liver"], "to": "out"},
    "/v1/sql": {"sql": "select * from series"},
}


@pytest.fixture(scope="module")
def viewer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    patch = pytest.MonkeyPatch()
    patch.setenv("VIEWER", TOKEN)
    settings = load_settings(
        data=tmp_path_factory.mktemp("data"),
        serve={"sql": True, "viewer": "https://v.example/{study}/{series}", "per_second": 10_000},
        access={"tokens": {"eve": {"secret": "env:VIEWER", "roles": ["viewer"]}}},
    )
    index = wiring.index_of(settings)
    # Seven patients: fewer than anybody may know of who may learn numbers alone.
    index.write(corpus())
    index.close()
    with TestClient(make_app(settings), base_url="http://127.0.0.1") as client:
        client.headers["Authorization"] = f"Bearer {TOKEN}"
        yield client
    patch.undo()


def routes(client: TestClient) -> list[tuple[str, str]]:
    described: dict[str, Any] = client.get("/v1/openapi.json").json()["paths"]
    return [(method.upper(), path) for path, methods in described.items() for method in methods]


def ask(client: TestClient, method: str, path: str, uid: str) -> tuple[int, str]:
    """What is answered about a series."""
    asked = path.format(
        series_uid=uid,
        study_uid="1.2.8.0",
        keyword="PatientSex",
        id="x",
        cohort_id="x",
        ending="csv",
    )
    how = COUNTING.get(f"{method} {path}")
    if how is None:
        query = {"query": f"SeriesInstanceUID = {uid}"}
        body = BODIES.get(path, query)
        asks = {"series": uid} if path == "/v1/viewer-url" else query
        how = {"json": body} if method == "POST" else {"params": asks}
    answer = client.request(method, asked, **how)
    return answer.status_code, answer.text


def test_every_route_counts_or_refuses_whether_a_series_is_there_or_not(viewer):
    asked = routes(viewer)
    assert len(asked) > 25
    assert {f"{method} {path}" for method, path in asked} >= set(COUNTING)
    for method, path in asked:
        there, not_there = (ask(viewer, method, path, uid) for uid in (THERE, NOT_THERE))
        if f"{method} {path}" in COUNTING:
            assert there[0] == 200, (method, path, there)
        else:
            assert there[0] == 403 or path in UNKNOWN, (method, path, there)
            said = [
                text.replace(uid, "UID")
                for (_, text), uid in ((there, THERE), (not_there, NOT_THERE))
            ]
            assert (there[0], said[0]) == (not_there[0], said[1]), (method, path)


def test_what_counts_tells_nothing_of_seven_patients(viewer):
    found = viewer.post("/v1/cohort/counts", json={"query": "liver"}).json()
    nobody = viewer.post("/v1/cohort/counts", json={"query": "liver and not liver"}).json()
    assert found == nobody
    assert (found["patients"], found["series"], found["fewer_than"]) == (None, None, 10)
    for method, path in routes(viewer):
        if f"{method} {path}" in COUNTING:
            _, text = ask(viewer, method, path, THERE)
            assert "pseudonym" not in text
            assert "1.2.9." not in text
            assert "1.2.8." not in text
    facets = viewer.post("/v1/cohort/facets", json=COUNTING["POST /v1/cohort/facets"]["json"])
    assert "F" not in facets.json().get("PatientSex", {})
    assert viewer.get("/v1/attributes/PatientSex/values").json() in ([], {"values": []})


def test_a_question_that_is_too_fine_is_a_bad_question(viewer):
    fine = viewer.post("/v1/cohort/counts", json={"query": f"SeriesInstanceUID = {THERE}"})
    assert fine.status_code == 400
    assert fine.json()["type"].endswith("bad-query")
