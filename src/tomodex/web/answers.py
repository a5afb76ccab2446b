"""What routes share: who asks, the body of a question, and answers in JSON."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any

import orjson
from fastapi import Depends, Response
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict, Field

from tomodex.access import Asker
from tomodex.web.guard import asker_of
from tomodex.web.problems import described

JSON = "application/json"


#: Who asks, as the guard found out.
Asking = Annotated[Asker, Depends(asker_of)]


#: How a program says who it is; read by the guard, here for who reads the OpenAPI document.
BEARER = HTTPBearer(
    auto_error=False, description="A token; needed unless this machine alone is served."
)
TOKEN = [Depends(BEARER)]


class Question(BaseModel):
    """What to find."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    query: str = Field(
        description="In the search language; an empty one finds everything.",
        examples=["sacrum complete and PatientSex = F and PatientAge 40..60"],
    )


#: In which order series are shown.
SORT = (
    "The order: `newest` study first, if nothing else is said; `oldest`, `thinnest`, `thickest`, "
    "`youngest`, `eldest`; an attribute that is a number or a date, `-` before it for its greatest "
    "first; `largest`, `smallest`, `densest` or `least dense` and a structure."
)


def answer(value: object) -> Response:
    """A value of the core as JSON, the same as the command line prints."""
    return Response(orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS), media_type=JSON)


def shown(example: object, **more: Any) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says of a route's answers: an example of a good one, and of problems."""
    good = {"content": {JSON: {"example": example}}}
    return {200: {**good, **more}, 400: BAD_QUERY, 403: FORBIDDEN}


BAD_QUERY = described(
    HTTPStatus.BAD_REQUEST,
    "bad-query",
    "no structure is called 'sacrun'\n  sacrun\n  ^^^^^^\ndid you mean: sacrum?",
    place=[0, 6],
    suggestions=["sacrum"],
)
FORBIDDEN = described(HTTPStatus.FORBIDDEN, "forbidden", "only a researcher or steward may do that")
NOT_THERE = described(HTTPStatus.NOT_FOUND, "not-there", "no series 1.2.3 is known")
