"""The routes that answer questions, put together."""

from __future__ import annotations

from functools import partial

from fastapi import FastAPI

from tomodex.cohorts import Cohorts
from tomodex.queues import Queue
from tomodex.settings import Settings
from tomodex.web.answers import TOKEN
from tomodex.web.cohorts import cohort_router
from tomodex.web.dicomweb import dicomweb_router
from tomodex.web.metrics import Metrics, add_metrics
from tomodex.web.operations import operations_router
from tomodex.web.pages.operations import Operator
from tomodex.web.pages.routes import Links, add_pages
from tomodex.web.saved import manifest_router, saved_router
from tomodex.web.search import search_router
from tomodex.web.segmentations import segmentations_router
from tomodex.web.series import series_router
from tomodex.web.sql import sql_router
from tomodex.web.stats import stats_router
from tomodex.web.structures import structures_router
from tomodex.web.viewer import viewer_router
from tomodex.wiring import (
    audit_of,
    consumer_names,
    index_of,
    left_alone,
    library_of,
    logbook_of,
    operations_of,
    previews_of,
)


def add_routes(app: FastAPI, settings: Settings, cohorts: Cohorts, queue: Queue) -> None:
    """Let the app answer questions about cohorts, and say how it is."""
    library = library_of(settings, cohorts)
    routers = (
        cohort_router(cohorts),
        manifest_router(library),
        saved_router(library),
        search_router(cohorts),
        structures_router(cohorts),
        series_router(cohorts),
        dicomweb_router(cohorts),
        viewer_router(cohorts, settings.serve.viewer),
        stats_router(cohorts, queue),
        operations_router(operations_of(settings)),
        segmentations_router(settings),
        sql_router(settings, audit_of(settings)),
    )
    for router in routers:
        app.include_router(router, dependencies=TOKEN)
    consumers = consumer_names(settings)
    sight = partial(_sight, settings, queue)
    add_pages(app, cohorts, library, sight, _links(settings))
    suspended, totals = partial(left_alone, settings), index_of(settings).totals
    add_metrics(app, Metrics(queue, consumers, suspended, totals))


def _sight(settings: Settings, queue: Queue) -> Operator:
    """What an operator looks at, as it is now."""
    return Operator(
        queue=queue,
        logbook=logbook_of(settings),
        consumers=consumer_names(settings),
        suspended=left_alone(settings),
    )


def _links(settings: Settings) -> Links:
    """Where a series can be looked at; a site that wants no pictures shows none of before."""
    pictures = previews_of(settings).get if settings.preview != "off" else _no_picture
    return Links(viewer=settings.serve.viewer, picture=pictures)


def _no_picture(series_uid: str) -> bytes | None:
    return None
