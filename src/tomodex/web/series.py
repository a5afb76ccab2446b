"""Routes of one series: all that is known of it, its structures, how they came about."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Response

from tomodex.annotation import AnnotatedSeries, Annotation, Provenance
from tomodex.cohorts import Cohorts, OneSeries
from tomodex.errors import NotThere
from tomodex.web.answers import NOT_THERE, Asking, answer
from tomodex.web.orders import Uid

SeriesUid = Annotated[Uid, Path(description="Series Instance UID.")]


def series_router(cohorts: Cohorts) -> APIRouter:
    """The routes, on this core."""
    router = APIRouter(prefix="/v1/series", tags=["series"], responses={404: NOT_THERE})

    @router.get("/{series_uid}", response_model=OneSeries, summary="All that is known of a series")
    def one(series_uid: SeriesUid, asker: Asking) -> Response:
        """Its result, what became of its tasks, and what was done to it."""
        return answer(cohorts.one(asker, series_uid))

    @router.get(
        "/{series_uid}/structures",
        response_model=tuple[Annotation, ...],
        summary="What a series shows",
    )
    def structures(series_uid: SeriesUid, asker: Asking) -> Response:
        """Each structure with volume, HU, place and completeness, largest first."""
        return answer(_result(cohorts.one(asker, series_uid)).annotations)

    @router.get(
        "/{series_uid}/provenance", response_model=Provenance, summary="How a result came about"
    )
    def provenance(series_uid: SeriesUid, asker: Asking) -> Response:
        """What it takes to repeat it, doubt it, or make it anew."""
        return answer(_result(cohorts.one(asker, series_uid)).provenance)

    return router


def _result(one: OneSeries) -> AnnotatedSeries:
    if one.annotated is None:
        raise NotThere(f"the series {one.series_uid} has no result")
    return one.annotated
