"""The route of SQL: one SELECT on the index, where the settings allow it."""

from __future__ import annotations

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from tomodex.auditlog import Audit
from tomodex.errors import Forbidden
from tomodex.settings import Settings
from tomodex.sql import LONGEST, Answer, ask
from tomodex.web.answers import Asking, answer, shown


class StatementAsked(BaseModel):
    """What to select."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sql: str = Field(
        min_length=1,
        max_length=LONGEST,
        examples=[
            "select structure, count(*) as series from annotations where complete group by 1"
        ],
    )


def sql_router(settings: Settings, audit: Audit) -> APIRouter:
    """The route, which refuses everything unless `[serve] sql` is on."""
    router = APIRouter(prefix="/v1", tags=["sql"])

    @router.post(
        "/sql",
        response_model=Answer,
        responses=shown(
            {
                "columns": ["structure", "series"],
                "types": ["VARCHAR", "BIGINT"],
                "rows": [["liver", 604112]],
                "truncated": False,
            }
        ),
        summary="What one SELECT finds",
    )
    def select(asked: StatementAsked, asker: Asking) -> Response:
        """Off unless the site allows it. Read only, with little time, memory and rows."""
        if not asker.may("rows"):
            audit.write(asker, "refused", asked.sql, right="rows")
        asker.require("rows")
        if not settings.serve.sql:
            raise Forbidden("SQL is off here; `sql = true` in [serve] allows it")
        # Before it is done: what cannot be remembered is not done.
        audit.write(asker, "sql", asked.sql)
        return answer(ask(settings.index_url, asked.sql))

    return router
