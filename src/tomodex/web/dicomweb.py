"""Series for DICOM's own tools: a search as QIDO-RS has it (PS3.18 10.6), read-only.

Attributes are matched as the standard says; `query` takes our language beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Path, Query, Request, Response
from pydicom.datadict import dictionary_VR, tag_for_keyword

from tomodex.access import Asker
from tomodex.cohorts import MOST_ROWS, Cohorts, Found
from tomodex.search import Has, Hit
from tomodex.web.answers import BAD_QUERY, FORBIDDEN, JSON, Asking
from tomodex.web.matching import KEYWORDS, Matching, asked, matching_of
from tomodex.web.orders import Uid
from tomodex.web.problems import Refused, described

DICOM_JSON = "application/dicom+json"

#: What every series is answered with, as far as it is known: PS3.18 table 10.6.3-4, and what the
#: study has.
ALWAYS = (
    "Modality",
    "StudyDate",
    "SeriesDate",
    "SeriesNumber",
    "SeriesDescription",
    "StudyDescription",
    "PatientSex",
    "PatientAge",
    "BodyPartExamined",
)

FEW = 100

Element = dict[str, Any]

_EXAMPLE = [
    {
        "00080005": {"vr": "CS", "Value": ["ISO_IR 192"]},
        "00080060": {"vr": "CS", "Value": ["CT"]},
        "0020000D": {"vr": "UI", "Value": ["1.2.840.113619.2.1"]},
        "0020000E": {"vr": "UI", "Value": ["1.2.840.113619.2.1.3"]},
        "00100020": {"vr": "LO", "Value": ["Xq3v0PZJm1sKf2Yb"]},
    }
]
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Series that match, as DICOM JSON (PS3.18 F)",
        "content": {DICOM_JSON: {"schema": {"type": "array"}, "example": _EXAMPLE}},
    },
    204: {"description": "None matches"},
    400: BAD_QUERY,
    403: FORBIDDEN,
    406: described(HTTPStatus.NOT_ACCEPTABLE, "media-type", f"only {DICOM_JSON} is offered"),
}
_EXTRA = {
    "parameters": [
        {
            "name": keyword,
            "in": "query",
            "required": False,
            "schema": {"type": "string"},
            "description": "To be matched; also by its tag.",
        }
        for keyword in KEYWORDS
    ]
}

OurQuery = Annotated[str, Query(description="In our search language; all else must match too.")]
Limit = Annotated[int, Query(ge=0, description=f"At most so many, and {MOST_ROWS:,}.")]
Offset = Annotated[int, Query(ge=0, le=2**31, description="Skip so many.")]
Include = Annotated[
    tuple[str, ...], Query(description="Further attributes by keyword or tag, or all.")
]


def dicomweb_router(cohorts: Cohorts) -> APIRouter:
    """The routes, on this core."""
    router = APIRouter(prefix="/dicomweb", tags=["dicomweb"])
    how: dict[str, Any] = {
        "response_class": Response,
        "responses": _RESPONSES,
        "openapi_extra": _EXTRA,
    }

    @router.get("/series", summary="Search for series, as QIDO-RS does", **how)
    def series(
        request: Request,
        asker: Asking,
        query: OurQuery = "",
        limit: Limit = FEW,
        offset: Offset = 0,
        includefield: Include = (),
    ) -> Response:
        """All series, newest study first."""
        return _search(cohorts, request, asker, query, (limit, offset))

    @router.get("/studies/{study_uid}/series", summary="Search for series of a study", **how)
    def series_of_study(
        study_uid: Annotated[Uid, Path(description="Study Instance UID.")],
        request: Request,
        asker: Asking,
        query: OurQuery = "",
        limit: Limit = FEW,
        offset: Offset = 0,
        includefield: Include = (),
    ) -> Response:
        """Those of one study alone."""
        return _search(cohorts, request, asker, query, (limit, offset), study_uid)

    return router


def _search(
    cohorts: Cohorts,
    request: Request,
    asker: Asker,
    query: str,
    page: tuple[int, int],
    study_uid: str = "",
) -> Response:
    _require_json(request.headers.get("accept", ""))
    matching = matching_of(request.query_params.multi_items())
    study = (Has(keyword="StudyInstanceUID", values=(study_uid,)),) if study_uid else ()
    limit, offset = page
    text = asked(matching, cohorts.parse(query), study)
    found = cohorts.series(asker, text, min(limit, MOST_ROWS), offset)
    headers = _warnings(found, "fuzzymatching" in request.query_params)
    if not found.hits:
        return Response(status_code=HTTPStatus.NO_CONTENT, headers=headers)
    body = orjson.dumps([dataset_of(hit, matching) for hit in found.hits])
    return Response(body, headers=headers, media_type=DICOM_JSON)


def _require_json(accept: str) -> None:
    kinds = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    if accept and not {DICOM_JSON, JSON, "application/*", "*/*"} & set(kinds):
        raise Refused(HTTPStatus.NOT_ACCEPTABLE, "media-type", f"only {DICOM_JSON} is offered")


def _warnings(found: Found, fuzzy: bool) -> Mapping[str, str]:
    """PS3.18 8.3.4.2 and 8.3.4.4 have these in the header Warning."""
    said = []
    left = (found.counts.series or 0) - found.offset - len(found.hits)
    if left > 0:
        said.append(f'299 tomodex "There are {left} additional results that can be requested"')
    if fuzzy:
        said.append(
            '299 tomodex "The fuzzymatching parameter is not supported. Only literal matching has '
            'been performed."'
        )
    return {"Warning": ", ".join(said)} if said else {}


def dataset_of(hit: Hit, matching: Matching) -> dict[str, Element]:
    """A series as DICOM JSON, in the order of its tags."""
    wanted = KEYWORDS if matching.everything else (*ALWAYS, *matching.keywords)
    known: dict[str, str | float] = {
        "SpecificCharacterSet": "ISO_IR 192",
        "SeriesInstanceUID": hit.series_uid,
        "StudyInstanceUID": hit.study_uid,
        **({"PatientID": hit.patient, "PatientIdentityRemoved": "YES"} if hit.patient else {}),
        **{keyword: value for keyword, value in hit.attributes.items() if keyword in wanted},
    }
    elements = {f"{tag_for_keyword(k) or 0:08X}": _element(k, v) for k, v in known.items()}
    return dict(sorted(elements.items()))


def _element(keyword: str, value: str | float) -> Element:
    vr = dictionary_VR(keyword)
    return {"vr": vr, "Value": [_value(vr, value)]}


def _value(vr: str, value: str | float) -> str | float:
    if vr == "DA":
        return str(value).replace("-", "")
    if isinstance(value, str):
        return value
    if vr == "AS":
        return _age(value)
    return int(value) if vr in ("IS", "US") else value


def _age(years: float) -> str:
    """An age as DICOM writes it (PS3.5 6.2), in the largest unit that keeps two digits."""
    for unit, in_a_year in (("Y", 1.0), ("M", 12.0), ("W", 365.25 / 7)):
        if years * in_a_year >= 2:
            return f"{min(round(years * in_a_year), 999):03d}{unit}"
    return f"{round(years * 365.25):03d}D"
