"""The route that says where a series can be looked at: in the viewer of the site."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict

from tomodex.cohorts import Cohorts
from tomodex.errors import NotThere
from tomodex.web.answers import FORBIDDEN, NOT_THERE, Asking
from tomodex.web.orders import Uid
from tomodex.web.problems import Refused


class Link(BaseModel):
    """Where a series can be looked at."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "url": "https://viewer.example/viewer?StudyInstanceUIDs=1.2.840"
                    "&SeriesInstanceUIDs=1.2.840.3"
                }
            ]
        }
    )

    url: str


def viewer_url(template: str, study_uid: str, series_uid: str) -> str:
    """The URL of a series in the viewer that `[serve] viewer` names; "" where it names none."""
    return template.replace("{study}", quote(study_uid, safe="")).replace(
        "{series}", quote(series_uid, safe="")
    )


def viewer_router(cohorts: Cohorts, template: str) -> APIRouter:
    """The route, for this viewer."""
    router = APIRouter(prefix="/v1/viewer-url", tags=["series"])

    @router.get(
        "",
        responses={403: FORBIDDEN, 404: NOT_THERE},
        summary="Where a series can be looked at",
    )
    def link(
        series: Annotated[Uid, Query(description="Series Instance UID.")], asker: Asking
    ) -> Link:
        """In the site's own viewer, which asks for its own login."""
        known = cohorts.one(asker, series)
        if not template:
            raise Refused(HTTPStatus.NOT_FOUND, "not-there", "no viewer is set, see [serve] viewer")
        if known.study_uid is None:
            raise NotThere(f"the study of the series {series} is not known")
        return Link(url=viewer_url(template, known.study_uid, series))

    return router
