"""The routes of whoever watches whether this process lives, and whether it can answer."""

from __future__ import annotations

from collections.abc import Callable

from anyio import CapacityLimiter, fail_after
from anyio.to_thread import run_sync
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from tomodex.cohorts import Cohorts
from tomodex.errors import Unavailable
from tomodex.queues import Queue

#: Questions after our health that are answered at once.
MOST_WATCHING = 2

#: Whoever watches has little patience: this is less than the usual time-out of a probe.
PATIENCE_S = 4.0


class Health(BaseModel):
    """It is as was asked."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "ok"}]})

    status: str = "ok"


def health_router(queue: Queue, cohorts: Cohorts) -> APIRouter:
    """The routes, which need no token and say nothing of what is in the index.

    It is that which people ask, in memory where it can be: whoever writes to the file of another
    must not make us seem ill.
    """
    router = APIRouter(tags=["server"])
    # Threads of their own: whoever watches us is answered however many others wait.
    lately, ready = CapacityLimiter(MOST_WATCHING), CapacityLimiter(MOST_WATCHING)

    @router.get("/v1/live", summary="Whether it lives")
    async def live() -> Health:
        """To be started anew if this is not answered; what others do has no part in it."""
        return Health()

    @router.get("/v1/health", summary="Whether it lives and the queue answers")
    async def health() -> Health:
        await run_sync(queue.count, limiter=lately)
        return Health()

    @router.get("/v1/ready", summary="Whether the queue and the index answer")
    async def readiness() -> Health:
        """To be asked nothing while this is not answered with 200."""
        await _answered("queue", queue.count, ready)
        await _answered("index", cohorts.reach, ready)
        return Health()

    return router


async def _answered(name: str, ask: Callable[[], object], limiter: CapacityLimiter) -> None:
    """Return if it answers in time.

    Raises:
        Unavailable: it does not. A thread that hangs is left behind, and there are few of them.
    """
    try:
        with fail_after(PATIENCE_S):
            await run_sync(ask, limiter=limiter, abandon_on_cancel=True)
    except TimeoutError as late:
        raise Unavailable(f"the {name} does not answer within {PATIENCE_S:.0f} s") from late
