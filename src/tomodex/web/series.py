"""Routes of one series: all that is known of it, its structures, how they came about."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Response

from tomodex.annotation import AnnotatedSeries, Annotation, Provenance
from tomodex.cohorts import Cohorts, OneSeries
from tomodex.errors import NotThere
from tomodex.web.answers import NOT_THERE, Asking, answer, shown
from tomodex.web.orders import Uid

STRUCTURE = {
    "structure": "liver",
    "codings": [{"system": "http://snomed.info/sct", "code": "10200004", "display": "Liver"}],
    "laterality": "",
    "measurement": {
        "voxel_count": 1500000,
        "volume_ml": 1500.0,
        "mean_hu": 61.5,
        "sd_hu": 12.3,
        "centroid_mm": [-60.0, 10.0, 1100.5],
        "box_min_mm": [-120.0, -80.0, 1020.0],
        "box_max_mm": [30.0, 90.0, 1180.0],
        "cut": ["inferior"],
    },
}
PROVENANCE = {
    "algorithm": {"name": "TotalSegmentator", "version": "2.18.0", "model": "total_fast"},
    "terminology": "2026-11-23",
    "software": {"tomodex": "0.1.0", "numpy": "2.4.1"},
    "source": "dimse://TOMODEX@pacs.example:11112/PACS",
    "configuration": "default",
    "started": "2026-11-23T10:00:00+01:00",
    "finished": "2026-11-23T10:00:41+01:00",
    "stage_seconds": {"retrieve": 3.1, "segment": 33.0},
}
TASK = {
    "id": 7,
    "series": {"series_uid": "1.2.840.3", "study_uid": "1.2.840", "patient": "Xq3v0PZJm1sKf2Yb"},
    "source": "dimse://TOMODEX@pacs.example:11112/PACS",
    "configuration": "default",
    "lane": "daily",
    "status": "completed",
    "attempt": 1,
    "reason": "",
    "sentence": "",
    "updated": "2026-11-23T09:00:41.000+00:00",
}
ONE = {
    "series_uid": "1.2.840.3",
    "annotated": {"annotations": [STRUCTURE], "provenance": PROVENANCE},
    "tasks": [TASK],
    "audit": [],
}

SeriesUid = Annotated[Uid, Path(description="Series Instance UID.")]


def series_router(cohorts: Cohorts) -> APIRouter:
    """The routes, on this core."""
    router = APIRouter(prefix="/v1/series", tags=["series"], responses={404: NOT_THERE})

    @router.get(
        "/{series_uid}",
        response_model=OneSeries,
        responses=shown(ONE),
        summary="All that is known of a series",
    )
    def one(series_uid: SeriesUid, asker: Asking) -> Response:
        """Its result, what became of its tasks, and what was done to it."""
        return answer(cohorts.one(asker, series_uid))

    @router.get(
        "/{series_uid}/structures",
        response_model=tuple[Annotation, ...],
        responses=shown([STRUCTURE]),
        summary="What a series shows",
    )
    def structures(series_uid: SeriesUid, asker: Asking) -> Response:
        """Each structure with volume, HU, place and completeness, largest first."""
        return answer(_result(cohorts.one(asker, series_uid)).annotations)

    @router.get(
        "/{series_uid}/provenance",
        response_model=Provenance,
        responses=shown(PROVENANCE),
        summary="How a result came about",
    )
    def provenance(series_uid: SeriesUid, asker: Asking) -> Response:
        """What it takes to repeat it, doubt it, or make it anew."""
        return answer(_result(cohorts.one(asker, series_uid)).provenance)

    return router


def _result(one: OneSeries) -> AnnotatedSeries:
    if one.annotated is None:
        raise NotThere(f"the series {one.series_uid} has no result")
    return one.annotated
