"""The page of the queue, the archives and the sinks: what waits, how fast, what went wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import get_args

from tomodex.access import Asker
from tomodex.delivery import lag_of
from tomodex.logbook import Logbook
from tomodex.queues import Lane, Queue, Status, TaskState
from tomodex.sources.gate import Suspension
from tomodex.web.pages.calendar import Year, years_of

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)

#: Waiting tasks of a lane up to which it is looked when the oldest came: each is looked at.
MOST_WAITING = 100_000

#: Series that are named for each reason.
EXAMPLES = 3

#: Reasons of each kind, most frequent first.
MOST_REASONS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneRow:
    """How far a lane is."""

    lane: Lane
    waiting: int
    running: int
    hour: int  #: settled within an hour
    done: int  #: settled within a day
    completed: int
    failed: int
    oldest_s: float | None  #: since when the oldest waits; None: none does, or too many
    eta_s: float | None  #: until all is done, at its pace; None: it stands


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why series were rejected or failed, and some of them."""

    reason: str
    count: int
    sentence: str  #: of the newest
    examples: Sequence[TaskState]


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkRow:
    """A consumer of the results."""

    name: str  #: its URL without options
    behind: int  #: results that it was not brought, at most
    behind_s: float | None  #: age of the oldest result it was not brought; None: it has all
    asides: int  #: results that it could not take


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationsPage:
    """Everything that the page shows."""

    lanes: Sequence[LaneRow]
    per_hour: int  #: series settled in the last hour
    per_day: int
    rejected: Sequence[Reason]
    failed: Sequence[Reason]
    suspended: Sequence[Suspension]
    held: Sequence[tuple[Lane, str]]
    sinks: Sequence[SinkRow]
    years: Sequence[Year]
    workers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """What an operator looks at."""

    queue: Queue
    logbook: Logbook
    consumers: Sequence[str]
    suspended: Sequence[Suspension]


def operations_page(asker: Asker, look: Callable[[], Operator]) -> OperationsPage:
    """The page, as things are now."""
    asker.require("operate")
    sight, now = look(), datetime.now(UTC)
    queue = sight.queue
    days, hours, reasons = queue.pace(now - DAY), queue.pace(now - HOUR), queue.reasons()
    return OperationsPage(
        lanes=_lanes(queue, hours, days, now),
        per_hour=sum(hours.values()),
        per_day=sum(days.values()),
        rejected=_reasons(queue, "rejected", reasons),
        failed=_reasons(queue, "failed", reasons),
        suspended=sight.suspended,
        held=queue.held(),
        sinks=[_sink(queue, name, now) for name in sight.consumers],
        years=years_of(sight.logbook.stretches()),
        workers=len(queue.holders()),
    )


def retry(asker: Asker, queue: Queue, reason: str) -> int:
    """Make ready again what failed for a reason; how many series."""
    asker.require("operate")
    return queue.retry("failed", reason)


def _lanes(
    queue: Queue, hours: Mapping[Lane, int], days: Mapping[Lane, int], now: datetime
) -> list[LaneRow]:
    counts = queue.count()
    return [
        _lane(lane, queue, counts, (hours.get(lane, 0), days.get(lane, 0)), now)
        for lane in get_args(Lane)
    ]


def _lane(
    lane: Lane,
    queue: Queue,
    counts: Mapping[tuple[Lane, Status], int],
    paces: tuple[int, int],
    now: datetime,
) -> LaneRow:
    """`paces` are the series settled within an hour, and within a day."""
    waiting, running = counts.get((lane, "ready"), 0), counts.get((lane, "in-progress"), 0)
    since = queue.waiting_since(lane) if 0 < waiting <= MOST_WAITING else None
    left = waiting + running
    return LaneRow(
        lane=lane,
        waiting=waiting,
        running=running,
        hour=paces[0],
        done=paces[1],
        completed=counts.get((lane, "completed"), 0),
        failed=counts.get((lane, "failed"), 0),
        oldest_s=(now - since).total_seconds() if since else None,
        eta_s=eta_s(left, *paces),
    )


def eta_s(left: int, hour: int, day: int) -> float | None:
    """Until so many series are done; None: nothing is left, or it stands.

    At the pace of the last hour where that ends within a day; else at that of the last day, which
    has in it the hours in which an archive may not be asked.
    """
    if not left:
        return None
    soon = left / hour * HOUR.total_seconds() if hour else None
    if soon is not None and (soon <= DAY.total_seconds() or day <= hour):
        return soon
    return left / day * DAY.total_seconds() if day else None


def _reasons(
    queue: Queue, status: Status, reasons: Mapping[tuple[Status, str], int]
) -> list[Reason]:
    found = [(why, many) for (kind, why), many in reasons.items() if kind == status]
    most = sorted(found, key=lambda one: (-one[1], one[0]))[:MOST_REASONS]
    return [_reason(queue, status, why, many) for why, many in most]


def _reason(queue: Queue, status: Status, why: str, many: int) -> Reason:
    examples = queue.find_states(status, why, EXAMPLES)
    sentence = examples[0].sentence if examples else ""
    return Reason(reason=why, count=many, sentence=sentence, examples=examples)


def _sink(queue: Queue, name: str, now: datetime) -> SinkRow:
    lag = lag_of(queue, name)
    age_s = (now - datetime.fromisoformat(lag.since)).total_seconds() if lag.since else 0.0
    return SinkRow(
        name=lag.consumer,
        behind=lag.behind,
        behind_s=max(0.0, age_s) if lag.behind else None,
        asides=len(lag.asides),
    )
