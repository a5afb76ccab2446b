"""The route that says whose pseudonyms are, for stewards."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from tomodex.errors import Forbidden
from tomodex.identifying import MOST, SHORTEST_REASON, identify
from tomodex.settings import Settings
from tomodex.web.answers import FORBIDDEN, Asking


class Wanted(BaseModel):
    """Whose pseudonyms are to be told, and why."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "pseudonyms": ["5f0c1d9a7be24b1f8f3f0a53c6f4b8aa"],
                    "reason": "incidental finding, ethics vote 2026-17",
                }
            ]
        },
    )

    pseudonyms: list[Annotated[str, Field(max_length=64)]] = Field(min_length=1, max_length=MOST)
    reason: str = Field(min_length=SHORTEST_REASON, max_length=1000)


class Known(BaseModel):
    """Who a pseudonym is to the hospital."""

    pseudonym: str
    patient_id: str  #: (0010,0020)
    issuer: str  #: (0010,0021); "" where the header has none


class Told(BaseModel):
    """Those who are known; of others nothing is kept."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "identities": [
                        {
                            "pseudonym": "5f0c1d9a7be24b1f8f3f0a53c6f4b8aa",
                            "patient_id": "0004711",
                            "issuer": "HOSPITAL",
                        }
                    ]
                }
            ]
        }
    )

    identities: list[Known]


def identities_router(settings: Settings) -> APIRouter:
    """The routes."""
    router = APIRouter(prefix="/v1/identities", tags=["identities"])

    @router.post("", responses={403: FORBIDDEN}, summary="Say whose pseudonyms are")
    def tell(wanted: Wanted, asker: Asking) -> Told:
        """For stewards; the reason is kept in the audit log, with who asked."""
        if asker.may("identify") and not settings.access.identities:
            raise Forbidden("whose pseudonyms are is not kept here: set `identities` in [access]")
        found = identify(settings, asker, wanted.pseudonyms, wanted.reason)
        return Told(
            identities=[
                Known(pseudonym=pseudonym, patient_id=one.patient_id, issuer=one.issuer)
                for pseudonym, one in found.items()
            ]
        )

    return router
