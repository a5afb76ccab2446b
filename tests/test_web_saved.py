"""Saved cohorts and manifests over HTTP."""

from __future__ import annotations

import io
import json
from http import HTTPStatus
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient

from tests.corpus import corpus
from tomodex.settings import Settings, load_settings
from tomodex.web.app import make_app
from tomodex.wiring import index_of, saved_of

THIN = {"query": "liver and SliceThickness <= 1.5"}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = load_settings(data=tmp_path / "data")
    index = index_of(made)
    index.write(corpus())
    index.close()
    return made


def client_of(settings: Settings) -> TestClient:
    return TestClient(make_app(settings), "http://127.0.0.1", raise_server_exceptions=False)


@pytest.fixture
def client(settings: Settings) -> TestClient:
    return client_of(settings)


@pytest.fixture
def viewer(settings: Settings) -> TestClient:
    access = settings.access.model_copy(update={"local": ("viewer", "operator")})
    return client_of(settings.model_copy(update={"access": access}))


def test_a_cohort_is_saved_shown_compared_and_deleted(client, settings):
    saved = client.post("/v1/cohorts", json={"name": "thin", **THIN})
    assert saved.status_code == HTTPStatus.CREATED
    cohort = saved.json()
    assert (cohort["series"], cohort["patients"], cohort["query"]) == (20, 7, THIN["query"])
    where = saved.headers["location"]
    assert client.get(where).json() == cohort
    assert client.get("/v1/cohorts").json() == [cohort]
    index_of(settings).erase(["1.2.9.0", "1.2.9.1"])
    difference = client.get(f"{where}/diff?limit=1").json()
    assert (difference["same"], difference["cohort"]) == (18, cohort)
    assert difference["gone"] == {"count": 2, "series_uids": ["1.2.9.0"]}
    saved_of(settings).forget_patients(["pseudonym-1"])
    assert client.get(where).json()["removed"] == 3
    assert client.delete(where).status_code == HTTPStatus.NO_CONTENT
    assert client.get(where).status_code == HTTPStatus.NOT_FOUND
    assert client.delete(where).json()["type"] == "urn:tomodex:problem:not-there"


@pytest.mark.parametrize(
    ("ending", "kind"),
    [
        ("csv", "text/csv; charset=utf-8"),
        ("json", "application/json"),
        ("parquet", "application/vnd.apache.parquet"),
        ("txt", "text/plain; charset=utf-8"),
    ],
)
def test_a_manifest_is_a_file_in_each_format_found_or_frozen(client, ending, kind):
    found = client.post(f"/v1/cohort/manifest.{ending}", json=THIN)
    linked = client.get(f"/v1/cohort/manifest.{ending}", params=THIN)
    where = client.post("/v1/cohorts", json={"name": "thin", **THIN}).headers["location"]
    frozen = client.get(f"{where}/manifest.{ending}")
    for answer in (found, linked, frozen):
        assert (answer.status_code, answer.headers["content-type"]) == (HTTPStatus.OK, kind)
        assert answer.headers["content-disposition"].startswith('attachment; filename="tomodex-')
        assert answer.headers["content-disposition"].endswith(f'.{ending}"')
        assert len(uids(ending, answer.content)) == 20
    assert uids(ending, found.content) == uids(ending, linked.content)
    assert sorted(uids(ending, found.content)) == sorted(uids(ending, frozen.content))


def uids(ending: str, content: bytes) -> list[str]:
    """The series of a manifest, in its order."""
    match ending:
        case "json":
            return [one["SeriesInstanceUID"] for one in json.loads(content)["series"]]
        case "parquet":
            column = pq.read_table(io.BytesIO(content)).column("SeriesInstanceUID")
            return [str(uid) for uid in column.to_pylist()]
    lines = [
        line for line in content.decode().splitlines() if line[0] not in '#"S' or "1.2" in line
    ]
    return [next(c for c in _cells(line) if c.startswith("1.2.9.")) for line in lines]


def _cells(line: str) -> list[str]:
    return [cell.strip('"') for cell in line.replace("\t", ",").split(",")]


def test_columns_and_a_sample_can_be_asked_for(client):
    asked = {**THIN, "columns": ["PatientAge"], "sample": 4, "seed": 7}
    document = client.post("/v1/cohort/manifest.json", json=asked).json()
    assert (document["rows"], document["manifest"]["series"]) == (4, 20)
    assert list(document["series"][0])[3:] == ["PatientAge"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/cohorts", None),
        ("POST", "/v1/cohorts", {"name": "mine", "query": ""}),
        ("GET", "/v1/cohorts/0123456789ab", None),
        ("GET", "/v1/cohorts/0123456789ab/diff", None),
        ("DELETE", "/v1/cohorts/0123456789ab", None),
        ("GET", "/v1/cohorts/0123456789ab/manifest.csv", None),
        ("POST", "/v1/cohort/manifest.parquet", {"query": ""}),
        ("GET", "/v1/cohort/manifest.csv?query=", None),
    ],
)
def test_who_may_only_count_gets_no_list(viewer, method, path, body):
    answer = viewer.request(method, path, json=body)
    assert answer.status_code == HTTPStatus.FORBIDDEN
    assert answer.json()["type"] == "urn:tomodex:problem:forbidden"
    assert "1.2.9" not in answer.text


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({"query": "livver"}, 400, "bad-query"),
        ({"query": "", "columns": ["PatientName"]}, 400, "bad-query"),
        ({"query": "", "columns": ["x" * 65]}, 422, "invalid"),
        ({"query": "", "sample": 0}, 422, "invalid"),
        ({"query": "", "rows": 3}, 422, "invalid"),
        ({}, 422, "invalid"),
    ],
)
def test_what_cannot_be_listed_is_a_problem_and_no_half_of_a_file(client, body, status, kind):
    for ending in ("csv", "parquet"):
        answer = client.post(f"/v1/cohort/manifest.{ending}", json=body)
        assert answer.status_code == status
        assert answer.json()["type"] == f"urn:tomodex:problem:{kind}"


def test_a_format_that_there_is_not_is_said(client):
    assert client.post("/v1/cohort/manifest.exe", json=THIN).status_code == 422


def test_a_name_that_nobody_could_read_is_refused(client):
    answer = client.post("/v1/cohorts", json={"name": "\x1b[31m", "query": ""})
    assert (answer.status_code, answer.json()["type"]) == (400, "urn:tomodex:problem:bad-query")
    assert client.get("/v1/cohorts").json() == []
