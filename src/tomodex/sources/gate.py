"""The gate in front of an archive that others need too: when it is asked, how often, by how many.

All processes of this machine that read from one archive share what its gate remembers, in the
folder of the queue and the index. An archive that fails is left alone for a while, each time for
longer, then tried by one process alone.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from datetime import time as Clock
from hashlib import sha256
from pathlib import Path
from typing import IO, Annotated, Any

import apsw
from pydantic import BeforeValidator, Field

from tomodex.errors import Misconfigured, Suspended, Unavailable
from tomodex.locks import open_lock
from tomodex.options import Options

#: So many failures in a row, of whatever process, and the archive is left alone.
PATIENCE = 3

#: For so long at first, twice as long after each further failure, and never longer than the last.
FIRST_REST_S = 30.0
LONGEST_REST_S = 3600.0

#: How long the one process that tries again keeps the others waiting.
TRIAL_S = 120.0

#: How often to look for a free place among the simultaneous requests, and for how long at most.
POLL_S = 0.05
PLACE_S = 60.0

#: How soon it may be asked again that could not be reached, or had no place.
BREATH_S = 5.0

SCHEMA = """
create table if not exists gate (
    url      text primary key,
    failures integer not null default 0,
    until_s  real    not null default 0,   -- not asked before; 0: may be asked
    next_s   real    not null default 0,   -- when the rate allows the next request
    sentence text    not null default ''   -- why it is left alone
) strict;
create table if not exists closed (
    url     text primary key,
    begin_s real not null                  -- when its hours begin; before that it is not asked
) strict
"""

HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)", re.ASCII)


class NotReached(Unavailable):
    """Nobody was there: what was to be asked was not asked, and has nothing to do with it."""


def was_tried(suspended: Suspended) -> bool:
    """Whether an archive is left alone because it could not be reached just now."""
    return isinstance(suspended.__cause__, NotReached)


@dataclass(frozen=True, slots=True)
class Hours:
    """Hours of local time, each from a begin to an end that may lie on the next day."""

    ranges: tuple[tuple[Clock, Clock], ...] = ()  #: empty: always

    def allow(self, moment: datetime) -> bool:
        """Whether a moment of local time lies in them."""
        now = moment.time()
        return not self.ranges or any(_within(now, *one) for one in self.ranges)

    def next_begin(self, moment: datetime) -> datetime:
        """When they begin next."""
        begins = [
            datetime.combine(moment.date() + timedelta(days=day), begin, moment.tzinfo)
            for begin, _ in self.ranges
            for day in (0, 1)
        ]
        return min((begin for begin in begins if begin > moment), default=moment)


def _within(now: Clock, begin: Clock, end: Clock) -> bool:
    return begin <= now < end if begin < end else now >= begin or now < end


def _hours(text: object) -> Hours:
    parts = str(text).split(",")
    found = [HOURS.fullmatch(part.strip()) for part in parts]
    if None in found:
        raise ValueError("hours are written 19:00-06:00, several with a comma between")
    clocks = [tuple(map(int, one.groups())) for one in found if one]
    return Hours(tuple((Clock(a, b), Clock(c, d)) for a, b, c, d in clocks))


class GateOptions(Options):
    """What an archive that others need too lets a site set in its URL."""

    simultaneous: int = Field(2, ge=1, le=64)  #: requests at once, of all processes here
    per_second: float | None = Field(None, gt=0, le=10_000)  #: requests begun; None: any number
    hours: Annotated[Hours, BeforeValidator(_hours)] = Hours()  #: local time; empty: always


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspension:
    """An archive that is left alone, as `tomodex status` shows it."""

    source: str
    until: datetime
    sentence: str


class Gate:
    """Lets requests to one archive through, a few at a time.

    Args:
        url: of the archive, without secrets: what processes share a gate by.
        state: folder for what the gate remembers; made if it is not there.
        now: seconds since 1970; a test's own clock.
    """

    def __init__(
        self,
        url: str,
        state: Path,
        options: GateOptions,
        *,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = url
        self._options = options
        self._now = now
        self._sleep = sleep
        self._state = state
        self._folder = state / "gates"
        self._name = sha256(url.encode()).hexdigest()[:16]

    @contextmanager
    def passing(self) -> Iterator[None]:
        """One request to the archive, or one association with it, from its begin to its end.

        Unavailable inside counts against the archive, and success speaks for it.

        Raises:
            Suspended: the archive is left alone for now, could not be reached, or has no place for
                one more request; nothing was asked.
        """
        self._require_hours()
        self._require_rest_over()
        with self._place():
            self._wait_turn()
            try:
                yield
            except Suspended:
                raise
            except NotReached as silent:
                until = self._count_failure(str(silent))
                raise Suspended(str(silent), source=self.url, until=until) from silent
            except Unavailable as unavailable:
                self._count_failure(str(unavailable))
                raise
            self._forget_failures()

    def _require_hours(self) -> None:
        here = datetime.fromtimestamp(self._now(), UTC).astimezone()
        begin = None if self._options.hours.allow(here) else self._options.hours.next_begin(here)
        self._remember_hours(begin.timestamp() if begin else 0)
        if begin:
            raise Suspended(
                f"{self.url} may be asked from {begin:%H:%M} on", source=self.url, until=begin
            )

    def _remember_hours(self, begin_s: float) -> None:
        """For the processes that do not ask it, and only show how things stand."""
        sql = """insert into closed (url, begin_s) select ?1, ?2 where ?2 > 0
                 on conflict (url) do update set begin_s = ?2 where begin_s <> ?2"""
        with self._remembered() as db:
            db.execute(sql, (self.url, begin_s))
            if not begin_s:
                db.execute("delete from closed where url = ?", (self.url,))

    def _require_rest_over(self) -> None:
        """Let one process try when the rest is over, and the others when it has succeeded."""
        now = self._now()
        with self._remembered() as db:
            try_s = now + TRIAL_S
            db.execute(
                "update gate set until_s = ? where url = ? and until_s between 1 and ?",
                (try_s, self.url, now),
            )
            if db.changes():
                return
            sql = "select until_s, sentence from gate where url = ? and until_s > ?"
            rows: list[Any] = db.execute(sql, (self.url, now)).fetchall()
        for until_s, sentence in rows:
            until = datetime.fromtimestamp(until_s, UTC)
            raise Suspended(
                f"{self.url} is left alone until {until:%H:%M:%S} UTC: {sentence}",
                source=self.url,
                until=until,
            )

    def _wait_turn(self) -> None:
        if self._options.per_second is None:
            return
        now, step_s = self._now(), 1 / self._options.per_second
        with self._remembered() as db:
            next_s: float = db.execute(
                """insert into gate (url, next_s) values (:url, :now + :step)
                   on conflict (url) do update set next_s = max(next_s, :now) + :step
                   returning next_s - :step""",
                {"url": self.url, "now": now, "step": step_s},
            ).get
        if next_s > now:
            self._sleep(next_s - now)

    def _count_failure(self, sentence: str) -> datetime:
        """Remember it; when the archive may be asked again."""
        rest_s = BREATH_S
        with self._remembered() as db:
            failures: int = db.execute(
                """insert into gate (url, failures, sentence) values (?, 1, ?)
                   on conflict (url) do update
                   set failures = failures + 1, sentence = excluded.sentence
                   returning failures""",
                (self.url, sentence.removeprefix(f"{self.url} ")),
            ).get
            if failures >= PATIENCE:
                rest_s = min(FIRST_REST_S * 2.0 ** min(failures - PATIENCE, 30), LONGEST_REST_S)
                until_s = self._now() + rest_s
                db.execute("update gate set until_s = ? where url = ?", (until_s, self.url))
        return datetime.fromtimestamp(self._now() + rest_s, UTC)

    def _forget_failures(self) -> None:
        sql = """update gate set failures = 0, until_s = 0, sentence = ''
                 where url = ? and (failures > 0 or until_s > 0)"""
        with self._remembered() as db:
            db.execute(sql, (self.url,))

    @contextmanager
    def _place(self) -> Iterator[None]:
        """One of the simultaneous requests; the system frees it should this process die."""
        files = [f"{self._name}-{n}.lock" for n in range(self._options.simultaneous)]
        self._make_folder()
        end = self._now() + PLACE_S
        while (held := self._first_free(files)) is None:
            if self._now() >= end:
                raise self._no_place()
            self._sleep(POLL_S)
        with held:
            yield

    def _no_place(self) -> Suspended:
        most = self._options.simultaneous
        return Suspended(
            f"{self.url} has been asked by {most} of at most {most} at once for {PLACE_S:.0f} s; "
            "raise `simultaneous` if it stands more",
            source=self.url,
            until=datetime.fromtimestamp(self._now() + BREATH_S, UTC),
        )

    def _first_free(self, files: list[str]) -> IO[bytes] | None:
        for name in files:
            file = open_lock(self._folder / name)
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return file
            file.close()
        return None

    def _make_folder(self) -> None:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as refused:
            raise Misconfigured(
                f"cannot make the folder {self._folder}: {refused.strerror}"
            ) from refused

    @contextmanager
    def _remembered(self) -> Iterator[apsw.Connection]:
        self._make_folder()
        with _open(self._folder / "gates.db") as db, db:
            yield db


def suspensions(state: Path, now: Callable[[], float] = time.time) -> list[Suspension]:
    """The archives that are left alone now, as far as this machine knows."""
    file = state / "gates" / "gates.db"
    if not file.is_file():
        return []
    sql = """select url, max(until_s), sentence from (
                 select url, until_s, sentence from gate
                 union all select url, begin_s, 'these are not its hours' from closed)
             where until_s > ? group by url order by url"""
    with _open(file) as db:
        rows: list[Any] = db.execute(sql, (now(),)).fetchall()
    return [
        Suspension(source=url, until=datetime.fromtimestamp(until_s, UTC), sentence=sentence)
        for url, until_s, sentence in rows
    ]


@contextmanager
def _open(file: Path) -> Iterator[apsw.Connection]:
    # Opened for every request, which takes 0.1 ms: a connection must not be shared by processes.
    try:
        db = apsw.Connection(os.fspath(file))
        try:
            db.set_busy_timeout(10_000)
            db.execute(SCHEMA)
            yield db
        finally:
            db.close()
    except apsw.Error as wrong:
        raise Misconfigured(f"cannot use {file}: {wrong}") from wrong
