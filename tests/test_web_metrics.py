"""What Prometheus is told: how many, how old, how long, and nothing of a patient."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http import HTTPStatus

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from tests.annotated import ONE
from tests.contracts.queue import HOUR, new, settle_next
from tomodex.errors import Unavailable
from tomodex.queues import Failed, Queue, Rejected, open_queue
from tomodex.search import Totals
from tomodex.settings import Settings, load_settings
from tomodex.sources.gate import Suspension
from tomodex.web.app import make_app
from tomodex.web.metrics import MOST_WAITING, Metrics

TOTALS = Totals(series=7, studies=5, patients=3, segmented=6, waiting=1, newest=None)
SINK = "ndjson:///out?password=file:/secret"


@pytest.fixture
def queue(tmp_path) -> Queue:
    return open_queue(f"sqlite://{tmp_path / 'queue.db'}")


@pytest.fixture
def metrics(queue) -> Metrics:
    return Metrics(queue, (SINK,), lambda: [], lambda: TOTALS)


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Every sample of ours by its name and its labels, in the order of their names."""
    text, _ = metrics.written("")
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
        if sample.name.startswith("tomodex")
    }


def test_series_are_counted_by_what_became_of_them_and_why(queue, metrics):
    queue.put([new(str(n), "daily") for n in range(4)])
    settle_next(queue)
    settle_next(queue, Rejected(reason="few_slices", sentence="has 2 slices"))
    settle_next(queue, Failed(sentence="KeyError", reason="KeyError"))
    found = samples(metrics)
    for status in ("completed", "rejected", "failed", "ready"):
        assert found["tomodex_series", "daily", status] == 1
    assert found["tomodex_series_refused", "few_slices", "rejected"] == 1
    assert found["tomodex_series_refused", "KeyError", "failed"] == 1


def test_the_oldest_that_waits_is_told_by_lane(queue, metrics):
    queue.put([new("1", "daily")])
    found = samples(metrics)
    assert 0 < found["tomodex_queue_oldest_seconds", "daily"] < 60
    assert found["tomodex_queue_oldest_seconds", "backfill"] == 0


def test_nobody_looks_through_a_lane_with_too_many(queue, metrics, monkeypatch):
    counts = {("backfill", "ready"): MOST_WAITING + 1, ("daily", "ready"): MOST_WAITING}
    monkeypatch.setattr(queue, "count", lambda: counts)
    lanes = {name[1] for name in samples(metrics) if name[0] == "tomodex_queue_oldest_seconds"}
    assert lanes == {"on-demand", "daily", "reindex"}


def test_a_sink_that_lags_is_told_without_its_secrets(queue, metrics):
    finished = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    late = replace(ONE, provenance=replace(ONE.provenance, finished=finished))
    queue.put([new("1.2.3")])
    settle_next(queue, late)
    lag = samples(metrics)["tomodex_index_lag_seconds", "ndjson:///out"]
    assert lag == pytest.approx(3600, abs=30)
    assert samples(metrics)["tomodex_index_lag_results", "ndjson:///out"] == 1
    (result,) = queue.results(0, 10)
    queue.confirm(SINK, result.sequence)
    assert samples(metrics)["tomodex_index_lag_seconds", "ndjson:///out"] == 0
    assert b"secret" not in metrics.written("")[0]


def test_results_that_a_sink_did_not_take_are_counted(queue, metrics):
    queue.put([new("1.2.3")])
    settle_next(queue, ONE)
    (result,) = queue.results(0, 10)
    queue.set_aside(SINK, result, "refused")
    assert samples(metrics)["tomodex_results_set_aside", "ndjson:///out"] == 1


def test_stages_are_timed_from_when_it_was_started_on(queue):
    def settle(uid: str, seconds: float) -> None:
        queue.put([new(uid)])
        stages = {"segment": seconds}
        settle_next(queue, replace(ONE, provenance=replace(ONE.provenance, stage_seconds=stages)))

    settle("1", 100.0)
    (result,) = queue.results(0, 10)
    queue.confirm(SINK, result.sequence)
    metrics = Metrics(queue, (SINK,), lambda: [], lambda: TOTALS)
    settle("2", 2.0)
    settle("3", 4.0)
    found = samples(metrics)
    assert found["tomodex_stage_seconds_count", "segment"] == 2
    assert found["tomodex_stage_seconds_sum", "segment"] == 6
    assert found["tomodex_stage_seconds_bucket", "3.0", "segment"] == 1
    assert samples(metrics)["tomodex_stage_seconds_count", "segment"] == 2


def test_archives_that_are_left_alone_are_told(queue):
    until = datetime.now(UTC) + timedelta(minutes=5)
    suspension = Suspension(source="dimse://pacs", until=until, sentence="no answer")
    found = samples(Metrics(queue, (), lambda: [suspension], lambda: TOTALS))
    assert found["tomodex_source_suspended_seconds", "dimse://pacs"] == pytest.approx(300, abs=30)


def test_what_was_settled_lately_is_counted_by_lane(queue, metrics):
    queue.put([new(str(n), "daily") for n in range(3)])
    settle_next(queue)
    settle_next(queue, Rejected(reason="few_slices", sentence="has 2 slices"))
    found = samples(metrics)
    assert found["tomodex_series_settled_last_hour", "daily"] == 2
    assert found["tomodex_series_settled_last_hour", "backfill"] == 0


def test_series_in_hand_are_counted_by_attempt(queue, metrics):
    queue.put([new(str(n)) for n in range(3)])
    for worker in ("dies", "a", "b"):
        queue.lease(worker, HOUR)
    queue.bury("dies")
    queue.lease("c", HOUR)
    found = samples(metrics)
    assert found["tomodex_series_in_hand", "1"] == 2
    assert found["tomodex_series_in_hand", "2"] == 1


def test_how_much_is_in_the_index_is_told(metrics):
    assert samples(metrics)["tomodex_index_up",] == 1
    assert samples(metrics)["tomodex_index_series",] == 7


def test_an_index_that_does_not_answer_is_down(queue):
    def refuse() -> Totals:
        raise Unavailable("nobody is there")

    found = samples(Metrics(queue, (), lambda: [], refuse))
    assert found["tomodex_index_up",] == 0
    assert ("tomodex_index_series",) not in found


def test_an_index_that_hangs_holds_up_no_scrape(queue, monkeypatch):
    let_go, asked = threading.Event(), []

    def hang() -> Totals:
        asked.append(1)
        let_go.wait(60)
        return TOTALS

    monkeypatch.setattr("tomodex.web.metrics.INDEX_PATIENCE_S", 0.1)
    metrics = Metrics(queue, (), lambda: [], hang)
    assert samples(metrics)["tomodex_index_up",] == 0
    assert samples(metrics)["tomodex_index_up",] == 0
    assert len(asked) == 1
    let_go.set()
    monkeypatch.setattr("tomodex.web.metrics.INDEX_PATIENCE_S", 10)
    assert samples(metrics)["tomodex_index_series",] == 7


# --- over HTTP ----------------------------------------------------------------------------------


@pytest.fixture
def settings(tmp_path) -> Settings:
    return load_settings(data=tmp_path / "data", serve={"per_second": 10_000})


def test_requests_are_counted_by_route_and_answer_and_not_by_what_was_asked(settings):
    client = TestClient(make_app(settings), base_url="http://127.0.0.1")
    for uid in ("1.2.3", "4.5.6", "7.8.9"):
        client.get(f"/v1/series/{uid}")
    client.post("/v1/cohort/counts", json={"query": "secret-word"})
    client.get("/no/such/secret-place")
    client.request("SECRET", "/v1/health")
    text = client.get("/metrics").text
    counted = (
        'tomodex_http_requests_total{method="GET",route="/v1/series/{series_uid}",status="404"}'
    )
    assert f"{counted} 3.0" in text
    assert 'route="/v1/cohort/counts",status="400"} 1.0' in text
    assert "1.2.3" not in text
    assert "secret" not in text.lower()


def test_who_accepts_openmetrics_gets_it(settings):
    client = TestClient(make_app(settings), base_url="http://127.0.0.1")
    plain = client.get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain; version=")
    accept = {"accept": "application/openmetrics-text; version=1.0.0"}
    other = client.get("/metrics", headers=accept)
    assert other.headers["content-type"].startswith("application/openmetrics-text")
    assert other.text.endswith("# EOF\n")


def test_only_who_operates_may_look(tmp_path):
    settings = load_settings(data=tmp_path / "data", access={"local": ("researcher",)})
    client = TestClient(make_app(settings), base_url="http://127.0.0.1")
    assert client.get("/metrics").status_code == HTTPStatus.FORBIDDEN
