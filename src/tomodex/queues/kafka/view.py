"""What the log says, in a local SQLite file that answers every question about it.

The processes of a machine share one; each may bring it up to date, and it can be deleted at any
time. It has the tables of the SQLite queue, and a few columns more.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import apsw

from tomodex.annotation import AnnotatedSeries
from tomodex.queues import Erasure, Outcome, Result, Task
from tomodex.queues import sqlite_statements as say
from tomodex.queues.kafka.changes import Changes, collect, watch
from tomodex.queues.kafka.cluster import QueueOptions
from tomodex.queues.kafka.records import (
    Audit,
    Barred,
    Begun,
    Elsewhere,
    Held,
    NewestFirst,
    Nothing,
    Record,
    SetAside,
    Standing,
    Wanted,
    Work,
    key_of,
    parse,
    value_of,
)
from tomodex.queues.kafka.view_statements import (
    LATE,
    LEAST_URGENT,
    LEFT,
    MORE,
    MOST_URGENT,
    NEW_VERSION,
    NOT_DONE_HERE,
    PASS_ON,
    PLACE,
    REACHED,
    RESULT,
    ROW,
    SAME_VERSION,
    STUCK,
    WORK,
)
from tomodex.queues.sqlite import LANES, SqliteQueue, Verdict, read_series
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


class View(SqliteQueue):
    """The tables; what writes to them on its own behalf only tries it out.

    Args:
        file: where they are; None: in memory, for this process alone.
    """

    def __init__(
        self,
        file: Path | None,
        options: QueueOptions,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        asked = {name: getattr(options, name) for name in ("attempts", "retry_s", "fair", "busy_s")}
        query = "&".join(f"{name}={value}" for name, value in asked.items())
        place = f"//{quote(str(file))}" if file else ""
        super().__init__(f"sqlite:{place}?{query}", now=now)
        self._trying = False
        self._mine: frozenset[int] | None = None
        with self._lock, named_errors(self._file), transaction(self._db):
            self._db.pragma("secure_delete", "on")
            if not self._db.execute("select 1 from sqlite_schema where name = 'place'").get:
                self._db.execute(MORE)

    # The log comes in

    def next_offset(self) -> int:
        """Up to where the log was read."""
        ((offset,),) = self._read("select next from place", ())
        return int(offset)

    def name(self) -> str:
        """What no other view is called."""
        ((name,),) = self._read("select name from place", ())
        return str(name)

    def apply(self, messages: Iterable[tuple[int, bytes | None, bytes | None]], end: int) -> int:
        """Take in messages as (offset, key, value), and remember that all before `end` was read.

        What another process took in already is passed over. Returns how many were no records.
        """
        strange = 0
        with self._lock, named_errors(self._file), transaction(self._db):
            done = self.next_offset()
            for offset, key, value in messages:
                if offset >= done:
                    strange += not self._take(key, value)
            self._db.execute("update place set next = max(next, ?)", (end,))
        return strange

    def _take(self, key: bytes | None, value: bytes | None) -> bool:
        try:
            self._learn(parse(key, value))
        except ValueError:
            return False
        return True

    def _learn(self, record: Record | Nothing) -> None:
        match record:
            case Wanted():
                self._want(record)
            case Work():
                self._work(record)
            case Standing():
                self._stand(record)
            case Nothing():
                self._drop(record)
            case _:
                self._note(record)

    def _want(self, wanted: Wanted) -> None:
        facts = self._facts(wanted)
        known = self._version_of(wanted.series_uid, wanted.configuration)
        if wanted.gone:
            uid = (wanted.series_uid, wanted.configuration)
            self._db.execute("delete from task where (series_uid, configuration) = (?, ?)", uid)
            sql = "insert or replace into marker values (?, ?, ?, ?)"
            self._db.execute(sql, (*uid, wanted.version, wanted.void))
        else:
            facts["source_id"] = self._source_id(self._db, wanted.source)
            same = known is not None and known[0] == wanted.version
            self._db.execute(SAME_VERSION if same else NEW_VERSION, facts)
            sql = "delete from marker where (series_uid, configuration) = (?, ?)"
            self._db.execute(sql, (wanted.series_uid, wanted.configuration))
            if wanted.at >= 0:
                self._db.execute(REACHED, facts)
        self._void(wanted)
        self._catch_up_with(wanted)

    def _void(self, wanted: Wanted) -> None:
        """What was made of a version that is void by now is a tombstone."""
        sql = """update result set document = null
                 where (series_uid, configuration) = (:series_uid, :configuration)
                 and document is not null and version <= :void"""
        self._db.execute(sql, self._facts(wanted))

    def _catch_up_with(self, wanted: Wanted) -> None:
        """Take in what was said of this before it was there, in the order of the log."""
        sql = """delete from early where series_uid = :series_uid
                 and (kind = 'result' or configuration = :configuration)
                 returning rowid, key, value"""
        waited: list[tuple[Any, ...]] = self._db.execute(sql, self._facts(wanted)).fetchall()
        for _, key, value in sorted(waited):
            self._take(key, value)

    def _work(self, work: Work) -> None:
        known = self._version_of(work.series_uid, work.configuration)
        if known is None or known[0] < work.version:
            self._put_by(work)
        elif known[0] == work.version:
            facts = self._facts(work)
            self._db.execute(WORK, facts)
            self._db.execute(REACHED, facts)

    def _stand(self, standing: Standing) -> None:
        uid, configuration = standing.series_uid, standing.configuration
        if not self._is_known(uid):
            self._put_by(standing)
            return
        known = self._version_of(uid, configuration)
        stands = standing.document and standing.version > (known[1] if known else 0)
        old = "delete from result where series_uid = ? and (configuration = ? or document is null)"
        self._db.execute(old, (uid, configuration))
        self._db.execute("delete from aside where series_uid = ?", (uid,))
        document = PLACE % standing.sequence if stands else None
        self._db.execute(RESULT, {**self._facts(standing), "document": document})

    def _put_by(self, record: Work | Standing) -> None:
        pair = (record.series_uid, record.configuration)
        facts = (key_of(record), value_of(record), record.kind, *pair)
        self._db.execute("insert or replace into early values (?, ?, ?, ?, ?)", facts)

    def _version_of(self, series_uid: str, configuration: str) -> tuple[int, int] | None:
        """Version, and up to which one results are void."""
        sql = """select version, void from task where (series_uid, configuration) = (?1, ?2)
                 union all
                 select version, void from marker where (series_uid, configuration) = (?1, ?2)"""
        facts = (series_uid, configuration)
        rows: list[tuple[Any, ...]] = self._db.execute(sql, facts).fetchall()
        return (rows[0][0], rows[0][1]) if rows else None

    def _is_known(self, series_uid: str) -> bool:
        sql = """select exists (select 1 from task where series_uid = ?1)
                 or exists (select 1 from marker where series_uid = ?1)"""
        return bool(self._db.execute(sql, (series_uid,)).get)

    def _drop(self, gone: Nothing) -> None:
        self._db.execute("delete from early where key = ?", (gone.key,))
        match gone.kind, gone.parts:
            case "task", pair:
                for table in ("task", "marker", "result"):
                    sql = f"delete from {table} where (series_uid, configuration) = (?, ?)"
                    self._db.execute(sql, pair)
            case "result", pair:
                sql = "delete from result where (series_uid, configuration) = (?, ?)"
                self._db.execute(sql, pair)
            case "elsewhere", uid:
                self._db.execute("delete from elsewhere where series_uid = ?", uid)
            case "barred", mark:
                self._db.execute("delete from barred where mark = ?", mark)
            case "erasure", number:
                self._db.execute("delete from erasure where id = ?", number)
                self._db.execute("delete from done_here where id = ?", number)
            case "aside", pair:
                self._db.execute("delete from aside where (consumer, series_uid) = (?, ?)", pair)
            case ("held" | "newest") as kind, (lane, source):
                table = "held" if kind == "held" else "newest_first"
                pair_of = (LANES.index(_lane(lane)), self._source_id(self._db, source))
                sql = f"delete from {table} where (lane, source_id) = (?, ?)"
                self._db.execute(sql, pair_of)

    def _note(self, record: Record) -> None:
        match record:
            case Elsewhere(series_uid=uid, sources=sources):
                self._db.execute("delete from elsewhere where series_uid = ?", (uid,))
                rows = [(uid, self._source_id(self._db, url)) for url in sources]
                self._db.executemany("insert into elsewhere values (?, ?)", rows)
            case Held(lane=lane, source=source) | NewestFirst(lane=lane, source=source):
                table = "held" if isinstance(record, Held) else "newest_first"
                pair = (LANES.index(_lane(lane)), self._source_id(self._db, source))
                self._db.execute(f"insert or ignore into {table} values (?, ?)", pair)
            case Audit():
                sql = """insert into audit (at_ms, event, series_uid, source, sentence)
                         values (:at_ms, :event, :series_uid, :source, :sentence)"""
                self._db.execute(sql, self._facts(record))
            case Barred():
                sql = "insert or replace into barred values (:mark, :why)"
                self._db.execute(sql, self._facts(record))
            case Begun():
                sql = "insert or replace into erasure values (:id, :begun_ms, :request)"
                self._db.execute(sql, self._facts(record))
            case SetAside():
                # Only while it stands, as in the SQLite queue.
                sql = """insert or replace into aside (series_uid, consumer, sequence, sentence)
                         select series_uid, :consumer, sequence, :sentence from result
                         where sequence = :sequence"""
                self._db.execute(sql, self._facts(record))

    @staticmethod
    def _facts(record: Record) -> dict[str, Any]:
        return {name: getattr(record, name) for name in record.__slots__}

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

    def retract(self, series_uid: str, configuration: str) -> None:
        """Take a result out of the feed, within `trying`."""
        self._retract(self._db, series_uid, configuration)

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
        with self._lock, named_errors(self._file):
            self._remember(partitions)
            left = self._db.execute(LEFT, {**facts, "held": json.dumps(list(held))}).get
            if left is None:
                self._wake(now)
                left = self._db.execute(LEAST_URGENT if least_urgent else MOST_URGENT, facts).get
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

    def erasures(self) -> Sequence[Erasure]:
        rows = self._read(NOT_DONE_HERE, ())
        return [Erasure(id=str(number), request=str(request)) for number, request in rows]

    def is_over(self, erasure: Erasure, kept_s: float) -> bool:
        """Whether an erasure began so long ago that every machine had time for it."""
        sql = "select 1 from erasure where id = ? and begun_ms < ?"
        return bool(self._read(sql, (erasure.id, self._now_ms() - round(kept_s * 1000))))

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


def _lane(name: str) -> Any:
    if name not in LANES:
        raise ValueError(f"no lane {name}")
    return name
