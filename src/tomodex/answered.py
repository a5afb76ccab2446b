"""The crowds that were told of so far, and how much each asker has asked today.

A crowd is kept as numbers that no patient can be found in: how many there are, and how many of the
hashes of their pseudonyms have each bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from threading import RLock
from typing import Any

import apsw
import numpy as np

from tomodex.access import Asker
from tomodex.errors import Forbidden
from tomodex.private_file import open_private, transaction
from tomodex.search.crowd import BITS, Crowd, distances

#: Losing the last answers to a power cut tells nobody anything.
PRAGMAS = {"journal_mode": "wal", "synchronous": "normal"}

SCHEMA = """
create table if not exists crowd (
    id         integer primary key,
    patients   integer not null,
    bits       blob    not null,     -- 64 numbers of 32 bits
    series     integer not null,
    studies    integer not null,
    size_bytes integer not null,
    day        text    not null      -- when something was last answered as it
) strict;
create index if not exists crowd_patients on crowd (patients);
-- Crowds that were answered as one of those.
create table if not exists alike (
    crowd    integer not null,
    patients integer not null,
    bits     blob    not null
) strict;
create index if not exists alike_patients on alike (patients);
create index if not exists alike_crowd on alike (crowd);
create table if not exists asked (
    day       text    not null,
    asker     text    not null,
    questions integer not null,
    primary key (day, asker)
) strict, without rowid;
"""

#: A crowd is forgotten when nothing was answered as it for so many days, or when so many others
#: were used later: then one that is nearly it may be told of anew.
KEPT_DAYS = 400
MOST_CROWDS = 200_000

FORGET = """
delete from crowd where day < ?1
    or id in (select id from crowd order by day desc, id desc limit -1 offset ?2);
delete from alike where crowd not in (select id from crowd);
"""

#: Two sets differ by at least as many patients as their numbers do. Those told of come first,
#: oldest first.
NEAR = """
select id, patients, bits from (
    select 0 as as_another, id, patients, bits from crowd where patients between ?1 and ?2
    union all
    select 1, crowd, patients, bits from alike where patients between ?1 and ?2
) order by as_another, id
"""
CROWD = "select patients, bits, series, studies, size_bytes from crowd where id = ?"

#: A crowd that is nearer than this part of the reach to one that was answered is answered like it,
#: whatever that one was answered as: so asking in other words tells nothing new.
SAME_PART = 0.25

SPEND = """
insert into asked values (?, ?, ?)
on conflict do update set questions = questions + excluded.questions returning questions
"""


class AnsweredCrowds:
    """`answered.db` in the data folder; any number of processes and threads use it at once.

    Args:
        file: None is memory, which nobody else sees.
        questions_a_day: of one asker.
        now: seconds since 1970; a test's own clock.
        most_crowds: that are remembered.

    Raises:
        Misconfigured: the file cannot be used.
    """

    def __init__(
        self,
        file: Path | None,
        questions_a_day: int,
        now: Callable[[], float] = time.time,
        most_crowds: int = MOST_CROWDS,
    ) -> None:
        self._questions_a_day = questions_a_day
        self._now = now
        self._most_crowds = most_crowds
        self._tidied = ""  #: the day when old crowds were last forgotten
        self._lock = RLock()  # an apsw connection serves one thread at a time
        self._db = open_private(file, SCHEMA, PRAGMAS)
        self._add_days()

    def nearest(self, crowd: Crowd, reach: float) -> Crowd:
        """The crowd that this one is answered as; if there is none, this one, which is told of from
        now on.

        It is what the closest one was answered as, where that is very near; else the crowd that
        was told of first within reach.
        """
        today = self._day()
        with self._writing() as db:
            self._forget_old(db, today)
            number, apart = _nearest(db, crowd, reach)
            if number and apart > SAME_PART * reach:
                sql = "insert into alike values (?, ?, ?)"
                db.execute(sql, (number, crowd.patients, _packed(crowd)))
            if number:
                db.execute(
                    "update crowd set day = ? where id = ? and day < ?", (today, number, today)
                )
                return _crowd(db.execute(CROWD, (number,)).fetchone() or ())
            db.execute(
                "insert into crowd (patients, bits, series, studies, size_bytes, day) "
                "values (?, ?, ?, ?, ?, ?)",
                (
                    crowd.patients,
                    _packed(crowd),
                    crowd.series,
                    crowd.studies,
                    crowd.size_bytes,
                    today,
                ),
            )
        return crowd

    def spend(self, asker: Asker, questions: int) -> None:
        """Count questions of somebody who may learn numbers alone.

        Raises:
            Forbidden: they were too many for today.
        """
        day = self._day()
        with self._writing() as db:
            db.execute("delete from asked where day < ?", (day,))
            asked: int = db.execute(SPEND, (day, asker.name, questions)).get
        if asked > self._questions_a_day:
            raise Forbidden(
                f"a viewer may ask {self._questions_a_day:,} questions a day; tomorrow again"
            )

    def _add_days(self) -> None:
        """A file of an earlier version has no days; what is in it counts as of today."""
        with self._writing() as db:
            if not db.execute("select 1 from pragma_table_info('crowd') where name = 'day'").get:
                db.execute("alter table crowd add column day text not null default ''")
                db.execute("update crowd set day = ?", (self._day(),))

    def _forget_old(self, db: apsw.Connection, today: str) -> None:
        """Once a day."""
        if today == self._tidied:
            return
        first = (date.fromisoformat(today) - timedelta(days=KEPT_DAYS)).isoformat()
        db.execute(FORGET, (first, self._most_crowds))
        self._tidied = today

    def _day(self) -> str:
        return datetime.fromtimestamp(self._now(), UTC).date().isoformat()

    def _writing(self) -> AbstractContextManager[apsw.Connection]:
        return transaction(self._db, self._lock, "what was answered")


def _nearest(db: apsw.Connection, crowd: Crowd, reach: float) -> tuple[int, float]:
    """The id of the crowd that this one is answered as, 0 for none, and how far what decides is."""
    ends = (crowd.patients - int(reach), crowd.patients + int(reach))
    found: Any = db.execute(NEAR, ends).fetchall()
    if not found:
        return 0, reach
    ids, patients, packed = zip(*found, strict=True)
    bits = np.frombuffer(b"".join(packed), "<i4").reshape(-1, BITS)
    apart = distances(crowd, np.array(patients), bits)
    closest = int(apart.argmin())
    if apart[closest] > SAME_PART * reach:
        closest = int((apart <= reach).argmax())
    return (ids[closest], float(apart[closest])) if apart[closest] <= reach else (0, reach)


def _packed(crowd: Crowd) -> bytes:
    return np.array(crowd.bits, "<i4").tobytes()


def _crowd(row: Sequence[object]) -> Crowd:
    patients, bits, series, studies, size_bytes = row
    assert isinstance(bits, bytes)
    return Crowd(
        patients=int(str(patients)),
        bits=tuple(np.frombuffer(bits, "<i4", BITS).tolist()),
        series=int(str(series)),
        studies=int(str(studies)),
        size_bytes=int(str(size_bytes)),
    )
