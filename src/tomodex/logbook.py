"""What was listed of each archive, day by day: remembered from one run to the next.

One small SQLite file in the data folder. What is lost with it is time: an archive that is listed
again is listed to a queue that knows what it knows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Literal

from tomodex.private_file import PrivateFile
from tomodex.queues import Order
from tomodex.sources import Window

State = Literal["planned", "running", "paused"]

#: A day that could not be listed is tried again after so long, twice as long each time, at most.
FIRST_RETRY_S = 60.0
LONGEST_RETRY_S = 6 * 3600.0

SCHEMA = """
create table if not exists daily (
    source   text primary key,
    last_day text not null,       -- YYYY-MM-DD, listed whole
    ended_s  real not null
) strict;
create table if not exists plan (
    source        text primary key,
    state         text not null,
    newest_first  integer not null,
    may_vanish    real not null,
    started_s     real not null default 0
) strict;
create table if not exists day (
    source    text    not null,
    first     text    not null,   -- YYYY-MM-DD
    last      text    not null,
    status    text    not null default 'planned',   -- planned, listed, failed
    found     integer not null default 0,
    wanted    integer not null default 0,
    new       integer not null default 0,
    withdrawn integer not null default 0,
    attempts  integer not null default 0,
    due_s     real    not null default 0,           -- failed: tried again then
    listed_s  real    not null default 0,
    sentence  text    not null default '',          -- why it failed last
    primary key (source, first)
) strict;
create index if not exists day_status on day (source, status, due_s);
create index if not exists day_listed on day (listed_s) where status = 'listed';
"""

EXTEND = """
insert into day (source, first, last) values (?, ?, ?) on conflict (source, first) do update
set last = excluded.last, status = 'planned', attempts = 0, due_s = 0
where excluded.last > last
"""

#: The next day of a plan in its order, those that failed when their time has come.
NEXT = """
select first, last from day where source = :source
    and (status = 'planned' or (status = 'failed' and due_s <= :now))
order by status = 'failed', first {order} limit 1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A back-fill of one archive."""

    source: str  #: URL without options
    state: State
    order: Order
    may_vanish_percent: float
    started_s: float  #: seconds since 1970; 0: never


@dataclass(frozen=True, slots=True, kw_only=True)
class Days:
    """How far the listing of a back-fill has come, in partitions and in series."""

    planned: int = 0  #: not listed yet
    listed: int = 0
    failed: int = 0  #: could not be listed, and will be tried again
    first: str = ""  #: YYYY-MM-DD
    last: str = ""
    found: int = 0
    wanted: int = 0
    withdrawn: int = 0

    @property
    def left(self) -> int:
        """Still to be listed."""
        return self.planned + self.failed


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedDay:
    """Days that could not be listed so far, and why."""

    first: str
    last: str
    attempts: int
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Days that are listed together, and what became of that."""

    first: date
    last: date
    status: Literal["planned", "listed", "failed"]
    found: int  #: series


class Logbook:
    """`discovery.db` in the data folder; any number of processes use it at once."""

    def __init__(self, file: Path, now: Callable[[], float] = time.time) -> None:
        self._kept = PrivateFile(file, SCHEMA)
        self._now = now

    # --- daily ----------------------------------------------------------------------------------

    def last_day(self, source: str) -> date | None:
        """The last day up to which the archive was listed whole; None: never."""
        rows = self._kept.read("select last_day from daily where source = ?", (source,))
        return date.fromisoformat(rows[0][0]) if rows else None

    def last_run_s(self, source: str) -> float:
        """When that was, in seconds since 1970; 0: never."""
        rows = self._kept.read("select ended_s from daily where source = ?", (source,))
        return float(rows[0][0]) if rows else 0.0

    def remember_day(self, source: str, day: date) -> None:
        """The archive was listed whole up to and including `day`."""
        sql = """insert into daily values (?, ?, ?) on conflict (source) do update
                 set last_day = max(last_day, excluded.last_day), ended_s = excluded.ended_s"""
        with self._kept.writing() as db:
            db.execute(sql, (source, day.isoformat(), self._now()))

    # --- plans ----------------------------------------------------------------------------------

    def plan(
        self, source: str, windows: Sequence[Window], order: Order, may_vanish_percent: float
    ) -> int:
        """Make or extend a plan; return how many windows are new or longer than before.

        What was listed stays so, but a window that ends later than it did is listed again.
        """
        sql = """insert into plan (source, state, newest_first, may_vanish)
                 values (?, 'planned', ?, ?) on conflict (source) do update
                 set newest_first = excluded.newest_first, may_vanish = excluded.may_vanish"""
        rows = [(source, w.first.isoformat(), w.last.isoformat()) for w in windows]
        with self._kept.writing() as db:
            db.execute(sql, (source, order == "newest first", may_vanish_percent))
            before = db.total_changes()
            db.executemany(EXTEND, rows)
            return db.total_changes() - before

    def plans(self) -> list[Plan]:
        """All of them, by source."""
        sql = "select source, state, newest_first, may_vanish, started_s from plan order by source"
        return [
            Plan(
                source=source,
                state=state,
                order="newest first" if newest else "oldest first",
                may_vanish_percent=percent,
                started_s=started_s,
            )
            for source, state, newest, percent, started_s in self._kept.read(sql, ())
        ]

    def set_state(self, source: str, state: State) -> None:
        """Start, pause or resume a plan."""
        sql = """update plan set state = ?1,
                 started_s = iif(?1 = 'running' and state <> 'running', ?2, started_s)
                 where source = ?3"""
        with self._kept.writing() as db:
            db.execute(sql, (state, self._now(), source))

    def next_window(self, plan: Plan) -> Window | None:
        """What of a plan is to be listed next; None: nothing now."""
        sql = NEXT.format(order="desc" if plan.order == "newest first" else "asc")
        rows = self._kept.read(sql, {"source": plan.source, "now": self._now()})
        if not rows:
            return None
        first, last = rows[0]
        return Window(first=date.fromisoformat(first), last=date.fromisoformat(last))

    def remember_listed(
        self, source: str, window: Window, *, found: int, wanted: int, new: int, withdrawn: int
    ) -> None:
        """A window was listed whole, and all of it is in the queue."""
        sql = """update day set status = 'listed', found = ?, wanted = ?, new = ?, withdrawn = ?,
                 attempts = attempts + 1, listed_s = ?, sentence = ''
                 where source = ? and first = ?"""
        facts = (found, wanted, new, withdrawn, self._now(), source, window.first.isoformat())
        with self._kept.writing() as db:
            db.execute(sql, facts)

    def remember_failed(self, source: str, window: Window, sentence: str) -> None:
        """A window could not be listed whole; it is tried again, later each time."""
        sql = """update day set status = 'failed', attempts = attempts + 1, sentence = ?,
                 due_s = ? + min(? * (1 << min(attempts, 20)), ?) where source = ? and first = ?"""
        facts = (sentence, self._now(), FIRST_RETRY_S, LONGEST_RETRY_S, source)
        with self._kept.writing() as db:
            db.execute(sql, (*facts, window.first.isoformat()))

    def days(self, source: str) -> Days:
        """How far the listing of a plan has come."""
        sql = """select count(*) filter (where status = 'planned'),
                        count(*) filter (where status = 'listed'),
                        count(*) filter (where status = 'failed'),
                        coalesce(min(first), ''), coalesce(max(last), ''),
                        total(found), total(wanted), total(withdrawn)
                 from day where source = ?"""
        (row,) = self._kept.read(sql, (source,))
        planned, listed, failed, first, last, found, wanted, withdrawn = row
        return Days(
            planned=planned,
            listed=listed,
            failed=failed,
            first=first,
            last=last,
            found=int(found),
            wanted=int(wanted),
            withdrawn=int(withdrawn),
        )

    def listed_since(self, source: str, since_s: float) -> int:
        """How many windows of a plan were listed since then."""
        sql = """select count(*) from day where source = ? and status = 'listed' and listed_s > ?"""
        return int(self._kept.read(sql, (source, since_s))[0][0])

    def failed_days(self, source: str, limit: int = 10) -> list[FailedDay]:
        """What could not be listed so far, the first days first."""
        sql = """select first, last, attempts, sentence from day
                 where source = ? and status = 'failed' order by first limit ?"""
        return [
            FailedDay(first=first, last=last, attempts=attempts, sentence=sentence)
            for first, last, attempts, sentence in self._kept.read(sql, (source, limit))
        ]

    def stretches(self) -> list[Stretch]:
        """Every window of every plan, by its first day."""
        sql = "select first, last, status, found from day order by first, source"
        return [
            Stretch(
                first=date.fromisoformat(first),
                last=date.fromisoformat(last),
                status=status,
                found=found,
            )
            for first, last, status, found in self._kept.read(sql, ())
        ]


def windows_of(first: date, last: date, days: int) -> list[Window]:
    """The time from one day to another, in windows of so many days."""
    begins = range(0, (last - first).days + 1, days)
    return [
        Window(
            first=first + timedelta(days=n), last=min(first + timedelta(days=n + days - 1), last)
        )
        for n in begins
    ]
