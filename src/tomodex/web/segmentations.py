"""Routes of masks: order those of a series, and be told where to ask for them."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Header, Response
from fastapi.concurrency import run_in_threadpool

from tomodex.errors import BadQuery
from tomodex.mask_orders import Order, place_order
from tomodex.settings import Settings
from tomodex.web.answers import FORBIDDEN, Asking
from tomodex.web.operations import OperationSeen, seen
from tomodex.web.problems import MEDIA_TYPE, Refused

Key = Annotated[
    str,
    Header(
        alias="Idempotency-Key",
        max_length=200,
        description="The same again is the same order, whatever became of the first answer.",
    ),
]

PROBLEM = {"description": "Problem (RFC 9457)", "content": {MEDIA_TYPE: {}}}


def segmentations_router(settings: Settings) -> APIRouter:
    """The route, on these settings."""
    router = APIRouter(prefix="/v1/segmentations", tags=["segmentations"])

    @router.post(
        "",
        status_code=HTTPStatus.ACCEPTED,
        responses={403: FORBIDDEN, 422: PROBLEM, 503: PROBLEM},
        summary="Order masks of a series",
    )
    async def order(
        wanted: Order, asker: Asking, response: Response, key: Key = ""
    ) -> OperationSeen:
        """They are put into a configured destination; the operation says when they are there."""
        try:
            placed = await run_in_threadpool(place_order, settings, wanted, asker, key)
        except BadQuery as wrong:
            raise Refused(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                "invalid",
                str(wrong),
                suggestions=wrong.suggestions,
            ) from wrong
        response.headers["Location"] = f"/v1/operations/{placed.id}"
        return seen(placed)

    return router
