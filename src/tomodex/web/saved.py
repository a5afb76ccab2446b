"""Routes for what people take away: saved cohorts and manifests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import Field

from tomodex.library import MOST_NAMED, Library, Taken
from tomodex.manifests import ENDINGS, MEDIA_TYPES, USUAL
from tomodex.saved import LONGEST_NAME, Difference, SavedCohort
from tomodex.search import Sample
from tomodex.web.answers import NOT_THERE, SORT, Asking, Question, answer, shown

COHORT = {
    "id": "3f9c1e0a7b52",
    "name": "thin livers",
    "query": "liver complete and SliceThickness <= 1.5",
    "who": "ada",
    "saved": "2026-11-23T12:00:00+00:00",
    "versions": {"tomodex": "0.1.0", "terminology": "2026-11-23"},
    "patients": 1204,
    "studies": 1622,
    "series": 2019,
    "removed": 0,
}
NEW = {"count": 1, "series_uids": ["1.2.840.113619.2.1.3"]}
NONE: Mapping[str, object] = {"count": 0, "series_uids": []}

Ending = Literal["csv", "json", "parquet", "txt"]
CohortId = Annotated[str, Path(max_length=64)]


class CohortAsked(Question):
    """What to save, under which name."""

    name: str = Field(min_length=1, max_length=LONGEST_NAME, examples=["thin livers"])


class ManifestAsked(Question):
    """Which series to list, and what to say of each."""

    columns: tuple[Annotated[str, Field(max_length=64)], ...] = Field(
        default=USUAL, max_length=64, description="Attributes beside the UIDs."
    )
    sort: str = Field(default="", max_length=200, description=SORT, examples=["largest spleen"])
    sample: int | None = Field(
        default=None, ge=1, le=2**31, description="So many, drawn by lot; else all."
    )
    seed: int = Field(default=0, ge=0, le=2**31, description="The same seed draws the same.")


def saved_router(library: Library) -> APIRouter:
    """The routes of saved cohorts."""
    router = APIRouter(prefix="/v1/cohorts", tags=["saved cohorts"])
    _add_list(router, library)
    _add_one(router, library)
    return router


def _add_list(router: APIRouter, library: Library) -> None:
    """Save, list and forget them."""

    @router.post(
        "",
        status_code=HTTPStatus.CREATED,
        response_model=SavedCohort,
        responses={201: _example(COHORT), **_problems()},
        summary="Save what a search finds now",
    )
    def save(asked: CohortAsked, asker: Asking) -> Response:
        """The list of series is frozen, with the question, the counts and all versions."""
        cohort = library.save(asker, asked.name, asked.query)
        response = answer(cohort)
        response.status_code = HTTPStatus.CREATED
        response.headers["Location"] = f"/v1/cohorts/{cohort.id}"
        return response

    @router.get(
        "",
        response_model=Sequence[SavedCohort],
        responses=shown([COHORT]),
        summary="All saved cohorts, newest first",
    )
    def every(asker: Asking) -> Response:
        """Those of everybody; counts are as they were saved."""
        return answer(library.all(asker))

    @router.delete(
        "/{cohort_id}",
        status_code=HTTPStatus.NO_CONTENT,
        responses=_problems(),
        summary="Forget a saved cohort",
    )
    def delete(cohort_id: CohortId, asker: Asking) -> None:
        """One's own; a steward may delete any."""
        library.delete(asker, cohort_id)


def _add_one(router: APIRouter, library: Library) -> None:
    """One of them: as it was, against today, and as a file."""

    @router.get(
        "/{cohort_id}",
        response_model=SavedCohort,
        responses={**shown(COHORT), 404: NOT_THERE},
        summary="One saved cohort",
    )
    def one(cohort_id: CohortId, asker: Asking) -> Response:
        """`removed` counts series taken out since: their patients were erased, or opted out."""
        return answer(library.get(asker, cohort_id))

    @router.get(
        "/{cohort_id}/diff",
        response_model=Difference,
        responses={
            **shown({"cohort": COHORT, "same": 2019, "new": NEW, "gone": NONE, "changed": NONE}),
            404: NOT_THERE,
        },
        summary="What the same search finds today, against what it found then",
    )
    def diff(
        cohort_id: CohortId,
        asker: Asking,
        limit: Annotated[
            int, Query(ge=0, le=MOST_NAMED, description="UIDs of each kind at most.")
        ] = 1000,
    ) -> Response:
        """Counts are of all; `changed` are series of which something else is known now."""
        return answer(library.diff(asker, cohort_id, limit))

    @router.get(
        "/{cohort_id}/manifest.{ending}",
        response_class=StreamingResponse,
        responses={200: _FILE, **_problems()},
        summary="The frozen list as a file",
    )
    def manifest(cohort_id: CohortId, ending: Ending, asker: Asking) -> StreamingResponse:
        """UIDs and pseudonyms as they were saved, by UID; `txt`: study and series UID a line."""
        return _sent(library.manifest_of(asker, ENDINGS[ending], cohort_id), ending)


def manifest_router(library: Library) -> APIRouter:
    """The routes of manifests of what is found now."""
    router = APIRouter(prefix="/v1/cohort", tags=["cohort"])

    @router.post(
        "/manifest.{ending}",
        response_class=StreamingResponse,
        responses={200: _FILE, **_problems()},
        summary="All series that fit, as a file",
    )
    def manifest(asked: ManifestAsked, ending: Ending, asker: Asking) -> StreamingResponse:
        """What was asked, counts, versions and date, every series, and a SHA-256 of their UIDs."""
        return _sent(_taken(library, asked, ending, asker), ending)

    @router.get(
        "/manifest.{ending}",
        response_class=StreamingResponse,
        responses={200: _FILE, **_problems()},
        summary="The same, for a link",
    )
    def linked(
        ending: Ending,
        asker: Asking,
        query: Annotated[str, Query(description="As in `POST`.")],
        sort: Annotated[str, Query(max_length=200, description=SORT)] = "",
    ) -> StreamingResponse:
        """With the usual attributes."""
        asked = ManifestAsked(query=query, sort=sort)
        return _sent(_taken(library, asked, ending, asker), ending)

    return router


def _taken(library: Library, asked: ManifestAsked, ending: Ending, asker: Asking) -> Taken:
    sample = Sample(size=asked.sample, seed=asked.seed) if asked.sample else None
    kind = ENDINGS[ending]
    return library.manifest(asker, kind, asked.query, asked.columns, sample, asked.sort)


def _sent(taken: Taken, ending: Ending) -> StreamingResponse:
    day = taken.manifest.made[:10].replace("-", "")
    name = "-".join(filter(None, ("tomodex", taken.manifest.cohort, day)))
    headers = {"Content-Disposition": f'attachment; filename="{name}.{ending}"'}
    return StreamingResponse(taken.content, 200, headers, MEDIA_TYPES[ENDINGS[ending]])


def _example(example: object) -> dict[str, Any]:
    return {"content": {"application/json": {"example": example}}}


def _problems() -> dict[int | str, dict[str, Any]]:
    problems = {code: said for code, said in shown({}).items() if code != HTTPStatus.OK}
    return {**problems, 404: NOT_THERE}


_FILE: dict[str, Any] = {
    "description": "The list; complete if its last line has a SHA-256",
    "content": {kind: {} for kind in MEDIA_TYPES.values()},
}
