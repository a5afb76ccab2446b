"""The route of how much there is: in the index, and on its way into it."""

from __future__ import annotations

from datetime import date

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from tomodex.access import Asker
from tomodex.cohorts import Cohorts
from tomodex.queues import Queue
from tomodex.web.answers import FORBIDDEN, Asking


class Stats(BaseModel):
    """How much is in the index, and how much of it was read."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "series": 1742206,
                    "studies": 1101350,
                    "patients": 402113,
                    "segmented": 1062745,
                    "waiting": 679461,
                    "newest": "2026-11-23",
                    "terminology": "2026-11-23",
                    "tasks": {"daily": {"ready": 212, "in-progress": 6}},
                }
            ]
        }
    )

    series: int | None
    studies: int | None
    patients: int | None
    segmented: int | None  #: series whose structures are known
    waiting: int | None  #: series that an archive has listed and nobody has read yet
    newest: date | None  #: study date; null: no series has one
    terminology: str  #: version of the structures' names and codes
    tasks: dict[str, dict[str, int]] | None  #: by lane and status; null: not yours to know


def stats_router(cohorts: Cohorts, queue: Queue) -> APIRouter:
    """The route, on this core and queue."""
    router = APIRouter(prefix="/v1/stats", tags=["server"])

    @router.get("", responses={403: FORBIDDEN}, summary="How much is indexed")
    def stats(asker: Asking) -> Stats:
        """Some seconds old."""
        totals = cohorts.totals(asker)
        return Stats(
            series=totals.series,
            studies=totals.studies,
            patients=totals.patients,
            segmented=totals.segmented,
            waiting=totals.waiting,
            newest=totals.newest,
            terminology=cohorts.terminology.version,
            tasks=_tasks(queue, asker),
        )

    return router


def _tasks(queue: Queue, asker: Asker) -> dict[str, dict[str, int]] | None:
    if not asker.may("operate"):
        return None
    lanes: dict[str, dict[str, int]] = {}
    for (lane, status), count in queue.count().items():
        lanes.setdefault(lane, {})[status] = count
    return lanes
