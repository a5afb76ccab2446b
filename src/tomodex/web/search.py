"""Routes that help to ask: what can be asked, which values there are, what may come next."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from tomodex.chips import Chip
from tomodex.cohorts import MOST_VALUES, Attribute, Cell, Cohorts
from tomodex.completion import Completion
from tomodex.web.answers import Asking, Question, answer, shown


def search_router(cohorts: Cohorts) -> APIRouter:
    """The routes, on this core."""
    router = APIRouter(prefix="/v1", tags=["search"])
    _add_attributes(router, cohorts)
    _add_words(router, cohorts)
    return router


def _add_attributes(router: APIRouter, cohorts: Cohorts) -> None:
    """What can be asked besides anatomy, and its values."""

    @router.get(
        "/attributes",
        response_model=tuple[Attribute, ...],
        responses=shown(
            [
                {
                    "keyword": "SliceThickness",
                    "kind": "number",
                    "name": "Slice thickness",
                    "unit": "mm",
                    "counted": False,
                }
            ]
        ),
        summary="What can be asked besides anatomy",
    )
    def attributes(asker: Asking) -> Response:
        return answer(cohorts.attributes(asker))

    @router.get(
        "/attributes/{keyword}/values",
        response_model=tuple[Cell, ...],
        responses=shown([{"value": "SIEMENS", "count": 812044}]),
        summary="The values of an attribute, most frequent first",
    )
    def values(
        keyword: str,
        asker: Asking,
        prefix: Annotated[str, Query(max_length=100)] = "",
        limit: Annotated[int, Query(ge=1, le=MOST_VALUES)] = 100,
    ) -> Response:
        """Of text alone: numbers and dates are compared."""
        return answer(cohorts.values(asker, keyword, prefix, limit))


def _add_words(router: APIRouter, cohorts: Cohorts) -> None:
    """What may be typed, and what was understood."""

    @router.get(
        "/completions",
        response_model=tuple[Completion, ...],
        responses=shown(
            [
                {
                    "text": "left kidney",
                    "label": "Left kidney",
                    "kind": "structure",
                    "start": 0,
                    "end": 3,
                    "count": None,
                }
            ]
        ),
        summary="What may be typed next",
    )
    def completions(
        asker: Asking,
        text: Annotated[str, Query(max_length=4000)] = "",
        cursor: Annotated[int | None, Query(ge=0, le=4000)] = None,
        limit: Annotated[int, Query(ge=1, le=50)] = 10,
    ) -> Response:
        """Names in English and German, codes, attributes, values and words of the language."""
        place = len(text) if cursor is None else min(cursor, len(text))
        return answer(cohorts.completions(asker, text, place, limit))

    @router.post(
        "/chips",
        response_model=tuple[Chip, ...],
        responses=shown(
            [
                {
                    "text": "sacrum complete",
                    "label": "Sacrum, whole",
                    "about": "anatomy",
                    "without": "PatientSex = F",
                }
            ]
        ),
        summary="A question as its parts, in plain words",
    )
    def chips(asked: Question) -> Response:
        """Also what the question is without each of them."""
        return answer(cohorts.chips(asked.query))
