"""Brings what an archive already holds into the index: first its listing, then its pixels.

The time from one day to another is listed in windows of a day, without any pixel; every series is
then searchable by its tags. The pixels follow as the queue's lane `backfill`, which daily work
goes before. Whatever is interrupted goes on where it was.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Literal

from tomodex.daily import Desk, desk_of, list_window
from tomodex.discovery import MAY_VANISH_PERCENT, Vanished, lists_by_day
from tomodex.errors import BadQuery, Suspended, Unavailable
from tomodex.locks import locked
from tomodex.logbook import Days, FailedDay, Logbook, Plan, State, windows_of
from tomodex.options import without_query
from tomodex.queues import Lane, Order, Queue, Status
from tomodex.settings import Settings
from tomodex.sources import Progress, Source, Window
from tomodex.wiring import configured_url, lasting_url, logbook_of, queue_of, source_of

log = logging.getLogger(__name__)

LANE: Lane = "backfill"

#: The rate that a forecast is made of is that of so long.
LOOK_BACK = timedelta(hours=1)


def plan_backfill(
    settings: Settings,
    name: str,
    first: date,
    last: date,
    *,
    order: Order = "oldest first",
    days: int = 1,
    may_vanish_percent: float = MAY_VANISH_PERCENT,
) -> tuple[str, int]:
    """Plan to bring in a source's studies of some years; return its URL and how many windows.

    Planning again adds what is missing and changes the order; what was listed stays listed.
    """
    if first > last:
        raise BadQuery(f"from {first} to {last} is no time: the first day comes first")
    url = lasting_url(settings, name)
    # A folder is walked as a whole for any window: one is enough.
    by_day = lists_by_day(source_of(settings, name))
    windows = windows_of(first, last, days) if by_day else [Window(first=first, last=last)]
    new = logbook_of(settings).plan(url, windows, order, may_vanish_percent)
    queue_of(settings).order(LANE, url, order)
    return url, new


def start(settings: Settings, name: str | None) -> list[Plan]:
    """Let planned back-fills run, or one that was paused; `tomodex run` works on them."""
    return _set_state(settings, name, "running", lambda queue: queue.release)


def pause(settings: Settings, name: str | None) -> list[Plan]:
    """Let nothing more be listed or taken from the lane; what is in hand is finished."""
    return _set_state(settings, name, "paused", lambda queue: queue.hold)


def _set_state(
    settings: Settings,
    name: str | None,
    state: State,
    door: Callable[[Queue], Callable[[Lane, str], None]],
) -> list[Plan]:
    logbook, queue = logbook_of(settings), queue_of(settings)
    plans = plans_of(settings, name)
    for plan in plans:
        logbook.set_state(plan.source, state)
        door(queue)(LANE, plan.source)
    return plans


def plans_of(settings: Settings, name: str | None) -> list[Plan]:
    """The plan of one source, or all.

    Raises:
        BadQuery: there is none.
    """
    url = without_query(configured_url(settings, name)) if name else None
    plans = [plan for plan in logbook_of(settings).plans() if url in (None, plan.source)]
    if not plans:
        of = f" of {name}" if name else ""
        raise BadQuery(f"no back-fill{of} is planned: tomodex backfill plan SOURCE --from --to")
    return plans


# --- listing --------------------------------------------------------------------------------------


def list_plan(settings: Settings, plan: Plan, stop: Callable[[], bool], progress: Progress) -> bool:
    """List a plan's windows until all are listed or it is told to stop; True if none is left now.

    Raises:
        Suspended: the archive is left alone; nothing was held against the window.
        Misconfigured: a setting of the source is wrong.
    """
    logbook = logbook_of(settings)
    if logbook.next_window(plan) is None:
        return True
    with only_lister(settings, plan.source):
        source, desk = source_of(settings, plan.source), desk_of(settings)
        while not stop() and _runs(logbook, plan.source):
            window = logbook.next_window(plan)
            if window is None:
                return True
            list_one(desk, logbook, source, plan, window)
            days = logbook.days(plan.source)
            progress(days.listed, days.listed + days.left)
    return False


@contextmanager
def only_lister(settings: Settings, source: str) -> Iterator[None]:
    """Be the only one that lists this source's back-fill.

    Raises:
        Unavailable: another process does.
    """
    with locked(settings.data, f"backfill {source}", f"another process lists {source}"):
        yield


def list_one(desk: Desk, logbook: Logbook, source: Source, plan: Plan, window: Window) -> None:
    """List one window and remember that, or why it could not be listed whole."""
    try:
        found = list_window(desk, source, LANE, window, plan.may_vanish_percent)
    except Suspended:
        raise
    except (Unavailable, Vanished) as error:
        log.warning("not listed", extra={"source": plan.source, "sentence": str(error)})
        logbook.remember_failed(plan.source, window, str(error))
        return
    # After what was found is on disk: listed twice does no harm, forgotten would.
    logbook.remember_listed(
        plan.source,
        window,
        found=found.found,
        wanted=found.wanted,
        new=found.new,
        withdrawn=found.withdrawn,
    )


def _runs(logbook: Logbook, source: str) -> bool:
    return any(p.source == source and p.state == "running" for p in logbook.plans())


# --- how far it is --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillStatus:
    """How far one back-fill has come, and how long the rest will take."""

    source: str
    state: State | Literal["done"]
    order: Order
    days: Days
    failed_days: tuple[FailedDay, ...]
    indexed: int  #: series in the lane, by what became of them
    rejected: int
    failed: int
    waiting: int
    elsewhere: int  #: series of the source that wait in another lane, most of them daily work
    days_per_hour: float  #: that were listed, lately
    series_per_hour: float  #: of the lane that workers settled, lately
    workers: int
    listing_forecast: str
    pixels_forecast: str

    @property
    def facts(self) -> dict[str, object]:
        """The same for a program."""
        return asdict(self) | {"days_left": self.days.left}


def status_of(settings: Settings, plan: Plan, now: datetime | None = None) -> BackfillStatus:
    """How far a plan has come, with a forecast from the rates of the last hour."""
    logbook, queue = logbook_of(settings), queue_of(settings)
    moment = now or datetime.now(UTC)
    since = max(moment - LOOK_BACK, datetime.fromtimestamp(plan.started_s, UTC))
    hours = max((moment - since).total_seconds(), 60.0) / 3600
    days, counts = logbook.days(plan.source), queue.count(plan.source)
    days_per_hour = logbook.listed_since(plan.source, since.timestamp()) / hours
    series_per_hour = queue.pace(since).get(LANE, 0) / hours
    waiting = _of(counts, "ready") + _of(counts, "in-progress")
    elsewhere = _waiting_elsewhere(counts)
    running = plan.state == "running"
    return BackfillStatus(
        source=plan.source,
        state="done" if running and not (days.left or waiting or elsewhere) else plan.state,
        order=plan.order,
        days=days,
        failed_days=tuple(logbook.failed_days(plan.source)),
        indexed=_of(counts, "completed"),
        rejected=_of(counts, "rejected"),
        failed=_of(counts, "failed"),
        waiting=waiting,
        elsewhere=elsewhere,
        days_per_hour=round(days_per_hour, 1),
        series_per_hour=round(series_per_hour, 1),
        workers=settings.workers,
        listing_forecast=_listing_forecast(days, days_per_hour, moment, running),
        pixels_forecast=_pixels_forecast(
            waiting + _still_to_come(days), series_per_hour, settings.workers, moment, running
        )
        + _also_elsewhere(elsewhere),
    )


def _of(counts: Mapping[tuple[Lane, Status], int], status: Status) -> int:
    return counts.get((LANE, status), 0)


def _waiting_elsewhere(counts: Mapping[tuple[Lane, Status], int]) -> int:
    """Series that moved up, as daily work or an order named them too, or never were in the lane."""
    waiting = ("ready", "in-progress")
    return sum(n for (lane, status), n in counts.items() if lane != LANE and status in waiting)


def _also_elsewhere(series: int) -> str:
    return f"; {series:,} of the source wait in other lanes" if series else ""


def _still_to_come(days: Days) -> int:
    """Wanted series in what is not listed yet, if it is like what was."""
    return round(days.wanted / days.listed * days.left) if days.listed else 0


def _listing_forecast(days: Days, per_hour: float, now: datetime, running: bool) -> str:
    if not days.left:
        return f"all {days.listed:,} windows are listed"
    if not running:
        return f"{days.left:,} windows are to be listed"
    if not per_hour:
        return f"{days.left:,} windows are to be listed, and none was in the last hour"
    return (
        f"at the present rate of {per_hour:,.0f} windows/h the remaining {days.left:,} take until "
        f"{_until(now, days.left / per_hour)}"
    )


def _pixels_forecast(
    series: int, per_hour: float, workers: int, now: datetime, running: bool
) -> str:
    if not series:
        return "no series waits"
    if not running:
        return f"{series:,} series are to be indexed"
    if not per_hour:
        return f"{series:,} series are to be indexed, and none of the lane was in the last hour"
    hours = series / per_hour
    return (
        f"at the present rate of {per_hour:,.0f} series/h the remaining {series:,} take until "
        f"{_until(now, hours)}; with {2 * workers} workers instead of {workers}, if the archive "
        f"and the machines keep up, until {_until(now, hours / 2)}"
    )


def _until(now: datetime, hours: float) -> str:
    """A moment as exact as it can be known: the hour if it is near, else the day, or the year."""
    if hours > 100 * 365 * 24 or not math.isfinite(hours):
        return "long after anybody who reads this"
    end = (now + timedelta(hours=hours)).astimezone()
    return f"{end:%Y-%m-%d %H:%M}" if hours < 48 else f"{end:%Y-%m-%d}"
