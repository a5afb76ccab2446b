"""The route of the vocabulary: structures and groups, their codes, synonyms and counts."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from tomodex.cohorts import Anatomy, Cohorts
from tomodex.web.answers import Asking, answer, shown

KIDNEY = {
    "named": {
        "name": "kidney_left",
        "kind": "structure",
        "display": "Left kidney",
        "display_de": "Niere links",
        "query": "kidney_left",
        "laterality": "left",
        "codes": {"SCT": "18639004", "RADLEX": "RID29663"},
        "synonyms": ["kidneys", "Niere"],
        "parents": ["kidney"],
        "members": ["kidney_left"],
        "tasks": ["total"],
    },
    "series": 604112,
    "complete": 377120,
}


def structures_router(cohorts: Cohorts) -> APIRouter:
    """The route, on this core."""
    router = APIRouter(prefix="/v1/structures", tags=["search"])

    @router.get(
        "",
        response_model=tuple[Anatomy, ...],
        responses=shown([KIDNEY]),
        summary="What anatomy can be asked for",
    )
    def structures(
        asker: Asking,
        text: Annotated[
            str, Query(max_length=200, description="A name, synonym, group or code.")
        ] = "",
    ) -> Response:
        """Groups and structures as a tree: each names its parents. All of them without `text`."""
        return answer(cohorts.anatomy(asker, text))

    return router
