"""Tasks over HTTP: ours and the predecessor's, only for configured sources, only for who may."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any, NoReturn

import httpx2 as httpx
import pytest
from anyio.to_thread import current_default_thread_limiter
from starlette.testclient import TestClient

from tests.contracts.queue import annotated, new
from tests.phantoms import write_ball_series
from tests.servers.ports import free_port
from tomodex import mask_orders
from tomodex.errors import BadQuery, Misconfigured, NotThere, Suspended, Unavailable
from tomodex.options import is_bare, without_query
from tomodex.places import destination_url
from tomodex.queues import Failed, Queue, open_queue
from tomodex.settings import Settings, load_settings
from tomodex.web.app import make_app
from tomodex.web.guard import Patience
from tomodex.web.problems import Refused, refusal_of
from tomodex.web.serving import require_guard
from tomodex.web.tasks import MOST_ASKING, MOST_BODY_BYTES, MOST_MASKS
from tomodex.wiring import (
    annotator_of,
    configured_url,
    exclusions_of,
    operations_of,
    source_of,
    task_source,
)

PACS = "dimse://TOMODEX@pacs.example:11112/PACS"
SERIES, STUDY = "1.2.840.3", "1.2.840"

#: As its documentation has it (reference of the predecessor), byte for byte.
PREDECESSOR = """
{"identification": {"mpi": "123456789", "series": "1.2.3.4.5.6.7.8", "study": "1.2.3.4.5.6.7.8.9.10.11.12"},
 "s3-input": {"s3-bucket": "landing-ct-indexer", "s3-path": "test.zip"}}
"""  # noqa: E501

OURS = {"source": "pacs", "series_uid": SERIES, "study_uid": STUDY}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "archive").mkdir()
    return load_settings(
        data=tmp_path / "data",
        sources={
            "pacs": f"{PACS}?hours=19:00-06:00",
            "landing": "s3://landing-ct-indexer?endpoint=https://s3.example&layout=archives",
            "disk": str(tmp_path / "archive"),
        },
        destinations={"masks": "s3://out/masks?endpoint=https://s3.example"},
    )


@pytest.fixture
def queue(settings: Settings) -> Iterator[Queue]:
    settings.data.mkdir(exist_ok=True)
    opened = open_queue(settings.queue_url)
    yield opened
    opened.close()


def client_of(settings: Settings, **how: Any) -> TestClient:
    return TestClient(
        make_app(settings), base_url="http://127.0.0.1", raise_server_exceptions=False, **how
    )


@pytest.fixture
def client(settings: Settings) -> TestClient:
    return client_of(settings)


def problem(response: httpx.Response) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = response.json()
    assert found["status"] == response.status_code
    return found


# --- ordering -----------------------------------------------------------------------------------


def test_a_series_that_was_erased_is_refused_with_the_reason_and_not_kept(client, settings, queue):
    exclusions_of(settings, queue).exclude_series([SERIES], "erased")
    other = OURS | {"series_uid": "1.2.840.4"}
    ordered = client.post("/v1/tasks", json=[OURS, other])
    assert ordered.status_code == HTTPStatus.ACCEPTED
    assert ordered.json()["new"] == 1
    refused, taken = ordered.json()["tasks"]
    assert (refused["id"], refused["status"], refused["reason"]) == (SERIES, "rejected", "erased")
    assert "not indexed again" in refused["sentence"]
    assert taken["status"] == "ready"
    assert queue.states(SERIES) == []


def test_a_series_that_is_ordered_becomes_a_task_that_can_be_followed(client, queue):
    ordered = client.post("/v1/tasks", json=OURS | {"lane": "daily"})
    assert ordered.status_code == HTTPStatus.ACCEPTED
    assert ordered.json()["new"] == 1
    task = client.get(ordered.headers["location"]).json()
    assert task == ordered.json()["tasks"][0]
    assert (task["id"], task["status"], task["lane"]) == (SERIES, "ready", "daily")
    (state,) = queue.states(SERIES)
    assert (state.source, state.series.study_uid) == (PACS, STUDY)


def test_the_predecessors_task_is_taken_as_it_is(client, queue):
    headers = {"content-type": "application/json"}
    ordered = client.post("/v1/tasks", content=PREDECESSOR, headers=headers)
    assert ordered.status_code == HTTPStatus.ACCEPTED
    (state,) = queue.states("1.2.3.4.5.6.7.8")
    assert state.source == "s3://landing-ct-indexer/test.zip"
    assert state.series.study_uid == "1.2.3.4.5.6.7.8.9.10.11.12"
    assert "123456789" not in ordered.text + repr(state)


def test_an_object_of_a_bucket_is_opened_with_the_options_of_the_bucket(settings):
    url = configured_url(settings, "s3://landing-ct-indexer/a%20b/test.zip")
    query = "endpoint=https://s3.example&layout=archives"
    assert url == f"s3://landing-ct-indexer/a%20b/test.zip?{query}"


def test_of_buckets_in_one_another_the_options_of_the_inner_one_count():
    settings = load_settings(
        sources={"all": "s3://b?region=outer", "part": "s3://b/part?region=inner"}
    )
    assert configured_url(settings, "s3://b/part/x.zip") == "s3://b/part/x.zip?region=inner"
    assert configured_url(settings, "s3://b/parts/x.zip") == "s3://b/parts/x.zip?region=outer"


def test_a_name_in_s3_may_hold_anything(client, queue):
    order = json.loads(PREDECESSOR)
    order["s3-input"]["s3-path"] = "in/a b?endpoint=http:evil#x%2e.zip"
    assert client.post("/v1/tasks", json=order).status_code == HTTPStatus.ACCEPTED
    (state,) = queue.states("1.2.3.4.5.6.7.8")
    assert state.source == (
        "s3://landing-ct-indexer/in/a%20b%3Fendpoint%3Dhttp%3Aevil%23x%252e.zip"
    )


def test_the_same_series_twice_is_the_same_task(client, queue):
    first = client.post("/v1/tasks", json=OURS).json()
    task = queue.lease("worker", timedelta(minutes=5))
    queue.settle(task, annotated(task.series))
    second = client.post("/v1/tasks", json=OURS).json()
    assert (first["new"], second["new"]) == (1, 0)
    assert second["tasks"][0]["status"] == "completed"


def test_a_series_whose_fingerprint_is_another_one_is_indexed_anew(client, queue):
    client.post("/v1/tasks", json=OURS | {"fingerprint": "a"})
    task = queue.lease("worker", timedelta(minutes=5))
    queue.settle(task, annotated(task.series))
    again = client.post("/v1/tasks", json=OURS | {"fingerprint": "b"}).json()
    assert (again["new"], again["tasks"][0]["status"]) == (1, "ready")


def test_several_are_ordered_in_a_list_or_one_a_line(client):
    orders = [OURS | {"series_uid": f"1.2.{n}"} for n in range(3)]
    listed = client.post("/v1/tasks", json=[*orders, json.loads(PREDECESSOR)])
    assert [task["id"] for task in listed.json()["tasks"]] == [
        "1.2.0",
        "1.2.1",
        "1.2.2",
        "1.2.3.4.5.6.7.8",
    ]
    lines = "\n".join(map(json.dumps, orders)) + "\n\n"
    headers = {"content-type": "application/x-ndjson; charset=utf-8"}
    again = client.post("/v1/tasks", content=lines, headers=headers)
    assert (again.status_code, again.json()["new"]) == (HTTPStatus.ACCEPTED, 0)


def test_a_series_without_a_study_is_asked_for_at_its_source(settings, client, queue, tmp_path):
    uid = write_ball_series(tmp_path / "archive")
    assert len(list(source_of(settings, "disk").find())) == 1
    ordered = client.post("/v1/tasks", json={"source": "disk", "series_uid": uid})
    assert ordered.status_code == HTTPStatus.ACCEPTED
    (state,) = queue.states(uid)
    assert (state.series.instance_count, state.series.modality) == (20, "CT")
    missing = client.post("/v1/tasks", json={"source": "disk", "series_uid": "9.9"})
    assert missing.status_code == HTTPStatus.SERVICE_UNAVAILABLE
    assert missing.headers["retry-after"] == "30"


def test_a_series_without_a_study_is_indexed_anew_for_another_fingerprint(
    settings, client, queue, tmp_path
):
    uid = write_ball_series(tmp_path / "archive")
    assert len(list(source_of(settings, "disk").find())) == 1
    order = {"source": "disk", "series_uid": uid}
    for fingerprint, how_many in [("", 1), ("", 0), ("again", 1), ("again", 0), ("once more", 1)]:
        answer = client.post("/v1/tasks", json=order | {"fingerprint": fingerprint})
        assert answer.json()["new"] == how_many


def test_a_series_of_which_only_its_uids_are_known_is_indexed_by_its_headers(
    settings, client, queue, tmp_path
):
    uid = write_ball_series(tmp_path / "archive")
    assert len(list(source_of(settings, "disk").find())) == 1
    client.post("/v1/tasks", json={"source": "disk", "series_uid": uid, "study_uid": "1.9"})
    task = queue.lease("worker", timedelta(minutes=5))
    found = annotator_of(settings)(task)
    assert found.image.shape == (20, 40, 50)
    assert found.series.modality == "CT"
    assert found.series.patient


class Gate:
    """A source whose gate lets nobody pass until it is opened, and has nothing then."""

    def __init__(self) -> None:
        self.waiting = threading.Semaphore(0)
        self.opened = threading.Event()

    def describe(self, series_uid: str) -> NoReturn:
        self.waiting.release()
        assert self.opened.wait(20)
        raise NotThere(f"the archive has no series {series_uid}")


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    made = Gate()
    monkeypatch.setattr("tomodex.web.tasks.source_of", lambda settings, url: made)
    yield made
    made.opened.set()


def test_orders_that_wait_for_a_source_hold_up_nothing_else(settings, gate):
    unknown = {"source": "pacs", "series_uid": SERIES}
    with client_of(settings) as client, ThreadPoolExecutor(MOST_ASKING + 1) as clients:
        with few_threads(client, 1):
            waiting = [
                clients.submit(client.post, "/v1/tasks", json=unknown) for _ in range(MOST_ASKING)
            ]
            for _ in waiting:
                assert gate.waiting.acquire(timeout=10)
            refused = clients.submit(client.post, "/v1/tasks", json=unknown).result(10)
            known = clients.submit(client.post, "/v1/tasks", json=OURS).result(10)
        gate.opened.set()
        assert problem(refused)["status"] == HTTPStatus.SERVICE_UNAVAILABLE
        assert refused.headers["retry-after"] == "30"
        assert known.status_code == HTTPStatus.ACCEPTED
        assert {answer.result().status_code for answer in waiting} == {HTTPStatus.NOT_FOUND}
        assert client.post("/v1/tasks", json=unknown).status_code == HTTPStatus.NOT_FOUND


@pytest.mark.parametrize("path", ["/v1/health", "/v1/version"])
def test_whoever_watches_us_is_answered_when_no_thread_is_free(settings, path):
    with client_of(settings) as client, ThreadPoolExecutor(1) as clients, few_threads(client, 0):
        assert clients.submit(client.get, path).result(10).status_code == HTTPStatus.OK


@contextmanager
def few_threads(client: TestClient, most: int) -> Iterator[None]:
    """Leave the routes only so many threads of the pool that they share."""

    def limit(threads: int) -> None:
        current_default_thread_limiter().total_tokens = threads

    client.portal.call(limit, most)
    try:
        yield
    finally:
        client.portal.call(limit, 40)


def test_a_source_that_does_not_have_a_series_is_no_outage(client, gate):
    gate.opened.set()
    missing = client.post("/v1/tasks", json={"source": "pacs", "series_uid": SERIES})
    assert problem(missing)["type"] == "urn:tomodex:problem:not-there"
    assert missing.status_code == HTTPStatus.NOT_FOUND
    assert "retry-after" not in missing.headers


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "http://169.254.169.254/latest/meta-data",
        "dicomweb+http://localhost:8080",
        "folder:///etc",
        "/etc",
        f"{PACS}?hours=00:00-23:59",
        "dimse://TOMODEX@evil.example:104/PACS",
        "s3://landing-ct-indexer/a-key-without-suffix",
        "s3://other/test.zip",
        "s3://landing-ct-indexer.evil/test.zip",
        "s3://landing-ct-indexer/../other/test.zip",
        "s3://landing-ct-indexer/%2e%2e/other/test.zip",
        "s3://landing-ct-indexer/x.zip?endpoint=http://evil.example",
        "s3://landing-ct-indexer/x.zip#y",
        "s3://user:secret@landing-ct-indexer/x.zip",
        "http://[",
        "",
        "..",
    ],
)
def test_only_configured_sources_can_be_named(client, queue, source):
    refused = client.post("/v1/tasks", json=OURS | {"source": source})
    assert problem(refused)["type"] == "urn:tomodex:problem:unknown-source"
    assert refused.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
    assert queue.count() == {} or not any(queue.count().values())


def test_a_predecessors_task_for_another_bucket_is_refused(client):
    order = json.loads(PREDECESSOR)
    order["s3-input"]["s3-bucket"] = "other"
    assert problem(client.post("/v1/tasks", json=order))["type"].endswith("unknown-source")


@pytest.mark.parametrize(
    ("url", "bare"),
    [
        ("folder:///data/ct?x=1", "folder:///data/ct"),
        ("s3://b/a%20b?x=1", "s3://b/a%20b"),
        ("dimse://T@pacs:104/P?x=1", "dimse://T@pacs:104/P"),
        ("dicomweb+https://u:secret@pacs/web", "dicomweb+https://u@pacs/web"),
    ],
)
def test_a_url_without_options_stays_what_it_is(url, bare):
    assert without_query(url) == without_query(bare) == bare
    assert (is_bare(url), is_bare(bare)) == (False, True)


def test_what_no_settings_name_is_no_source_of_tasks(settings):
    with pytest.raises(BadQuery, match="disk, landing, pacs"):
        task_source(settings, "folder:///elsewhere")
    assert task_source(settings, "pacs") == PACS


def masks_into(bucket: str, path: str) -> dict[str, Any]:
    """A task of the predecessor's segmentation mode."""
    return {**json.loads(PREDECESSOR), "s3-output": {"s3-bucket": bucket, "s3-path": path}}


def test_a_task_with_an_output_orders_masks_and_no_indexing(client, queue, settings):
    ordered = client.post("/v1/tasks", json=masks_into("out", "masks/test 1.zip"))
    assert ordered.status_code == HTTPStatus.ACCEPTED
    assert (ordered.json()["new"], ordered.json()["tasks"]) == (0, [])
    (seen,) = ordered.json()["masks"]
    assert client.get(ordered.headers["location"]).json() == seen
    (placed,) = operations_of(settings).newest()
    order = mask_orders.Order.model_validate_json(placed.request)
    assert (order.series, order.forms) == ("1.2.3.4.5.6.7.8", ("nifti", "statistics"))
    assert order.source == "s3://landing-ct-indexer/test.zip"
    assert order.to == "s3://out/masks/test%201.zip"
    assert queue.states("1.2.3.4.5.6.7.8") == []
    assert "123456789" not in ordered.text + repr(placed)


@pytest.mark.parametrize(
    ("bucket", "path"),
    [
        ("elsewhere", "masks/a.zip"),
        ("out", "a.zip"),
        ("out", "masks-2/a.zip"),
        ("out", "masks/../a.zip"),
    ],
)
def test_masks_go_nowhere_but_below_a_configured_destination(client, settings, queue, bucket, path):
    orders = [OURS, masks_into("out", "masks"), masks_into(bucket, path)]
    refused = client.post("/v1/tasks", json=orders)
    assert refused.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
    assert "no configured destination" in problem(refused)["detail"]
    assert operations_of(settings).newest() == []
    assert queue.states(SERIES) == []


def test_masks_have_the_options_of_their_destination_and_no_others(settings):
    wanted = "s3://out/masks/a%3Fendpoint%3Dhttps%3A//evil.example"
    assert destination_url(settings, wanted) == f"{wanted}?endpoint=https://s3.example"
    assert destination_url(settings, "s3://out/masks/a?endpoint=https://evil.example") == ""


def test_a_repeated_task_with_a_key_orders_its_masks_once(client, settings):
    orders = [masks_into("out", "masks/a"), masks_into("out", "masks/b")]
    for _ in range(2):
        client.post("/v1/tasks", json=orders, headers={"Idempotency-Key": "flow-1"})
    assert len(operations_of(settings).newest()) == 2


def test_a_service_may_order_series_but_no_masks(settings, monkeypatch):
    monkeypatch.setenv("NIFI", "a-token-of-some-length-0123456789")
    token = {"nifi": {"secret": "env:NIFI", "roles": ["service"]}}
    guarded = load_settings(**{**settings.model_dump(), "access": {"tokens": token}})
    headers = {"authorization": "Bearer a-token-of-some-length-0123456789"}
    refused = client_of(guarded).post("/v1/tasks", json=masks_into("out", "masks"), headers=headers)
    assert refused.status_code == HTTPStatus.FORBIDDEN
    assert operations_of(settings).newest() == []


def test_more_masks_than_can_be_made_are_refused(client, settings):
    refused = client.post("/v1/tasks", json=[masks_into("out", "masks/a")] * (MOST_MASKS + 1))
    assert "101 tasks have s3-output; 100 may" in problem(refused)["detail"]
    assert operations_of(settings).newest() == []


def test_of_several_orders_all_or_none_are_taken(client, queue):
    orders = [OURS, OURS | {"series_uid": "1.2.4", "source": "nowhere"}]
    assert client.post("/v1/tasks", json=orders).status_code == HTTPStatus.UNPROCESSABLE_ENTITY
    assert queue.states(SERIES) == []


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"series_uid": "1.2/../3"}, "series_uid"),
        ({"series_uid": "1" * 65}, "series_uid"),
        ({"series_uid": 12}, "series_uid"),
        ({"lane": "first"}, "lane"),
        ({"patient_name": "Doe^Jane"}, "patient_name"),
    ],
)
def test_an_order_that_is_wrong_is_refused_without_its_values(client, wrong, where):
    found = problem(client.post("/v1/tasks", json=[OURS, OURS | wrong]))
    assert found["detail"].startswith(f"task 2: {where}: ")
    assert "Doe" not in found["detail"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"3", b"[[]]", b"\xff", b"[" * 100_000])
def test_what_is_no_order_is_refused(client, body):
    headers = {"content-type": "application/json"}
    refused = client.post("/v1/tasks", content=body, headers=headers)
    assert problem(refused)["status"] == HTTPStatus.UNPROCESSABLE_ENTITY


def test_a_form_of_a_web_page_is_refused(client):
    body = json.dumps(OURS)
    refused = client.post("/v1/tasks", content=body, headers={"content-type": "text/plain"})
    assert problem(refused)["status"] == HTTPStatus.UNSUPPORTED_MEDIA_TYPE


def test_a_body_that_is_too_long_is_not_read(client):
    headers = {"content-type": "application/json"}
    refused = client.post("/v1/tasks", content=b" " * (MOST_BODY_BYTES + 1), headers=headers)
    assert refused.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE


def test_more_orders_than_are_taken_at_once_are_refused(client):
    lines = (json.dumps(OURS) + "\n") * 10_001
    headers = {"content-type": "application/x-ndjson"}
    refused = client.post("/v1/tasks", content=lines, headers=headers)
    assert "10,000" in problem(refused)["detail"]


def test_a_series_that_nobody_ordered_is_not_found(client):
    assert problem(client.get("/v1/tasks/9.9.9"))["status"] == HTTPStatus.NOT_FOUND
    assert problem(client.get("/v1/tasks/drop%20table"))["status"] == 422
    assert problem(client.get("/v1/nothing"))["status"] == HTTPStatus.NOT_FOUND


# --- finding and trying again -------------------------------------------------------------------


def test_failed_tasks_are_found_by_reason_and_tried_again(client, queue):
    queue.put([new("1.1"), new("1.2")])
    for reason in ("ValueError", "unavailable"):
        task = queue.lease("worker", timedelta(minutes=5))
        queue.settle(task, Failed(reason=reason, sentence="it broke"))
    found = client.get("/v1/tasks", params={"status": "failed", "reason": "ValueError"}).json()
    assert [(task["reason"], task["sentence"]) for task in found] == [("ValueError", "it broke")]
    again = client.post("/v1/tasks/retry", params={"reason": "ValueError"})
    assert again.json() == {"ready": 1}
    assert len(client.get("/v1/tasks").json()) == 1


# --- who may ask --------------------------------------------------------------------------------


def test_without_the_token_nothing_is_answered_but_health(settings, tmp_path, monkeypatch):
    monkeypatch.setenv("TOMODEX_TEST_TOKEN", "the-long-token-of-a-test")
    guarded = client_of(
        load_settings(data=settings.data, serve={"token": "env:TOMODEX_TEST_TOKEN"})
    )
    assert guarded.get("/v1/health").json() == {"status": "ok"}
    for path in ("/v1/version", "/v1/tasks", "/v1/openapi.json", "/nothing"):
        refused = guarded.get(path)
        assert problem(refused)["status"] == HTTPStatus.UNAUTHORIZED
        assert refused.headers["www-authenticate"] == "Bearer"
    for header in (
        "Bearer wrong",
        "Basic the-long-token-of-a-test",
        "the-long-token-of-a-test",
        "Bearer",
    ):
        assert guarded.get("/v1/version", headers={"Authorization": header}).status_code == 401
    right = {"Authorization": "Bearer the-long-token-of-a-test"}
    assert "tomodex" in guarded.get("/v1/version", headers=right).json()


def test_a_token_that_is_not_there_is_said_at_the_start(settings):
    with pytest.raises(Misconfigured, match="not set"):
        make_app(load_settings(data=settings.data, serve={"token": "env:TOMODEX_TEST_TOKEN"}))


def test_without_a_token_only_this_machine_is_answered():
    for host in ("0.0.0.0", "192.0.2.1", "::", "pacs.example"):
        with pytest.raises(Misconfigured, match="token"):
            require_guard(load_settings(serve={"host": host}))
    for host in ("127.0.0.1", "::1", "localhost"):
        require_guard(load_settings(serve={"host": host}))
    require_guard(load_settings(serve={"host": "0.0.0.0", "token": "env:X"}))


def test_a_web_site_that_takes_our_address_is_not_answered(client):
    rebound = client.get("/v1/tasks", headers={"Host": "evil.example"})
    assert rebound.status_code == HTTPStatus.BAD_REQUEST


def test_a_client_that_asks_too_often_is_told_when_to_come_again(settings):
    # So slow that it does not matter how busy the machine is.
    slow = client_of(load_settings(data=settings.data, serve={"per_second": 0.001}))
    answers = [slow.get("/v1/health") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 429, 429]
    assert 900 <= int(answers[-1].headers["retry-after"]) <= 1000
    assert problem(answers[-1])["type"].endswith("too-often")


def test_one_client_does_not_use_up_the_turn_of_another():
    now = [0.0]
    patience = Patience(1, now=lambda: now[0])
    for _ in range(4):
        patience.require("a")
    with pytest.raises(Refused):
        patience.require("a")
    patience.require("b")
    now[0] += 1
    patience.require("a")


# --- errors -------------------------------------------------------------------------------------


def test_an_archive_that_is_left_alone_says_when_to_come_again():
    until = datetime.now(UTC) + timedelta(seconds=100)
    refused = refusal_of(Suspended("left alone", source=PACS, until=until))
    assert refused.status == HTTPStatus.SERVICE_UNAVAILABLE
    assert 95 <= int(refused.headers["Retry-After"]) <= 100


def test_a_bug_is_answered_without_what_it_says(settings, monkeypatch):
    def breaks(*args: object) -> None:
        raise ValueError("Doe^Jane")

    broken = client_of(settings)
    monkeypatch.setattr("tomodex.web.tasks.state_of", breaks)
    answer = broken.get("/v1/tasks/1.2.3")
    assert problem(answer)["status"] == HTTPStatus.INTERNAL_SERVER_ERROR
    assert "Doe" not in answer.text


def test_a_queue_that_does_not_answer_is_unhealthy(settings, monkeypatch):
    def busy(*args: object) -> None:
        raise Unavailable("another process holds the queue")

    client = client_of(settings)
    monkeypatch.setattr("tomodex.queues.sqlite.SqliteQueue.count", busy)
    assert problem(client.get("/v1/health"))["status"] == HTTPStatus.SERVICE_UNAVAILABLE


def test_the_api_describes_itself_with_examples(client):
    described = client.get("/v1/openapi.json").json()
    body = described["paths"]["/v1/tasks"]["post"]["requestBody"]["content"]["application/json"]
    assert body["examples"]["predecessor"]["value"] == json.loads(PREDECESSOR)
    for example in body["examples"].values():
        example["value"].get("source")
        assert client.post("/v1/tasks", json=example["value"]).status_code == 202


def test_every_route_is_documented(client):
    page = (Path(__file__).parents[1] / "docs/reference/http.md").read_text()
    described = client.get("/v1/openapi.json").json()["paths"]
    routes = [f"{m.upper()} {path}" for path, methods in described.items() for m in methods]
    assert [route for route in routes if f"`{route}" not in page] == []


# --- the process --------------------------------------------------------------------------------


def test_the_process_serves_until_it_is_asked_to_end(tmp_path):
    port = free_port()
    code = "from tomodex.cli import main; main()"
    command = [sys.executable, "-c", code, "--data", str(tmp_path), "serve", "--port", str(port)]
    with (tmp_path / "err.log").open("wb") as err:
        process = subprocess.Popen(command, stderr=err)
    try:
        end = time.monotonic() + 60
        while "http" not in (tmp_path / "err.log").read_text():
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.1)
        assert httpx.get(f"http://127.0.0.1:{port}/v1/health").json() == {"status": "ok"}
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.wait()
