"""How Tomodex is, for Prometheus: the queue, the archives, the sinks, and the requests themselves.

What is in the queue is read when it is asked for. Numbers alone: no series, no patient.
"""

from __future__ import annotations

import time
from collections import Counter as Counts
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from threading import Thread
from typing import Any, get_args

from fastapi import APIRouter, FastAPI, Request, Response
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tomodex.delivery import Lag, lag_of
from tomodex.errors import TomodexError
from tomodex.queues import Lane, Queue, Status
from tomodex.search import Totals
from tomodex.sources.gate import Suspension
from tomodex.web.answers import FORBIDDEN, TOKEN, Asking

#: Upper ends of the classes that seconds are counted in.
STAGE_S = (0.1, 0.3, 1, 3, 10, 30, 60, 120, 300, 600)
REQUEST_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)

#: Waiting tasks of a lane up to which it is looked when the oldest came: each is looked at.
MOST_WAITING = 100_000

#: Why series were refused is counted one by one, so not more often.
REASONS_S = 60.0

#: Results that one scrape reads on, some 0.3 ms each.
MOST_RESULTS = 1000

#: Series in hand whose attempts are counted.
MOST_IN_HAND = 1000

#: So old may be what is known of the index, and so long one scrape waits for it.
INDEX_S = 30.0
INDEX_PATIENCE_S = 3.0


class Metrics:
    """Everything that `/metrics` says.

    Args:
        queue: whose tasks are counted.
        consumers: names of what its results are delivered to.
        suspended: says which archives are left alone now.
        totals: counts what is in the index.
    """

    def __init__(
        self,
        queue: Queue,
        consumers: Sequence[str],
        suspended: Callable[[], Sequence[Suspension]],
        totals: Callable[[], Totals],
    ) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Histogram(
            "tomodex_http_request_seconds",
            "Seconds until a request was answered whole.",
            ("method", "route"),
            registry=self.registry,
            buckets=REQUEST_S,
        )
        self._answers = Counter(
            "tomodex_http_requests",
            "Requests by how they were answered.",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self.registry.register(QueueState(queue, consumers, suspended))
        self.registry.register(IndexState(totals))
        self._stages = Stages(queue, consumers, self.registry)

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request; `route` as its template, so that their number is small."""
        self._requests.labels(method, route).observe(seconds)
        self._answers.labels(method, route, str(status)).inc()

    def written(self, accept: str) -> tuple[bytes, str]:
        """All of it as text, and the media type of that."""
        self._stages.read_on()
        encode, media_type = choose_encoder(accept)
        return encode(self.registry), media_type


class QueueState(Collector):
    """The queue and what is around it, as it is when somebody asks."""

    def __init__(
        self, queue: Queue, consumers: Sequence[str], suspended: Callable[[], Sequence[Suspension]]
    ) -> None:
        self._queue = queue
        self._consumers = consumers
        self._suspended = suspended
        self._counted: tuple[float, Mapping[tuple[Status, str], int]] = (-REASONS_S, {})

    def describe(self) -> Sequence[Metric]:
        """Nothing is asked for before somebody does."""
        return ()

    def collect(self) -> Iterator[Metric]:
        yield from (self._info(), self._series(), self._reasons(), self._oldest())
        yield from (self._settled(), self._attempts())
        yield from (*self._lag(), self._asides(), self._suspensions())

    def _info(self) -> Metric:
        family = GaugeMetricFamily("tomodex_info", "What runs.", labels=("version",))
        family.add_metric((version("tomodex"),), 1)
        return family

    def _series(self) -> Metric:
        family = GaugeMetricFamily(
            "tomodex_series", "Series by what became of them.", labels=("lane", "status")
        )
        for (lane, status), count in self._queue.count().items():
            family.add_metric((lane, status), count)
        return family

    def _reasons(self) -> Metric:
        """A minute old at most."""
        counted_s, reasons = self._counted
        if time.monotonic() - counted_s >= REASONS_S:
            reasons = self._queue.reasons()
            self._counted = (time.monotonic(), reasons)
        family = GaugeMetricFamily(
            "tomodex_series_refused",
            "Series that were rejected or failed, by reason.",
            labels=("status", "reason"),
        )
        for (status, reason), count in reasons.items():
            family.add_metric((status, reason), count)
        return family

    def _oldest(self) -> Metric:
        family = GaugeMetricFamily(
            "tomodex_queue_oldest_seconds",
            f"Since when the oldest task waits, in lanes with {MOST_WAITING} of them at most.",
            labels=("lane",),
        )
        counts = self._queue.count()
        for lane in get_args(Lane):
            if counts.get((lane, "ready"), 0) <= MOST_WAITING:
                since = self._queue.waiting_since(lane)
                family.add_metric((lane,), _age_s(since) if since else 0.0)
        return family

    def _settled(self) -> Metric:
        family = GaugeMetricFamily(
            "tomodex_series_settled_last_hour",
            "Series that workers have settled within the last hour, whatever came of them.",
            labels=("lane",),
        )
        settled = self._queue.pace(datetime.now(UTC) - timedelta(hours=1))
        for lane in get_args(Lane):
            family.add_metric((lane,), settled.get(lane, 0))
        return family

    def _attempts(self) -> Metric:
        family = GaugeMetricFamily(
            "tomodex_series_in_hand",
            f"Series that workers hold now, by which attempt it is; {MOST_IN_HAND} at most.",
            labels=("attempt",),
        )
        held = Counts(
            state.attempt for state in self._queue.find_states("in-progress", limit=MOST_IN_HAND)
        )
        for attempt, series in sorted(held.items()):
            family.add_metric((str(attempt),), series)
        return family

    def _lag(self) -> Iterator[Metric]:
        seconds = GaugeMetricFamily(
            "tomodex_index_lag_seconds",
            "Age of the oldest result that an index or sink was not brought; 0: there is none.",
            labels=("sink",),
        )
        results = GaugeMetricFamily(
            "tomodex_index_lag_results",
            "Results that an index or sink was not brought, at most: some may be replaced by now.",
            labels=("sink",),
        )
        for consumer in self._consumers:
            lag = lag_of(self._queue, consumer)
            seconds.add_metric((lag.consumer,), _waited_s(lag))
            results.add_metric((lag.consumer,), lag.behind)
        yield from (seconds, results)

    def _asides(self) -> Metric:
        family = GaugeMetricFamily(
            "tomodex_results_set_aside",
            "Results that an index or sink could not take; 100 stands for more.",
            labels=("sink",),
        )
        for consumer in self._consumers:
            family.add_metric((_shown(consumer),), len(self._queue.asides(consumer, 100)))
        return family

    def _suspensions(self) -> Metric:
        family = GaugeMetricFamily(
            "tomodex_source_suspended_seconds",
            "For how long an archive will be left alone yet.",
            labels=("source",),
        )
        for one in self._suspended():
            family.add_metric((one.source,), max(0.0, -_age_s(one.until)))
        return family


class IndexState(Collector):
    """Whether the index answers, and how much is in it; one that hangs holds up no scrape."""

    def __init__(self, totals: Callable[[], Totals]) -> None:
        self._totals = totals
        self._counted: tuple[float, int] = (float("-inf"), 0)
        self._look: Thread | None = None

    def describe(self) -> Sequence[Metric]:
        """Nothing is asked for before somebody does."""
        return ()

    def collect(self) -> Iterator[Metric]:
        if time.monotonic() - self._counted[0] >= INDEX_S:
            self._count_for_a_while()
        counted_s, series = self._counted
        answers = time.monotonic() - counted_s < 2 * INDEX_S
        yield GaugeMetricFamily(
            "tomodex_index_up", "1: the index answers; 0: it does not.", value=float(answers)
        )
        if answers:
            yield GaugeMetricFamily("tomodex_index_series", "Series in the index.", value=series)

    def _count_for_a_while(self) -> None:
        if self._look is None or not self._look.is_alive():
            self._look = Thread(target=self._count, name="index-state", daemon=True)
            self._look.start()
        self._look.join(INDEX_PATIENCE_S)

    def _count(self) -> None:
        try:
            series = self._totals().series
        except TomodexError:  # said by its absence
            return
        self._counted = (time.monotonic(), series)


class Stages:
    """How long each step takes, of the series that were indexed since this process started."""

    def __init__(self, queue: Queue, consumers: Sequence[str], registry: CollectorRegistry) -> None:
        self._queue = queue
        self._sequence = max(map(queue.cursor, consumers), default=0)
        self._seconds = Histogram(
            "tomodex_stage_seconds",
            "Seconds that each step of indexing a series took.",
            ("stage",),
            registry=registry,
            buckets=STAGE_S,
        )

    def read_on(self) -> None:
        """Take in what was indexed since the last time."""
        for result in self._queue.results(self._sequence, MOST_RESULTS):
            self._sequence = result.sequence
            if result.annotated:
                for stage, seconds in result.annotated.provenance.stage_seconds.items():
                    self._seconds.labels(stage).observe(seconds)


class Watch:
    """Lets requests pass, and counts how they were answered and how long that took."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, status = time.monotonic(), [500]

        async def passed(message: Message) -> None:
            if message["type"] == "http.response.start":
                status[0] = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, passed)
        finally:
            seconds = time.monotonic() - begin
            self._metrics.observe(_method(scope), _route(scope), status[0], seconds)


def metrics_router(metrics: Metrics) -> APIRouter:
    """The route of all these numbers."""
    router = APIRouter(tags=["server"])

    @router.get(
        "/metrics",
        response_class=Response,
        responses={
            200: {
                "content": {
                    "text/plain": {
                        "schema": {"type": "string"},
                        "example": 'tomodex_series{lane="daily",status="ready"} 212.0\n',
                    }
                }
            },
            403: FORBIDDEN,
        },
        summary="How it is, for Prometheus",
    )
    def scrape(request: Request, asker: Asking) -> Response:
        """Prometheus' text format, or OpenMetrics for who accepts it."""
        asker.require("operate")
        text, media_type = metrics.written(request.headers.get("accept", ""))
        return Response(text, headers={"Content-Type": media_type})

    return router


def add_metrics(app: FastAPI, metrics: Metrics) -> None:
    """Let the app count its requests, and say so."""
    app.add_middleware(Watch, metrics=metrics)
    app.include_router(metrics_router(metrics), dependencies=TOKEN)


def _method(scope: Scope) -> str:
    known = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
    return scope["method"] if scope["method"] in known else "other"


def _route(scope: Scope) -> str:
    """The template of the route, such as "/v1/series/{series_uid}"; "" where none was found."""
    route: Any = scope.get("route")
    return str(getattr(route, "path", ""))


def _age_s(moment: datetime) -> float:
    return (datetime.now(UTC) - moment).total_seconds()


def _waited_s(lag: Lag) -> float:
    """Age of a result that waits to be delivered; of a withdrawal nobody knows it."""
    return max(0.0, _age_s(datetime.fromisoformat(lag.since))) if lag.since else 0.0


def _shown(consumer: str) -> str:
    """A sink without its options, which may say where a secret lies."""
    return consumer.partition("?")[0]
