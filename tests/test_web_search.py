"""Questions over HTTP: the same answers as the core gives, and harmless whatever is sent."""

from __future__ import annotations

import json
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx2 as httpx
import orjson
import pytest
from pydantic import ValidationError
from starlette.testclient import TestClient

from tests.contracts.queue import settle_next
from tests.corpus import QUESTIONS, corpus
from tomodex.access import OWNER
from tomodex.cohorts import MOST_ROWS, Cohorts
from tomodex.doors import Serve
from tomodex.queues import NewTask
from tomodex.settings import Settings, load_settings
from tomodex.web.app import make_app
from tomodex.web.viewer import viewer_url
from tomodex.wiring import cohorts_of, index_of, queue_of

VIEWER = "https://viewer.example/v?StudyInstanceUIDs={study}&SeriesInstanceUIDs={series}"

#: Everything that a question can be sent with.
ASKED = {"query": "liver"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A data folder with 30 series, the first of them with a result."""
    data = tmp_path_factory.mktemp("web") / "data"
    settings = settings_of(data)
    index_of(settings).write(corpus())
    queue, first = queue_of(settings), corpus()[0]
    queue.put([NewTask(series=first.series, source="folder:///archive")])
    settle_next(queue, first)
    return data


def settings_of(data: Path, *roles: str, viewer: str = "") -> Settings:
    access = {"local": roles or ("researcher", "operator")}
    return load_settings(data=data, access=access, serve=Serve(per_second=10_000, viewer=viewer))


def client_of(data: Path, *roles: str, viewer: str = "") -> TestClient:
    app = make_app(settings_of(data, *roles, viewer=viewer))
    return TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)


@pytest.fixture(scope="module")
def client(folder) -> TestClient:
    return client_of(folder, viewer=VIEWER)


@pytest.fixture(scope="module")
def cohorts(folder) -> Cohorts:
    return cohorts_of(settings_of(folder))


def problem(response: httpx.Response, status: HTTPStatus) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = response.json()
    assert found["status"] == status
    return found


def as_json(value: object) -> Any:
    """As the core's answer is written, without how long it took."""
    plain = json.loads(orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS))
    if isinstance(plain, dict):
        plain.pop("milliseconds", None)
    return plain


# --- answers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_over_http_has_the_answer_of_the_core(client, cohorts, question):
    asked = {"query": question}
    counts = client.post("/v1/cohort/counts", json=asked).json()
    assert counts == as_json(cohorts.counts(OWNER, question))
    page = {**asked, "limit": 7, "offset": 2}
    found = as_json(client.post("/v1/cohort/series", json=page).json())
    assert found == as_json(cohorts.series(OWNER, question, 7, 2))
    found = as_json(client.post("/v1/cohort/series", json={**page, "structures": True}).json())
    assert found == as_json(cohorts.strips(OWNER, question, 7, 2))
    fields = ["structure", "complete", "PatientSex", "StudyYear"]
    facets = client.post("/v1/cohort/facets", json={**asked, "fields": fields}).json()
    assert facets == as_json(cohorts.facets(OWNER, question, fields))
    chips = client.post("/v1/chips", json=asked).json()
    assert chips == as_json(cohorts.chips(question))


def test_what_helps_to_ask_is_the_same_over_http(client, cohorts):
    assert client.get("/v1/attributes").json() == as_json(cohorts.attributes(OWNER))
    values = client.get("/v1/attributes/Manufacturer/values", params={"prefix": "AC"}).json()
    assert values == as_json(cohorts.values(OWNER, "Manufacturer", "AC"))
    niere = client.get("/v1/structures", params={"text": "Niere"}).json()
    assert niere == as_json(cohorts.anatomy(OWNER, "Niere"))
    typed = client.get(
        "/v1/completions", params={"text": "Manufacturer = AC and liv", "cursor": 17}
    )
    assert typed.json() == as_json(cohorts.completions(OWNER, "Manufacturer = AC and liv", 17))


def test_the_whole_vocabulary_can_be_read(client):
    everything = client.get("/v1/structures").json()
    names = {one["named"]["name"] for one in everything}
    assert {"kidney_left", "kidney", "thorax"} <= names
    parents = {parent for one in everything for parent in one["named"]["parents"]}
    assert parents <= names


def test_one_series_has_its_result_its_structures_and_their_provenance(client):
    one = client.get("/v1/series/1.2.9.0").json()
    assert one["annotated"]["series"]["series_uid"] == "1.2.9.0"
    assert [task["status"] for task in one["tasks"]] == ["completed"]
    structures = client.get("/v1/series/1.2.9.0/structures").json()
    assert structures == one["annotated"]["annotations"]
    provenance = client.get("/v1/series/1.2.9.0/provenance").json()
    assert provenance == one["annotated"]["provenance"]


@pytest.mark.parametrize("part", ["", "/structures", "/provenance"])
def test_a_series_that_nobody_knows_is_not_there(client, part):
    assert problem(client.get(f"/v1/series/9.9.9{part}"), HTTPStatus.NOT_FOUND)


def test_how_much_is_indexed_and_waits_is_said(client, folder):
    stats = client.get("/v1/stats").json()
    assert (stats["series"], stats["studies"], stats["patients"]) == (30, 15, 7)
    assert stats["newest"] == "2026-01-15"
    assert stats["tasks"] == {"on-demand": {"completed": 1}}
    assert client_of(folder, "researcher").get("/v1/stats").json()["tasks"] is None


def test_a_series_can_be_looked_at_in_the_viewer_of_the_site(client, folder):
    link = client.get("/v1/viewer-url", params={"series": "1.2.9.0"}).json()
    assert link["url"] == (
        "https://viewer.example/v?StudyInstanceUIDs=1.2.8.0&SeriesInstanceUIDs=1.2.9.0"
    )
    none = client_of(folder).get("/v1/viewer-url", params={"series": "1.2.9.0"})
    assert "no viewer" in problem(none, HTTPStatus.NOT_FOUND)["detail"]


@pytest.mark.parametrize(
    "template", ["viewer", "https://v/{patient}", "https://v/", "javascript:{study}"]
)
def test_a_viewer_that_is_no_url_of_a_series_is_refused(template):
    with pytest.raises(ValidationError):
        Serve(viewer=template)


def test_a_uid_cannot_leave_its_place_in_the_viewers_url():
    assert viewer_url("/v?s={study}", "1.2&x={series}", "3") == "/v?s=1.2%26x%3D%7Bseries%7D"


def test_every_route_says_what_it_does_and_what_can_go_wrong(client):
    paths = client.get("/v1/openapi.json").json()["paths"]
    for path, methods in paths.items():
        for method, route in methods.items():
            assert route["summary"], (method, path)
    asked = {path: route["post"] for path, route in paths.items() if "/v1/cohort/" in path}
    for route in asked.values():
        assert {"400", "403", "422"} <= set(route["responses"])


# --- rights -------------------------------------------------------------------------------------

ROWS = (
    ("POST", "/v1/cohort/series", ASKED),
    ("GET", "/v1/series/1.2.9.0", None),
    ("GET", "/v1/series/1.2.9.0/structures", None),
    ("GET", "/v1/series/1.2.9.0/provenance", None),
    ("GET", "/v1/viewer-url?series=1.2.9.0", None),
    ("GET", "/dicomweb/series", None),
    ("GET", "/dicomweb/studies/1.2.8.0/series", None),
)
COUNT = (
    ("POST", "/v1/cohort/counts", ASKED),
    ("POST", "/v1/cohort/facets", {**ASKED, "fields": ["PatientSex"]}),
    ("GET", "/v1/structures", None),
    ("GET", "/v1/attributes", None),
    ("GET", "/v1/attributes/Manufacturer/values", None),
    ("GET", "/v1/completions?text=li", None),
    ("GET", "/v1/stats", None),
)


def statuses(client: TestClient, requests: Sequence[tuple[str, str, object]]) -> set[int]:
    return {client.request(method, url, json=body).status_code for method, url, body in requests}


def test_who_may_only_count_sees_no_single_series(folder):
    viewer = client_of(folder, "viewer")
    assert statuses(viewer, ROWS) == {403}
    assert statuses(viewer, COUNT) == {200}


def test_who_operates_sees_metrics_and_no_patient_data(folder):
    operator = client_of(folder, "operator")
    assert statuses(operator, (*ROWS, *COUNT)) == {403}
    assert operator.get("/metrics").status_code == HTTPStatus.OK
    assert client_of(folder, "researcher").get("/metrics").status_code == HTTPStatus.FORBIDDEN


def test_who_asks_without_a_token_where_one_is_needed_gets_nothing(folder, tmp_path):
    secret = tmp_path / "token"
    secret.write_text("a-token-that-is-long-enough")
    settings = load_settings(data=folder, serve=Serve(token=f"file:{secret}"))
    client = TestClient(make_app(settings), base_url="http://127.0.0.1")
    assert statuses(client, (*ROWS, *COUNT, ("GET", "/metrics", None))) == {401}
    assert statuses(client, (("GET", "/v1/openapi.json", None),)) == {401}


# --- hostile ------------------------------------------------------------------------------------

HOSTILE = {
    "a megabyte": "x" * 2**20,
    "a megabyte of parts": "liver and " * 100_000,
    "deep": "(" * 10_000 + "liver" + ")" * 10_000,
    "deep denial": "not " * 900 + "liver",
    "zero": "liver\x00",
    "zero in quotes": 'Manufacturer = "\x00"',
    "sql": 'Manufacturer = "\'; drop table series; --"',
    "far number": "PatientAge = 1e400",
    "not a number": "PatientAge = nan",
    "far date": "StudyDate = 9999999999-99-99",
    "overlong number": "PatientAge = " + "9" * 1500,
    "combining": "e" + "\N{COMBINING ACUTE ACCENT}" * 1500,
    "right to left": "\N{RIGHT-TO-LEFT OVERRIDE}liver",
    "stars": "Manufacturer = " + "*a" * 700,
    "ranges": " and ".join(["PatientAge 1..2"] * 99),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_question_is_answered_or_refused_soon(client, name):
    for path in ("counts", "series"):
        response = client.post(f"/v1/cohort/{path}", json={"query": HOSTILE[name]})
        assert response.status_code in (HTTPStatus.OK, HTTPStatus.BAD_REQUEST), response.text
        assert response.elapsed.total_seconds() < 2
        assert len(response.content) < 50_000
    assert client.get("/v1/health").status_code == HTTPStatus.OK


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"query": 1}',
        b'{"query": null}',
        b'{"query": "\xff"}',
        b'{"query": "liver", "wish": 1}',
        b'{"query": "liver", "limit": 1000000000}',
        b'{"query": "liver", "limit": -1}',
        b'{"query": "liver", "offset": 99999999999999999999}',
        b'{"query": "liver", "limit": NaN}',
        b"[" * 100_000,
    ],
)
def test_a_body_that_is_no_question_is_said_to_be_none(client, body):
    headers = {"content-type": "application/json"}
    response = client.post("/v1/cohort/series", content=body, headers=headers)
    assert response.status_code in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY)
    problem(response, HTTPStatus(response.status_code))


def test_a_lone_surrogate_is_refused_and_not_a_fault(client):
    content = b'{"query": "liver \\ud800"}'
    headers = {"content-type": "application/json"}
    for path in ("cohort/counts", "cohort/series", "chips"):
        response = client.post(f"/v1/{path}", content=content, headers=headers)
        assert response.status_code in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY)


def test_the_largest_page_is_bounded(client):
    wanted = {"query": "", "limit": MOST_ROWS, "offset": 2**31}
    assert client.post("/v1/cohort/series", json=wanted).json()["hits"] == []
    too_many = {"query": "", "limit": MOST_ROWS + 1}
    problem(client.post("/v1/cohort/series", json=too_many), HTTPStatus.UNPROCESSABLE_ENTITY)


def test_a_misspelled_question_is_answered_with_what_was_meant_and_where(client):
    found = problem(
        client.post("/v1/cohort/counts", json={"query": "liver and sacrun"}), HTTPStatus.BAD_REQUEST
    )
    assert found["type"] == "urn:tomodex:problem:bad-query"
    assert found["place"] == [10, 16]
    assert "sacrum" in found["suggestions"]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/attributes/%00/values",
        "/v1/attributes/" + "x" * 5000 + "/values",
        "/v1/attributes/PatientName/values",
        "/v1/structures?text=" + "y" * 199,
        "/v1/structures?text=%00",
    ],
)
def test_what_is_not_known_is_refused_with_a_short_sentence(client, path):
    found = problem(client.get(path), HTTPStatus.BAD_REQUEST)
    assert len(found["detail"]) < 2000


@pytest.mark.parametrize("uid", ["%00", "1.2.", "a", "1..2", "1." * 40, "%F0%9F%92%A9"])
def test_what_is_no_uid_is_refused(client, uid):
    response = client.get(f"/v1/series/{uid}")
    assert response.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
