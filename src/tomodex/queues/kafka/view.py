"""What the log says, in a local SQLite file that answers every question about it.

The processes of a machine share one; each may bring it up to date, and it can be deleted at any
time. It has the tables of the SQLite queue, and a few columns more.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import apsw

from tomodex.annotation import AnnotatedSeries, from_json
from tomodex.queues import LANES, Cells, Erasure, Outcome, Part, Result, Task
from tomodex.queues import sqlite_statements as say
from tomodex.queues.kafka.changes import Changes, Strange, collect, watch
from tomodex.queues.kafka.intake import Intake
from tomodex.queues.kafka.records import Wanted
from tomodex.queues.kafka.view_statements import (
    IS_ASTRAY,
    LATE,
    LEFT,
    NEXT,
    NOT_DONE_HERE,
    PASS_ON,
    ROW,
    STUCK,
    TOO_LATE,
)
from tomodex.queues.sqlite import Verdict, read_series
from tomodex.queues.sqlite_file import named_errors, transaction

#: Part of the file's name: another one is read anew from the log.
VERSION = 2


class Row(NamedTuple):
    """A task as the view has it."""

    id: int
    series_uid: str
    configuration: str
    series: str
    source: str
    fingerprint: str
    lane: int
    status: str
    attempt: int
    token: int
    taken: int
    version: int
    share: int
    at: int


class View(Intake):
    """The tables; what writes to them on its own behalf only tries it out."""

    _trying = False
    _mine: frozenset[int] | None = None

    # Decisions are tried out

    @contextmanager
    def trying(self) -> Iterator[Changes]:
        """Do in here what is to be decided; afterwards all is as it was, and the changes known."""
        changes = Changes()
        with self._lock, named_errors(self._file):
            self._db.execute("begin immediate")
            self._trying = True
            try:
                watch(self._db)
                yield changes
                collect(self._db, changes, self._now_ms())
            finally:
                self._trying = False
                self._db.execute("rollback")

    @contextmanager
    def _writing(self) -> Iterator[apsw.Connection]:
        if not self._trying:
            raise AssertionError("the view is written by the log alone")
        yield self._db

    _writing_durably = _writing

    def _insert(self, db: apsw.Connection, part: Part, rows: Sequence[Cells]) -> None:
        # The log gives its own numbers, in the same order.
        renumbered = [(None, *row[1:]) for row in rows] if part in ("result", "audit") else rows
        if part == "erasure":  # every machine has time for it from now on
            renumbered = [(place, id, self._now_ms(), said) for place, id, _, said in rows]
        super()._insert(db, part, renumbered)
        if part == "result":
            self._name_patients(db, rows)

    def _name_patients(self, db: apsw.Connection, rows: Sequence[Cells]) -> None:
        """Of series that were ordered by their UIDs only the result says whose they are."""
        sql = """select exists (select 1 from task where series_uid = ?1 and configuration = ?2
                 and patient = '' and coalesce(series ->> '$.patient', '') = '')"""
        for _, uid, configuration, document, *_ in rows:
            if document is not None and db.execute(sql, (uid, configuration)).get:
                patient = from_json(zlib.decompress(document)).series.patient
                name = "update task set patient = ? where (series_uid, configuration) = (?, ?)"
                db.execute(name, (patient, uid, configuration))

    def unknown(self, rows: Sequence[Cells]) -> Iterator[Wanted]:
        """Markers for tombstones of series that nothing else is known of, within `trying`."""
        for _, uid, configuration, document, *_ in rows:
            if document is None and not self._is_known(uid):
                now = self._now_ms()
                yield Wanted(
                    series_uid=uid, configuration=configuration, version=now, void=now - 1,
                    gone=True,
                )  # fmt: skip

    def retract(self, series_uid: str, configuration: str) -> None:
        """Take a result out of the feed, within `trying`."""
        self._retract(self._db, series_uid, configuration)

    def say_anew(self, series_uid: str, configuration: str) -> None:
        """Have a tombstone after a document that does not stand, or what stands beside it."""
        pair = (series_uid, configuration)
        sql = """select configuration, document, listed from result
                 where series_uid = ? and configuration <> ? and document is not null
                 order by sequence desc limit 1"""
        others: list[tuple[Any, ...]] = self._db.execute(sql, pair).fetchall()
        sql = "delete from result where (series_uid, configuration) = (?, ?)"
        self._db.execute(sql, pair)
        self._db.execute("insert or ignore into temp.unsaid values (?, ?)", pair)
        self._publish(self._db, series_uid, *(others[0] if others else (configuration, None)))

    def amend(self, result: Result, annotated: AnnotatedSeries) -> bool:
        # A worker that has the series brings a newer result, which this must not come after.
        if any(state.status == "in-progress" for state in self.states(result.series_uid)):
            return False
        return super().amend(result, annotated)

    def bury_at_once(self, worker: str) -> int:
        """The same as `bury`, and what was held is ready; within `trying`."""
        buried = self.bury(worker)
        facts = {"now": self._now_ms(), "sweep": -1, "attempts": self._options.attempts}
        self._db.execute(say.TAKE_BACK, facts).fetchall()
        return buried

    # Workers ask

    def next_task(
        self,
        partitions: frozenset[int],
        held: Collection[int],
        avoiding: Collection[str],
        least_urgent: bool,
    ) -> Row | None:
        """The task of these partitions that is next; `held` are ids of those that we hold."""
        now = self._now_ms()
        facts: dict[str, Any] = {"now": now, "avoiding": json.dumps(list(avoiding))}
        facts["turns"] = self._turns(least_urgent)
        with self._lock, named_errors(self._file):
            self._remember(partitions)
            left = self._db.execute(LEFT, {**facts, "held": json.dumps(list(held))}).get
            if left is None:
                self._wake(now)
                left = self._db.execute(NEXT, facts).get
            return None if left is None else self._found("id = ?", (left,))

    def _remember(self, partitions: frozenset[int]) -> None:
        if partitions != self._mine:
            sql = "create table if not exists temp.mine (partition integer primary key)"
            self._db.execute(sql)
            self._db.execute("delete from temp.mine")
            rows = [(partition,) for partition in partitions]
            self._db.executemany("insert into temp.mine values (?)", rows)
            self._mine = partitions

    def _wake(self, now: int) -> None:
        """Have those found whose wait is over; every view comes to that by itself."""
        sql = """select exists (select 1 from task indexed by task_due
                 where status = 'ready' and due_ms > 0 and due_ms <= ?)"""
        if self._db.execute(sql, (now,)).get:
            with transaction(self._db):
                self._db.execute(say.WAKE, {"now": now, "sweep": -1})

    def verdict(self, task: Task, outcome: Outcome) -> Verdict:
        """What the task's row is to say of an outcome."""
        return self._verdict(task, outcome)

    def row(self, series_uid: str, configuration: str) -> Row | None:
        """What stands of a task."""
        with self._lock, named_errors(self._file):
            return self._found("(series_uid, configuration) = (?, ?)", (series_uid, configuration))

    def _found(self, which: str, facts: Sequence[object]) -> Row | None:
        rows: list[tuple[Any, ...]] = self._db.execute(f"{ROW} where {which}", facts).fetchall()
        return Row(*rows[0]) if rows else None

    def undone(self, share: int, but: int = -1) -> int:
        """Offset of the first ticket in a partition whose task is not done, one left out."""
        sql = """select coalesce(
                     (select min(at) from task indexed by task_share
                      where share = ?1 and status in ('ready', 'in-progress') and id <> ?2),
                     (select next from ticket where share = ?1), 0)"""
        ((offset,),) = self._read(sql, (share, but))
        return int(offset)

    def standing(self, after: int, limit: int) -> Sequence[tuple[int, str, bool]]:
        """Entries of the feed as (sequence, series, whether it is no tombstone)."""
        sql = """select sequence, series_uid, document is not null from result
                 where sequence > ? order by sequence limit ?"""
        return [(int(n), str(uid), bool(doc)) for n, uid, doc in self._read(sql, (after, limit))]

    def last_word(self, series_uid: str) -> tuple[int, bool] | None:
        """Sequence of the feed's last entry of a series, and whether it is no tombstone."""
        sql = """select sequence, document is not null from result where series_uid = ?
                 order by sequence desc limit 1"""
        rows = self._read(sql, (series_uid,))
        return (int(rows[0][0]), bool(rows[0][1])) if rows else None

    def of_patient(self, patient: str) -> Sequence[str]:
        told = self._read(say.OF_PATIENT, (patient,))
        found = self._read("select distinct series_uid from task where patient = ?", (patient,))
        return list(dict.fromkeys(str(uid) for (uid,) in [*told, *found]))

    def leaves(self, sources: Collection[str]) -> Sequence[str]:
        """Those of these sources of which anything waits or is late."""
        sql = """select url from source where url in (select value from json_each(?))
                 and exists (select 1 from tally where tally.source_id = source.id
                             and tally.status in ('ready', 'in-progress') and tally.tasks > 0)"""
        return [str(url) for (url,) in self._read(sql, (json.dumps(list(sources)),))]

    def stuck(self, source: str, partitions: Collection[int], limit: int) -> Sequence[int]:
        """Tasks of a source in these partitions that wait, or whose lease is over; by their ids."""
        facts = {"source": source, "now": self._now_ms(), "limit": limit,
                 "partitions": json.dumps(list(partitions))}  # fmt: skip
        found = self._read(LATE, facts)
        for lane in range(len(LANES)):
            found += self._read(STUCK, {**facts, "lane": lane, "limit": limit - len(found)})
        return [int(number) for (number,) in found]

    def pass_on(self, ids: Sequence[int]) -> int:
        """Decide these anew, so that they get other tickets; within `trying`."""
        facts = {"ids": json.dumps(list(ids)), "attempts": self._options.attempts}
        return self._change(PASS_ON, facts)

    def traces(self, series_uid: str) -> Sequence[tuple[str, int, int]]:
        """Configurations that anything is known of, with the share and offset of the ticket."""
        sql = """select configuration, share, at from task where series_uid = ?1
                 union all select configuration, -1, -1 from marker where series_uid = ?1
                 union all select configuration, -1, -1 from result where series_uid = ?1"""
        return [(str(c), int(s), int(at)) for c, s, at in self._read(sql, (series_uid,))]

    def overwrite(self) -> None:
        """Nothing of what was deleted is left in the journal either."""
        self._read("pragma wal_checkpoint(truncate)", ())

    # What is to be mended

    def is_astray(self) -> bool:
        """Whether the topics have something that they should not, see `mending`."""
        ((found,),) = self._read(IS_ASTRAY, ())
        return bool(found)

    def strays(self, most: int) -> Sequence[tuple[str, str]]:
        """Series and configuration of documents that do not stand, and that are read as if."""
        rows = self._read("select series_uid, configuration from stray limit ?", (most,))
        return [(str(uid), str(name)) for uid, name in rows]

    def late(self, most: int) -> Sequence[tuple[str, str, str]]:
        """What was said of series after they were forgotten: kind, series and configuration."""
        rows = self._read(TOO_LATE, {"most": most})
        return [(str(kind), str(uid), str(name)) for kind, uid, name in rows]

    def strange(self, most: int) -> Sequence[Strange]:
        """Messages of the log that are no records, the first ones first."""
        rows = self._read("select at, reason, key from strange order by at limit ?", (most,))
        return [Strange(*row) for row in rows]

    def erasures(self) -> Sequence[Erasure]:
        rows = self._read(NOT_DONE_HERE, ())
        return [Erasure(id=str(number), request=str(request)) for number, request in rows]

    def over(self, kept_s: float) -> Sequence[str]:
        """Erasures that began so long ago that every machine had time for them."""
        sql = "select id from erasure where begun_ms < ?"
        return [str(id) for (id,) in self._read(sql, (self._now_ms() - round(kept_s * 1000),))]

    def remember_done(self, erasure: Erasure) -> None:
        """This data folder is done with an erasure; whoever makes the view anew does it again."""
        with self._lock, named_errors(self._file), transaction(self._db):
            self._db.execute("insert or ignore into done_here values (?)", (erasure.id,))

    def consumers_without(self, series_uid: str) -> Sequence[str]:
        """Who could not take a series."""
        rows = self._read("select consumer from aside where series_uid = ?", (series_uid,))
        return [str(name) for (name,) in rows]


def task_of(row: Row) -> Task:
    """The task as a worker gets it."""
    return Task(
        id=row.id,
        series=read_series(row.series),
        source=row.source,
        configuration=row.configuration,
        lane=LANES[row.lane],
        attempt=row.attempt,
        token=row.token,
    )
