"""Does everything unattended: what `tomodex run` does, for years, beside the archives.

Workers work off the queue, results are delivered, new series are looked for at their times, and
planned back-fills are listed. An archive or an index that does not answer is waited for.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial

from tomodex.backfill import list_plan
from tomodex.daily import discover_daily
from tomodex.delivering import deliverers, require_consumers
from tomodex.erasing import erasing_beside
from tomodex.errors import Misconfigured, Suspended, TomodexError, Unavailable
from tomodex.heartbeat import beat, beating, working
from tomodex.indexing import be_worker
from tomodex.locks import locked
from tomodex.logbook import Plan
from tomodex.logs import log_to_stderr
from tomodex.mask_orders import be_maker
from tomodex.schedule import read_schedule
from tomodex.segmenters import require_segmenter
from tomodex.settings import Settings
from tomodex.wiring import consumer_names, logbook_of, queue_of, task_source
from tomodex.worker import Stop, bury_the_dead, run_workers

log = logging.getLogger(__name__)

#: What a process beside the workers does, by its name, until it is told to stop.
Beside = Callable[[str, Stop], None]

#: Name of the lock of a data folder that somebody runs on.
LOCK = "run"

#: How often it is looked whether there is something to be listed.
LOOK_S = 2.0

#: What does not answer is asked again after so long, twice as long each time, at most.
FIRST_REST_S = 30.0
LONGEST_REST_S = 3600.0


def run(settings: Settings, beside: Sequence[Beside] = ()) -> None:
    """Work until this process is told to end, with these in processes of their own beside it.

    Raises:
        Unavailable: another process runs on this data folder, or the queue does not answer.
        Misconfigured: a setting is wrong that nothing can be done without.
    """
    for segmenter in settings.segmenters:
        require_segmenter(segmenter)
    queue = queue_of(settings)
    taken = f"another `tomodex run` works on {settings.data}"
    with (
        locked(settings.data, LOCK, taken),
        beating(settings.data, LOCK),
        erasing_beside(settings),
    ):
        bury_the_dead(queue)
        consumers = _delivered_here(settings)
        require_consumers(settings, consumers)
        working()
        log.info("running", extra={"workers": settings.workers, "sources": list(settings.sources)})
        run_workers(
            settings.workers,
            partial(be_worker, settings),
            bury=queue.bury,
            finished=lambda: False,
            progress=beat,
            beside=[
                partial(be_lister, settings),
                partial(be_maker, settings),
                *deliverers(settings, consumers),
                *beside,
            ],
            finish_s=settings.finish_s,
        )


def _delivered_here(settings: Settings) -> tuple[str, ...]:
    """What this run delivers to; nothing, where `tomodex deliver` does."""
    return consumer_names(settings) if settings.delivery == "here" else ()


class Rest:
    """How long something is left alone that failed, longer each time."""

    def __init__(self) -> None:
        self._failures = 0
        self._end_s = 0.0

    @property
    def seconds(self) -> float:
        """What is left of it."""
        return max(0.0, self._end_s - time.time())

    def lengthen(self, error: TomodexError) -> None:
        """It failed again."""
        rest_s = min(FIRST_REST_S * 2.0 ** min(self._failures, 20), LONGEST_REST_S)
        self._failures += 1
        self._end_s = time.time() + rest_s
        if isinstance(error, Suspended):
            self._end_s = max(time.time() + LOOK_S, error.until.timestamp())


class Lister:
    """Looks for new series when it is time, and lists planned back-fills in between."""

    def __init__(
        self, settings: Settings, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._settings = settings
        self._now = now
        self._schedule = read_schedule(settings.daily_at)
        self._rests: dict[str, Rest] = {}

    def look(self, stop: Stop) -> None:
        """Do what is due now; a back-fill until new series are due again."""
        for name in self._due():
            if stop():
                return
            for look in discover_daily(self._settings, [name]):
                self._remember(f"daily {name}", look.source, look.error)
        for plan in logbook_of(self._settings).plans():
            if plan.state == "running" and self._may_try(f"backfill {plan.source}"):
                self._list(plan, lambda: stop() or bool(self._due()))

    def _due(self) -> list[str]:
        """Sources that are to be looked through for new series now."""
        return [
            name
            for name in sorted(self._settings.sources)
            if self._may_try(f"daily {name}")
            and self._schedule.is_due(self._last_run(name), self._now().astimezone())
        ]

    def _last_run(self, name: str) -> datetime | None:
        ended_s = logbook_of(self._settings).last_run_s(task_source(self._settings, name))
        return datetime.fromtimestamp(ended_s, UTC) if ended_s else None

    def _list(self, plan: Plan, stop: Stop) -> None:
        name = f"backfill {plan.source}"
        try:
            list_plan(self._settings, plan, stop, lambda done, total: None)
        except (Unavailable, Misconfigured) as error:
            self._remember(name, plan.source, error)
        else:
            self._remember(name, plan.source, None)

    def _may_try(self, name: str) -> bool:
        return name not in self._rests or not self._rests[name].seconds

    def _remember(self, name: str, source: str, error: TomodexError | None) -> None:
        if error is None:
            self._rests.pop(name, None)
        else:
            log.warning("not listed", extra={"source": source, "sentence": str(error)})
            self._rests.setdefault(name, Rest()).lengthen(error)


def be_lister(settings: Settings, name: str, stop: Stop) -> None:
    """What the process beside the workers does."""
    log_to_stderr(settings.log_level, settings.log_format)
    lister = Lister(settings)
    while not stop():
        try:
            lister.look(stop)
        except Unavailable as unavailable:  # the queue or our own file: the next look is soon
            log.warning("unavailable", extra={"sentence": str(unavailable)})
        end = time.monotonic() + LOOK_S
        while time.monotonic() < end and not stop():
            time.sleep(0.2)
