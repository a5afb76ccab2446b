"""Routes that answer a question about a cohort: counts, series, facets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Response
from pydantic import Field

from tomodex.cohorts import MOST_FIELDS, MOST_ROWS, MOST_STRIPS, Cell, Cohorts, Counts, Found
from tomodex.search import FIELDS
from tomodex.web.answers import SORT, Asking, Question, answer, shown

COUNTS = {
    "patients": 1204,
    "studies": 1622,
    "series": 2019,
    "size_bytes": 1400000000000,
    "fewer_than": 0,
    "rounded": False,
}
HIT_UID = "1.2.840.113619.2.1.3"
HIT = {
    "series_uid": HIT_UID,
    "study_uid": "1.2.840.113619.2.1",
    "patient": "Xq3v0PZJm1sKf2Yb",
    "attributes": {"StudyDate": "2026-11-20", "PatientAge": 52.0, "SliceThickness": 1.5},
    "structure_count": 67,
}
SACRUM = {
    "structure": "sacrum",
    "volume_ml": 243.1,
    "mean_hu": 214.0,
    "bottom_mm": -912.5,
    "top_mm": -791.0,
    "complete": True,
}


class PageAsked(Question):
    """Which of the series to show."""

    limit: int = Field(default=50, ge=0, le=MOST_ROWS, description="Show this many at most.")
    offset: int = Field(default=0, ge=0, le=2**31, description="Skip this many.")
    sort: str = Field(default="", max_length=200, description=SORT, examples=["largest spleen"])
    structures: bool = Field(
        default=False,
        description=f"Also what each shows from head to foot; then {MOST_STRIPS} at most.",
    )


class FacetsAsked(Question):
    """Whose values to count."""

    fields: Annotated[
        tuple[Annotated[str, Field(max_length=64)], ...],
        Field(
            max_length=MOST_FIELDS,
            description=f"Any of: {', '.join(FIELDS)}.",
            examples=[["structure", "Manufacturer"]],
        ),
    ]


def cohort_router(cohorts: Cohorts) -> APIRouter:
    """The routes, on this core."""
    router = APIRouter(prefix="/v1/cohort", tags=["cohort"])
    _add_counts(router, cohorts)
    _add_rows(router, cohorts)
    return router


def _add_counts(router: APIRouter, cohorts: Cohorts) -> None:
    """Numbers."""

    @router.post(
        "/counts",
        response_model=Counts,
        responses=shown(COUNTS),
        summary="How many patients, studies and series fit",
    )
    def counts(asked: Question, asker: Asking) -> Response:
        """Exact for who may see single series; else rounded, and withheld where it is few."""
        return answer(cohorts.counts(asker, asked.query))

    @router.post(
        "/facets",
        response_model=Mapping[str, tuple[Cell, ...]],
        responses=shown({"PatientSex": [{"value": "F", "count": 1010}]}),
        summary="How many of the series have each value of a field",
    )
    def facets(asked: FacetsAsked, asker: Asking) -> Response:
        """Most frequent first; series without a value are in none."""
        return answer(cohorts.facets(asker, asked.query, asked.fields))


def _add_rows(router: APIRouter, cohorts: Cohorts) -> None:
    """Single series."""

    @router.post(
        "/series",
        response_model=Found,
        responses=shown(
            {
                "counts": COUNTS,
                "among": 1742206,
                "milliseconds": 38.2,
                "hits": [HIT],
                "seen": {HIT_UID: [SACRUM]},
                "offset": 0,
                "truncated": True,
                "sort": "newest",
            }
        ),
        summary="The series that fit, in an order",
    )
    def series(asked: PageAsked, asker: Asking) -> Response:
        """A page of them, with exact counts; `truncated` says whether there are more."""
        find = cohorts.strips if asked.structures else cohorts.series
        return answer(find(asker, asked.query, asked.limit, asked.offset, asked.sort))
