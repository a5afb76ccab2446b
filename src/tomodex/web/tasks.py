"""Routes of tasks: order series, see what became of them, have failed ones tried again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from typing import Annotated, Literal, TypeGuard

import orjson
from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from tomodex import mask_orders
from tomodex.access import Asker
from tomodex.discovery import task_of
from tomodex.errors import BadQuery
from tomodex.exclusions import refusal_of, sentence_of
from tomodex.queues import Lane, NewTask, Queue, Status, TaskState
from tomodex.selection import Rules
from tomodex.series import Series
from tomodex.settings import Settings
from tomodex.web import answers
from tomodex.web.answers import FORBIDDEN, NOT_THERE
from tomodex.web.guard import permit
from tomodex.web.operations import OperationSeen
from tomodex.web.operations import seen as operation_seen
from tomodex.web.orders import (
    AnyOrder,
    Order,
    PredecessorOrder,
    Uid,
    as_mask_order,
    as_order,
    schema_of,
)
from tomodex.web.problems import RETRY_S, Refused, described
from tomodex.web.segmentations import Key
from tomodex.wiring import source_of

#: A page of 10,000 of the predecessor's tasks has 2.5 MB.
MOST_BODY_BYTES = 8 * 2**20
MOST_ORDERS = 10_000

#: Series of one request that the source is asked for at once.
MOST_ASKED = 100

#: Masks that one request may order: each takes minutes to make.
MOST_MASKS = 100

#: Requests at once that ask sources, which may take long: others find threads free.
MOST_ASKING = 4

JSON, NDJSON = ("application/json", "application/x-ndjson")


class TaskSeen(BaseModel):
    """What became of one series."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "1.2.840.113619.2.1.3",
                    "status": "rejected",
                    "reason": "few_slices",
                    "sentence": "has 2 slices; at least 10 are needed",
                    "source": "dimse://TOMODEX@pacs.example:11112/PACS",
                    "lane": "daily",
                    "attempt": 1,
                    "updated": "2026-11-23T09:11:37.000+00:00",
                }
            ]
        }
    )

    id: str  #: the Series Instance UID: a series is one task
    status: Status  #: the words of FHIR's Task.status
    reason: str  #: code of why it was rejected or failed; "" otherwise
    sentence: str  #: the same for a person
    source: str
    lane: Lane
    attempt: int  #: how often a worker has tried
    updated: str  #: RFC 3339


class Accepted(BaseModel):
    """What was ordered."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"new": 1, "tasks": [], "masks": []}]}
    )

    new: int  #: how many were not known before, or have changed
    tasks: list[TaskSeen]
    masks: list[OperationSeen] = []  #: what the predecessor's tasks with s3-output ordered


class Again(BaseModel):
    """What is tried again."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"ready": 41}]})

    ready: int


UNKNOWN = described(HTTPStatus.NOT_FOUND, "unknown-task", "no task for the series 1.2.3")
WRONG_TYPE = described(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "media-type", f"send {JSON}")
EXAMPLES = {
    "ours": {
        "summary": "A series of a configured source",
        "value": {
            "source": "pacs",
            "study_uid": "1.2.840.113619.2.1",
            "series_uid": "1.2.840.113619.2.1.3",
            "lane": "daily",
        },
    },
    "predecessor": {
        "summary": "A task of the IMPETUS CT Indexer, unchanged",
        "value": {
            "identification": {
                "mpi": "123456789",
                "series": "1.2.3.4.5.6.7.8",
                "study": "1.2.3.4.5.6.7.8.9.10.11.12",
            },
            "s3-input": {"s3-bucket": "landing-ct-indexer", "s3-path": "test.zip"},
        },
    },
}
ONE = {"anyOf": [schema_of(Order), schema_of(PredecessorOrder)]}
MANY = {"type": "array", "items": ONE, "minItems": 1, "maxItems": MOST_ORDERS}
#: The body is read by us, as it may be one order, a list, or a line each.
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            JSON: {"schema": {"anyOf": [ONE, MANY]}, "examples": EXAMPLES},
            NDJSON: {"schema": {"type": "string", "description": "One order a line."}},
        },
    }
}

_ORDERS = TypeAdapter(list[AnyOrder])


def tasks_router(settings: Settings, queue: Queue, rules: Rules) -> APIRouter:
    """The routes, on this queue."""
    router = APIRouter(prefix="/v1/tasks", tags=["tasks"])
    _add_ordering(router, settings, queue, rules)
    _add_operating(router, settings, queue)
    return router


def _add_ordering(router: APIRouter, settings: Settings, queue: Queue, rules: Rules) -> None:
    """Order series, from whoever may."""
    asking = Asking(MOST_ASKING)

    @router.post(
        "",
        status_code=HTTPStatus.ACCEPTED,
        response_model=Accepted,
        responses={403: FORBIDDEN, 404: NOT_THERE, 415: WRONG_TYPE},
        openapi_extra=BODY,
        dependencies=[Depends(permit("order"))],
        summary="Order series to be indexed",
    )
    async def order(
        request: Request, response: Response, asker: answers.Asking, key: Key = ""
    ) -> Accepted:
        """One order, a list, or one a line. A series that is known already is left as it is."""
        given = parse_orders(request.headers.get("content-type", ""), await request.body())
        put = partial(_Orders(settings, queue, rules, asker, key).put, given)
        accepted = await (asking.run(put) if must_ask(given) else run_in_threadpool(put))
        if len(given) == 1:
            response.headers["Location"] = _place(accepted)
        return accepted


def _add_operating(router: APIRouter, settings: Settings, queue: Queue) -> None:
    """What became of them, for operators."""
    operating = [Depends(permit("operate"))]

    @router.get(
        "",
        responses={403: FORBIDDEN},
        dependencies=operating,
        summary="Find tasks by what became of them",
    )
    def find(
        status: Annotated[Status, Query()] = "failed",
        reason: Annotated[str, Query(max_length=100)] = "",
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> list[TaskSeen]:
        """Newest first."""
        return [seen(state) for state in queue.find_states(status, reason, limit)]

    @router.get(
        "/{series_uid}",
        responses={403: FORBIDDEN, 404: UNKNOWN},
        dependencies=operating,
        summary="See what became of a series",
    )
    def see(series_uid: Annotated[Uid, Path()]) -> TaskSeen:
        """By its Series Instance UID."""
        return state_of(queue, series_uid, settings.configuration)

    @router.post(
        "/retry",
        responses={403: FORBIDDEN},
        dependencies=operating,
        summary="Have tasks tried again",
    )
    def retry(
        status: Annotated[Literal["failed", "rejected"], Query()] = "failed",
        reason: Annotated[str, Query(max_length=100)] = "",
    ) -> Again:
        """All that failed or were rejected, or those for one reason."""
        return Again(ready=queue.retry(status, reason))


def _place(accepted: Accepted) -> str:
    """Where to ask for the one thing that was ordered."""
    if accepted.masks:
        return f"/v1/operations/{accepted.masks[0].id}"
    return f"/v1/tasks/{accepted.tasks[0].id}"


class Asking:
    """Runs what asks sources, so much of it at once and no more; the rest is to come again."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._running = 0  # counted by the one thread of the event loop
        self._threads = CapacityLimiter(most)

    async def run(self, put: Callable[[], Accepted]) -> Accepted:
        """Do it on a thread.

        Raises:
            Refused: as many as may are at it (503).
        """
        if self._running >= self._most:
            raise Refused(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "unavailable",
                f"{self._most} requests wait for sources already; with study_uid none is asked",
                {"Retry-After": str(RETRY_S)},
            )
        self._running += 1
        try:
            return await run_sync(put, limiter=self._threads)
        finally:
            self._running -= 1


def must_ask(given: Sequence[Order | PredecessorOrder]) -> bool:
    """Whether a source has to be asked before these can be put."""
    return any(isinstance(one, Order) and one.study_uid is None for one in given)


def parse_orders(media_type: str, body: bytes) -> list[Order | PredecessorOrder]:
    """The orders in a body.

    Raises:
        Refused: it is too many, no JSON, or an order is not as it should be; which one is said.
    """
    kind = media_type.partition(";")[0].strip().lower()
    if kind not in (JSON, NDJSON):
        raise Refused(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "media-type",
            f"send {JSON} (an object or a list) or {NDJSON} (an object a line)",
        )
    try:
        given = list(_lines(body)) if kind == NDJSON else orjson.loads(body)
    except orjson.JSONDecodeError as wrong:
        sentence = f"it is no JSON: {wrong.msg} (line {wrong.lineno})"
        raise Refused(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid", sentence) from None
    orders = given if isinstance(given, list) else [given]
    if not 1 <= len(orders) <= MOST_ORDERS:
        sentence = f"{len(orders):,} tasks; 1 to {MOST_ORDERS:,} are taken at once"
        raise Refused(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid", sentence)
    try:
        return _ORDERS.validate_python(orders)
    except ValidationError as wrong:
        found = "; ".join(_plain(error["loc"], error["msg"]) for error in wrong.errors()[:20])
        raise Refused(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid", found) from None


def _lines(body: bytes) -> Iterator[object]:
    for number, line in enumerate(body.splitlines(), start=1):
        if number > MOST_ORDERS + 1:
            return
        if line.strip():
            yield orjson.loads(line)


def _plain(place: tuple[int | str, ...], message: str) -> str:
    """What is wrong with which task, without the value."""
    number, *rest = place
    where = ".".join(str(part) for part in rest if part not in ("ours", "predecessor"))
    return f"task {int(number) + 1}: {f'{where}: ' if where else ''}{message}"


class _Orders:
    """Takes what one request orders."""

    def __init__(
        self, settings: Settings, queue: Queue, rules: Rules, asker: Asker, key: str
    ) -> None:
        self._settings = settings
        self._queue = queue
        self._rules = rules
        self._asker = asker
        self._key = key

    def put(self, given: Sequence[Order | PredecessorOrder]) -> Accepted:
        """Take all of it, and say where each stands.

        Raises:
            Forbidden: masks are ordered by somebody who may not have them; then nothing is taken.
            Refused, Unavailable: as `put_orders`.
        """
        masks = [as_mask_order(one) for one in given if _wants_masks(one)]
        self._require(masks)
        others = [one for one in given if not _wants_masks(one)]
        accepted = put_orders(self._settings, self._queue, self._rules, others)
        placed = [self._place(order, number) for number, order in enumerate(masks)]
        return accepted.model_copy(update={"masks": placed})

    def _require(self, masks: Sequence[mask_orders.Order]) -> None:
        try:
            if len(masks) > MOST_MASKS:
                raise BadQuery(f"{len(masks):,} tasks have s3-output; {MOST_MASKS} may")
            for order in masks:
                mask_orders.require_placeable(self._settings, order, self._asker)
        except BadQuery as wrong:
            raise Refused(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid", str(wrong)) from wrong

    def _place(self, order: mask_orders.Order, number: int) -> OperationSeen:
        key = f"{self._key} {number}" if self._key else ""
        return operation_seen(mask_orders.place_order(self._settings, order, self._asker, key))


def _wants_masks(order: Order | PredecessorOrder) -> TypeGuard[PredecessorOrder]:
    return isinstance(order, PredecessorOrder) and order.output is not None


def put_orders(
    settings: Settings, queue: Queue, rules: Rules, given: Sequence[Order | PredecessorOrder]
) -> Accepted:
    """Put all orders into the queue, in one transaction, and say where each stands.

    Raises:
        Refused: one cannot be taken; then none is.
        Unavailable: the queue, or a source that had to be asked, does not answer.
    """
    orders = [as_order(settings, one) for one in given]
    asked = sum(order.study_uid is None for order in orders)
    if asked > MOST_ASKED:
        sentence = f"{asked} tasks have no study_uid; {MOST_ASKED} may, as the source is asked"
        raise Refused(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid", sentence)
    tasks = [task_for(order, settings, rules) for order in orders]
    return Accepted(new=queue.put(tasks), tasks=[_where(queue, task) for task in tasks])


def _where(queue: Queue, task: NewTask) -> TaskSeen:
    """Where a series stands that was ordered; of one that was erased nothing is kept."""
    if refusal_of(queue, task.series) != "erased":
        return state_of(queue, task.series.series_uid, task.configuration)
    return TaskSeen(
        id=task.series.series_uid,
        status="rejected",
        reason="erased",
        sentence=sentence_of("erased"),
        source=task.source,
        lane=task.lane,
        attempt=0,
        updated=datetime.now(UTC).isoformat(timespec="milliseconds"),
    )


def task_for(order: Order, settings: Settings, rules: Rules) -> NewTask:
    """The task for an order; what is not known of its series yet, headers will tell.

    Raises:
        Unavailable: the source had to be asked, and did not answer.
        NotThere: it answered, and does not have the series.
    """
    lane, configuration = order.lane or settings.serve.lane, settings.configuration
    if order.study_uid is None:
        listing = source_of(settings, order.source).describe(order.series_uid)
        task = task_of(listing, order.source, rules, lane, configuration)
        fingerprint = order.fingerprint or task.series.fingerprint
        return replace(task, series=replace(task.series, fingerprint=fingerprint))
    series = Series(
        series_uid=order.series_uid,
        study_uid=order.study_uid,
        patient="",
        modality="",
        fingerprint=order.fingerprint,
    )
    return NewTask(series=series, source=order.source, configuration=configuration, lane=lane)


def state_of(queue: Queue, series_uid: str, configuration: str) -> TaskSeen:
    """What became of a series.

    Raises:
        Refused: it is not known (404).
    """
    for state in queue.states(series_uid):
        if state.configuration == configuration:
            return seen(state)
    raise Refused(HTTPStatus.NOT_FOUND, "unknown-task", f"no task for the series {series_uid}")


def seen(state: TaskState) -> TaskSeen:
    """A task as clients see it."""
    return TaskSeen(
        id=state.series.series_uid,
        status=state.status,
        reason=state.reason,
        sentence=state.sentence,
        source=state.source,
        lane=state.lane,
        attempt=state.attempt,
        updated=state.updated,
    )
