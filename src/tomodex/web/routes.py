"""The routes that answer questions, put together."""

from __future__ import annotations

from fastapi import FastAPI

from tomodex.cohorts import Cohorts
from tomodex.settings import Settings
from tomodex.web.cohorts import cohort_router
from tomodex.web.operations import operations_router
from tomodex.web.search import search_router
from tomodex.web.series import series_router
from tomodex.web.structures import structures_router
from tomodex.wiring import operations_of


def add_routes(app: FastAPI, settings: Settings, cohorts: Cohorts) -> None:
    """Let the app answer questions about cohorts."""
    for make in (cohort_router, search_router, structures_router, series_router):
        app.include_router(make(cohorts))
    app.include_router(operations_router(operations_of(settings)))
