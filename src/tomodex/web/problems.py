"""Errors as clients see them: `application/problem+json` (RFC 9457), never with patient data."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from tomodex.errors import (
    BadQuery,
    Forbidden,
    Misconfigured,
    NotThere,
    Suspended,
    Unavailable,
    Unsuitable,
)
from tomodex.worker import describe

log = logging.getLogger(__name__)

#: After so many seconds something that did not answer may be asked again.
RETRY_S = 30

MEDIA_TYPE = "application/problem+json"

#: What OpenAPI says of every problem.
SCHEMA = {
    "title": "Problem",
    "description": "RFC 9457; `type` tells problems apart.",
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "place": {
            "description": "First and last character of what is wrong in a question.",
            "anyOf": [
                {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2},
                {"type": "null"},
            ],
        },
        "suggestions": {
            "description": "What was probably meant.",
            "type": "array",
            "items": {"type": "string"},
        },
    },
}


class Refused(Exception):
    """What was asked is not done; the sentence is for who asked."""

    def __init__(
        self,
        status: HTTPStatus,
        kind: str,
        sentence: str,
        headers: Mapping[str, str] | None = None,
        **more: object,
    ) -> None:
        super().__init__(sentence)
        self.status = status
        self.kind = kind  #: what a program can tell it by, the end of its `type`
        self.sentence = sentence
        self.headers = headers or {}
        self.more = more  #: further members of the problem


def problem(refused: Refused) -> JSONResponse:
    """The answer for something that is refused."""
    return JSONResponse(content_of(refused), refused.status, refused.headers, MEDIA_TYPE)


def content_of(refused: Refused) -> dict[str, object]:
    """The members of a problem."""
    return {
        "type": f"urn:tomodex:problem:{refused.kind}",
        "title": refused.status.phrase,
        "status": refused.status.value,
        "detail": refused.sentence,
        **refused.more,
    }


def described(status: HTTPStatus, kind: str, sentence: str, **more: object) -> dict[str, Any]:
    """What OpenAPI says of a problem that a route may answer with."""
    refused = Refused(status, kind, sentence, None, **more)
    content = {"schema": SCHEMA, "example": content_of(refused)}
    return {"description": status.phrase, "content": {MEDIA_TYPE: content}}


#: What any route may answer.
PROBLEMS: Mapping[int | str, dict[str, Any]] = {
    400: described(HTTPStatus.BAD_REQUEST, "http", "There was an error parsing the body"),
    401: described(HTTPStatus.UNAUTHORIZED, "token", "send the token, as Authorization: ..."),
    413: {"description": "The body is too long"},
    422: described(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid", "body.limit: should be less"),
    429: described(HTTPStatus.TOO_MANY_REQUESTS, "too-often", "at most 50 requests a second"),
    503: described(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", "the queue does not answer"),
}


def answer_problems(app: FastAPI) -> None:
    """Have the app answer every error as a problem."""
    app.add_exception_handler(Refused, _answer)
    app.add_exception_handler(RequestValidationError, _answer)
    app.add_exception_handler(HTTPException, _answer)
    for kind in (Unsuitable, Unavailable, Misconfigured, BadQuery, Forbidden):
        app.add_exception_handler(kind, _answer)
    app.add_exception_handler(Exception, _answer)


async def _answer(request: Request, error: Exception) -> JSONResponse:
    refused = refusal_of(error)
    if refused.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        facts = {"method": request.method, "path": request.url.path, "sentence": describe(error)}
        log.error("not answered", extra=facts)
    return problem(refused)


def refusal_of(error: Exception) -> Refused:
    """What a client is told of an error: of our own what they say, of a bug that it is one."""
    match error:
        case Refused():
            return error
        case Suspended():
            seconds = (error.until - datetime.now(UTC)).total_seconds()
            return _later(error, max(1, round(seconds)))
        case NotThere():
            return Refused(HTTPStatus.NOT_FOUND, "not-there", str(error))
        case Unavailable():
            return _later(error, RETRY_S)
        case Unsuitable():
            sentence = error.sentence
            return Refused(HTTPStatus.UNPROCESSABLE_ENTITY, error.reason, sentence)
        case BadQuery():
            return Refused(
                HTTPStatus.BAD_REQUEST,
                "bad-query",
                str(error),
                place=error.place,
                suggestions=error.suggestions,
            )
        case Forbidden():
            return Refused(HTTPStatus.FORBIDDEN, "forbidden", str(error))
        case Misconfigured():
            sentence = f"the server is not set up right: {error}"
            return Refused(HTTPStatus.INTERNAL_SERVER_ERROR, "misconfigured", sentence)
        case RequestValidationError():
            found = "; ".join(_plain(one) for one in error.errors())
            return Refused(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid", found)
        case HTTPException():
            status = HTTPStatus(error.status_code)
            return Refused(status, "http", str(error.detail), error.headers)
    sentence = "a fault in Tomodex; its log says where"
    return Refused(HTTPStatus.INTERNAL_SERVER_ERROR, "bug", sentence)


def _later(error: Unavailable, seconds: int) -> Refused:
    headers = {"Retry-After": str(seconds)}
    return Refused(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", str(error), headers)


def _plain(error: Mapping[str, object]) -> str:
    """What is wrong with one value, without the value: it may be anything."""
    place = error["loc"]
    where = ".".join(map(str, place)) if isinstance(place, tuple) else str(place)
    return f"{where}: {error['msg']}"
