"""Routes of operations: how far something has come that takes long, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Response
from pydantic import BaseModel, ConfigDict

from tomodex.access import Asker
from tomodex.operations import Operation, Operations, Status
from tomodex.rebuilding import KIND
from tomodex.web.answers import FORBIDDEN, NOT_THERE, Asking
from tomodex.web.guard import permit
from tomodex.web.problems import Refused


class OperationSeen(BaseModel):
    """How far an operation has come."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "5f0c0e2c8a4f4a0f9d3c1b7e6a5d4c3b",
                    "kind": "segment",
                    "status": "in-progress",
                    "done": 3,
                    "total": 10,
                    "result": {},
                    "errors": [],
                    "created": "2026-11-23T09:11:37.000+00:00",
                    "updated": "2026-11-23T09:12:01.000+00:00",
                }
            ]
        }
    )

    id: str
    kind: str  #: what it does, such as "segment"
    status: Status
    done: int  #: of `total`
    total: int | None  #: None: not known yet
    result: Mapping[str, str]  #: what came of it, such as where it lies
    errors: tuple[str, ...]  #: what went wrong so far, for a person
    created: str  #: RFC 3339
    updated: str  #: RFC 3339


def operations_router(operations: Operations) -> APIRouter:
    """The routes, on this store."""
    router = APIRouter(prefix="/v1/operations", tags=["operations"])

    @router.get("", summary="Operations that you asked for")
    def newest(
        asker: Asking, limit: Annotated[int, Query(ge=1, le=1000)] = 100
    ) -> list[OperationSeen]:
        """Newest first; whoever operates Tomodex sees those of all."""
        whose = "" if asker.may("operate") else asker.name
        return [seen(one) for one in operations.newest(whose, limit)]

    @router.post(
        "/rebuild",
        status_code=HTTPStatus.ACCEPTED,
        responses={403: FORBIDDEN},
        dependencies=[Depends(permit("operate"))],
        summary="Have the index made anew",
    )
    def rebuild(response: Response, asker: Asking) -> OperationSeen:
        """From the results, as `tomodex rebuild` does; searches find less until it is done."""
        placed = operations.put(KIND, "{}", asker.name)
        response.headers["Location"] = f"/v1/operations/{placed.id}"
        return seen(placed)

    @router.get("/{id}", responses={404: NOT_THERE}, summary="How far an operation has come")
    def see(id: Annotated[str, Path(max_length=64)], asker: Asking) -> OperationSeen:
        """Ask again until its status is `completed` or `failed`."""
        return seen(own(operations, id, asker))

    return router


def own(operations: Operations, id: str, asker: Asker) -> Operation:
    """An operation, for who asked for it or operates Tomodex.

    Raises:
        Refused: there is none, or it is somebody else's (404).
    """
    found = operations.find(id)
    if found is None or not (found.asker == asker.name or asker.may("operate")):
        raise Refused(HTTPStatus.NOT_FOUND, "not-there", "no operation has this id")
    return found


def seen(operation: Operation) -> OperationSeen:
    """An operation as clients see it."""
    return OperationSeen(
        id=operation.id,
        kind=operation.kind,
        status=operation.status,
        done=operation.done,
        total=operation.total,
        result=operation.result,
        errors=operation.errors,
        created=operation.created,
        updated=operation.updated,
    )
