"""The queue in one SQLite file: tasks, results and who has read them, with no server to run.

Any number of processes on one machine may use the file at once; each opens its own `SqliteQueue`,
after a fork, not before. What the columns mean and what is promised: docs/reference/queue.md.
"""

from __future__ import annotations

import json
import logging
import random
import re
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime, timedelta
from functools import cache
from math import inf
from pathlib import Path
from threading import Lock, RLock
from typing import TYPE_CHECKING, Any, NamedTuple, get_args
from urllib.parse import parse_qsl, urlsplit

import apsw

from tomodex.annotation import AnnotatedSeries, from_json, to_json
from tomodex.errors import Misconfigured, Unavailable
from tomodex.probe import Probe
from tomodex.queues import (
    LANES,
    Aside,
    Audited,
    Failed,
    Lane,
    NewTask,
    Order,
    Outcome,
    Rejected,
    Result,
    Retry,
    Status,
    Task,
    TaskState,
    read_lanes,
)
from tomodex.queues import sqlite_statements as say
from tomodex.queues.sqlite_barred import Barred
from tomodex.queues.sqlite_file import lock_file, named_errors, open_file, probe_file, transaction
from tomodex.queues.sqlite_portions import Portions
from tomodex.registry import path_of
from tomodex.series import Series
from tomodex.sources import Window

# It would cost the start of every command some 0.1 s; it is imported when first needed.
if TYPE_CHECKING:
    from pydantic import TypeAdapter

log = logging.getLogger(__name__)

STATUSES: tuple[Status, ...] = get_args(Status)

#: Tasks whose wait or lease is over are put back this many at a time, to keep a lease short.
SWEEP = 100

#: Known series that are read at a time.
PAGE = 10_000

#: Results that are read at a time to see whose they are: some 10 MB of them in memory.
PAGE_OF_RESULTS = 500

#: No task waits longer than this before it is tried again.
LONGEST_RETRY_S = 3600.0

#: SQLite counts these milliseconds in 32 bits.
LONGEST_BUSY_S = 86400.0

#: A study without a date comes after those that have one.
NO_DATE = "9999-12-31"
DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a queue's URL may set after its `?`."""

    attempts: int = 5  #: a task that was leased this often without an answer is failed
    retry_s: float = 30.0  #: first wait after Unavailable; each further one is twice as long
    fair: int = 10  #: every so many-th lease takes the least urgent lane; 0 is never
    lanes: tuple[Lane, ...] = LANES  #: most urgent first
    busy_s: float = 60.0  #: how long to wait for other processes


class _Row(NamedTuple):
    """A new task on its way into the file."""

    facts: dict[str, str | int]  #: by column
    source: str
    listed: bytes | None  #: what the feed shows of it at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How a task's row looks once its outcome is stored."""

    status: Status
    reason: str = ""
    sentence: str = ""
    due_ms: int = 0
    settled_ms: int


class SqliteQueue(Barred, Portions):
    """`sqlite:///var/lib/tomodex/tomodex.db`, or `sqlite:` for one that lives in memory.

    Args:
        url: names the file; `?attempts=5&retry_s=30&fair=10&busy_s=60` are the defaults; and
            `lanes=on-demand,daily,reindex,backfill`, most urgent first.
        state: not needed; all is in that file.
        now: seconds since 1970; a test's own clock.
        jitter: from 0 to 1, so that tasks do not all come back at once.

    Raises:
        Misconfigured: SQLite is too old, the file is not ours, damaged or newer than we are.
    """

    def __init__(
        self,
        url: str,
        state: Path | None = None,
        *,
        now: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        super().__init__()
        self._file = _file_of(url)
        self._options = _options_of(url)
        self._now = now
        self._jitter = jitter
        self._lock = RLock()  # an apsw connection serves one thread at a time
        self._claims: defaultdict[str, Lock] = defaultdict(Lock)
        self._db = open_file(self._file, self._options.busy_s)

    # Tasks come in

    def put(self, tasks: Iterable[NewTask]) -> int:
        # All of it first: a slow source must not hold up everybody else's transactions.
        rows = [self._row(task) for task in tasks]
        with self._writing_durably() as db:
            sources: dict[str, int] = {}
            return sum(self._put(db, row, sources) for row in rows)

    def _row(self, task: NewTask) -> _Row:
        date = task.series.attributes.get("StudyDate", "")
        facts: dict[str, str | int] = {
            "series_uid": task.series.series_uid,
            "configuration": task.configuration,
            "fingerprint": task.series.fingerprint,
            "series": _series_json(task.series),
            "lane": LANES.index(task.lane),
            "study_date": date if isinstance(date, str) and DATE.fullmatch(date) else NO_DATE,
            "status": "rejected" if task.reason else "ready",
            "reason": task.reason,
            "sentence": task.sentence,
            "now": self._now_ms(),
        }
        listed = pack(to_json(task.listed)) if task.listed and not task.reason else None
        return _Row(facts, task.source, listed)

    def _put(self, db: apsw.Connection, row: _Row, sources: dict[str, int]) -> bool:
        if row.source not in sources:
            sources[row.source] = self._source_id(db, row.source)
        facts = row.facts
        facts["source_id"] = sources[row.source]
        facts["turns"] = self._turns(least_urgent_first=False)
        if db.execute(say.SOURCE_OF, facts).get not in (None, facts["source_id"]):
            db.execute(say.ELSEWHERE, facts)
        db.execute(say.ADOPT, facts)
        db.execute(say.PUT, facts)
        if not db.changes():
            db.execute(say.MOVE_UP, facts)
            return False
        uid, configuration = str(facts["series_uid"]), str(facts["configuration"])
        if facts["status"] == "rejected":
            self._retract(db, uid, configuration)
        elif row.listed is not None and not db.execute(say.STANDS, facts).get:
            self._publish(db, uid, configuration, row.listed, listed=1)
        return True

    def _source_id(self, db: apsw.Connection, url: str) -> int:
        """The number of a source, given on first use."""
        db.execute("insert or ignore into source (url) values (?)", (url,))
        number: int = db.execute("select id from source where url = ?", (url,)).get
        return number

    def withdraw(self, series_uid: str, source: str = "", sentence: str = "") -> bool:
        with self._writing_durably() as db:
            if source and self._is_elsewhere(db, series_uid, source):
                self._write_audit(db, "kept", series_uid, source, sentence)
                return False
            db.execute("delete from task where series_uid = ?", (series_uid,))
            waited = db.changes() > 0
            db.execute("delete from elsewhere where series_uid = ?", (series_uid,))
            sql = "delete from result where series_uid = ? and document is not null"
            db.execute(sql, (series_uid,))
            indexed = db.changes() > 0
            if indexed:
                self._publish(db, series_uid, "", None)
            if waited or indexed:
                self._write_audit(db, "withdrawn", series_uid, source, sentence)
        return waited or indexed

    def _is_elsewhere(self, db: apsw.Connection, series_uid: str, source: str) -> bool:
        """Leave a series to another source that has it too; False if there is none."""
        facts = {"series_uid": series_uid, "source_id": self._source_id(db, source)}
        db.execute(say.NOT_THERE, facts)
        other = db.execute(say.OTHER_SOURCE, facts).get
        if other is None:
            return False
        db.execute(say.LEAVE_TO, {**facts, "other": other})
        return True

    def of_patient(self, patient: str) -> Sequence[str]:
        found = dict.fromkeys(str(uid) for (uid,) in self._read(say.OF_PATIENT, (patient,)))
        # Of a series that was ordered by its UIDs only its result says whose it is.
        facts = {"after": 0, "page": PAGE_OF_RESULTS}
        while rows := self._read(say.OF_NOBODY, facts):
            for _, uid, document in rows:
                annotated = _result(0, uid, document).annotated
                if annotated and annotated.series.patient == patient:
                    found[str(uid)] = None
            facts["after"] = rows[-1][0]
        return list(found)

    def exclude(self, series_uid: str, reason: str, sentence: str) -> bool:
        facts = {"uid": series_uid, "reason": reason, "sentence": sentence, "now": self._now_ms()}
        with self._writing_durably() as db:
            db.execute(say.EXCLUDE, facts)
            if not db.changes():
                return False
            sql = "delete from result where series_uid = ? and document is not null"
            db.execute(sql, (series_uid,))
            if db.changes():
                self._publish(db, series_uid, "", None)
        return True

    def forget(self, series_uids: Sequence[str]) -> None:
        with self._writing_durably() as db:
            # What is deleted is overwritten, here and, once others let go of it, in the journal.
            db.pragma("secure_delete", "on")
            for table in ("task", "elsewhere", "result", "aside"):
                sql = f"delete from {table} where series_uid = ?"
                db.executemany(sql, [(uid,) for uid in series_uids])
        self._read("pragma wal_checkpoint(truncate)", ())

    def known(self, source: str, window: Window | None = None) -> Iterator[str]:
        first = window.first.isoformat() if window else ""
        last = window.last.isoformat() if window else NO_DATE
        (number,) = self._read("select (select id from source where url = ?)", (source,))[0]
        facts = {"source_id": number, "date": first, "id": 0, "last": last, "page": PAGE}
        for (series_uid,) in self._read(say.KNOWN_ELSEWHERE, facts):
            yield str(series_uid)
        while rows := self._read(say.KNOWN, facts):
            yield from (str(series_uid) for _, _, series_uid in rows)
            facts |= {"date": rows[-1][0], "id": rows[-1][1]}

    def hold(self, lane: Lane, source: str) -> None:
        with self._writing_durably() as db:
            pair = (LANES.index(lane), self._source_id(db, source))
            db.execute("insert or ignore into held values (?, ?)", pair)

    def release(self, lane: Lane, source: str) -> None:
        sql = """delete from held
                 where lane = ? and source_id = (select id from source where url = ?)"""
        with self._writing_durably() as db:
            db.execute(sql, (LANES.index(lane), source))

    def held(self) -> Sequence[tuple[Lane, str]]:
        sql = "select lane, url from held join source on source.id = source_id order by lane, url"
        return [(LANES[lane], str(url)) for lane, url in self._read(sql, ())]

    def order(self, lane: Lane, source: str, order: Order) -> None:
        with self._writing_durably() as db:
            pair = (LANES.index(lane), self._source_id(db, source))
            if order == "newest first":
                db.execute("insert or ignore into newest_first values (?, ?)", pair)
            else:
                db.execute("delete from newest_first where lane = ? and source_id = ?", pair)

    # Workers take them

    def is_due(self, avoiding: Collection[str] = ()) -> bool:
        facts = {"now": self._now_ms(), "avoiding": json.dumps(list(avoiding))}
        ((waiting, overdue),) = self._read(say.WAITING, facts)
        return bool(waiting or overdue)

    def lease(self, worker: str, lease: timedelta, avoiding: Collection[str] = ()) -> Task | None:
        now = self._now_ms()
        facts = {"now": now, "avoiding": json.dumps(list(avoiding))}
        # Looked up without the write lock: idle workers do not hold up busy ones.
        ((waiting, overdue),) = self._read(say.WAITING, facts)
        if not (waiting or overdue):
            return None
        _series_adapter()  # takes 0.1 s once: not between taking a task and having it
        with self._writing() as db:
            if overdue:
                self._sweep(db, now)
            token: int = db.execute(say.COUNT_LEASE).get
            facts["turns"] = self._turns(self._takes_least(token))
            number = db.execute(say.NEXT, facts).get
            if number is None:
                return None
            taken = {"id": number, "token": token, "worker": worker, "until": now + _ms(lease)}
            (row,) = db.execute(say.TAKE, {**taken, "now": now}).fetchall()
        return _task(row)

    def _sweep(self, db: apsw.Connection, now: int) -> None:
        """Make ready what has waited long enough or was held too long; give up some of it."""
        facts = {"now": now, "sweep": SWEEP, "attempts": self._options.attempts}
        db.execute(say.WAKE, facts)
        back = db.execute(say.TAKE_BACK, facts)
        for series_uid, configuration, status, attempt, reason in back:
            if status == "failed":
                extra = {"series_uid": series_uid, "configuration": configuration}
                log.error("failed", extra={**extra, "attempt": attempt, "reason": reason})

    def _takes_least(self, lease_number: int) -> bool:
        """Whether it is the turn of the least urgent lane."""
        fair = self._options.fair
        return bool(fair) and lease_number % fair == 0

    def _turns(self, least_urgent_first: bool) -> str:
        """The lanes in the order in which they are looked at, as the statements have it."""
        lanes = [LANES.index(lane) for lane in self._options.lanes]
        return json.dumps(lanes[::-1] if least_urgent_first else lanes)

    def extend(self, task: Task, lease: timedelta) -> bool:
        until = self._now_ms() + _ms(lease)
        return self._change(say.EXTEND, {"id": task.id, "token": task.token, "until": until}) > 0

    def settle(self, task: Task, outcome: Outcome) -> bool:
        # Whatever takes long is done before the transaction.
        verdict = self._verdict(task, outcome)
        document = pack(to_json(outcome)) if isinstance(outcome, AnnotatedSeries) else None
        uid = task.series.series_uid
        with self._writing() as db:
            db.execute(say.SETTLE, {"id": task.id, "token": task.token, **asdict(verdict)})
            if not db.changes():
                return False
            if isinstance(outcome, AnnotatedSeries) and document is not None:
                counted = {"id": task.id, "instances": outcome.series.instance_count}
                db.execute(say.COUNTED, counted)
                self._publish(db, uid, task.configuration, document)
            elif verdict.status == "rejected":
                self._retract(db, uid, task.configuration)
        return True

    def _verdict(self, task: Task, outcome: Outcome) -> Verdict:
        now = self._now_ms()
        match outcome:
            case Rejected(reason=why, sentence=sentence):
                return Verdict(status="rejected", reason=why, sentence=sentence, settled_ms=now)
            case Failed(reason=why, sentence=sentence):
                return Verdict(status="failed", reason=why, sentence=sentence, settled_ms=now)
            case Retry(reason=why, sentence=text) if task.attempt >= self._options.attempts:
                return Verdict(status="failed", reason=why, sentence=text, settled_ms=now)
            case Retry(sentence=text):
                due = now + self._wait_ms(task.attempt)
                return Verdict(status="ready", sentence=text, due_ms=due, settled_ms=now)
        return Verdict(status="completed", settled_ms=now)

    def _wait_ms(self, attempt: int) -> int:
        doubled_s = self._options.retry_s * 2.0 ** min(attempt - 1, 30)
        return round(min(doubled_s, LONGEST_RETRY_S) * 1000 * (0.5 + self._jitter() / 2))

    def give_back(self, task: Task) -> bool:
        row = {"id": task.id, "token": task.token, "now": self._now_ms()}
        return self._change(say.GIVE_BACK, row) > 0

    def holders(self) -> Sequence[str]:
        return [str(worker) for (worker,) in self._read(say.HOLDERS, {})]

    def bury(self, worker: str) -> int:
        return self._change(say.BURY, {"worker": worker, "now": self._now_ms()})

    def retry(self, status: Status = "failed", reason: str = "") -> int:
        return self._change(say.RETRY, {"status": status, "reason": reason, "now": self._now_ms()})

    def renew(self, series_uids: Sequence[str], lane: Lane = "reindex") -> int:
        facts = {"uids": json.dumps(list(series_uids)), "lane": LANES.index(lane)}
        return self._change(say.RENEW, {**facts, "now": self._now_ms()})

    # The results feed

    def amend(self, result: Result, annotated: AnnotatedSeries) -> bool:
        document = pack(to_json(annotated))
        with self._writing() as db:
            rows: list[tuple[Any, ...]] = db.execute(
                say.FROM_ON, {"sequence": result.sequence}
            ).fetchall()
            if not rows or rows[0][0] != result.sequence:
                return False
            (_, configuration, _, listed), *later = rows
            self._publish(db, result.series_uid, configuration, document, listed)
            # The last word on a series stays with whom it was.
            for _, configuration, kept, listed in later:
                self._publish(db, result.series_uid, configuration, kept, listed)
        return True

    def _publish(
        self,
        db: apsw.Connection,
        series_uid: str,
        configuration: str,
        document: bytes | None,
        listed: int = 0,
    ) -> None:
        """Make this the feed's last word on the series; None is a tombstone."""
        old = "delete from result where series_uid = ? and (configuration = ? or document is null)"
        db.execute(old, (series_uid, configuration))
        db.execute("delete from aside where series_uid = ?", (series_uid,))
        new = """insert into result (series_uid, configuration, document, listed, settled_ms)
                 values (?,?,?,?,?)"""
        db.execute(new, (series_uid, configuration, document, listed, self._now_ms()))

    def _retract(self, db: apsw.Connection, series_uid: str, configuration: str) -> None:
        """Take a result out of the feed, so that another configuration's or a tombstone stands."""
        sql = (
            "delete from result where series_uid = ? and configuration = ? and document is not null"
        )
        db.execute(sql, (series_uid, configuration))
        if not db.changes():
            return
        other = """select configuration, document, listed from result where series_uid = ?
                   order by sequence desc limit 1"""
        rows: list[tuple[Any, ...]] = db.execute(other, (series_uid,)).fetchall()
        self._publish(db, series_uid, *(rows[0] if rows else (configuration, None)))

    def results(self, after: int, limit: int) -> Sequence[Result]:
        sql = """select sequence, series_uid, document from result where sequence > ?
                 order by sequence limit ?"""
        return [_result(*row) for row in self._read(sql, (after, limit))]

    def newest(self) -> int:
        ((sequence,),) = self._read("select coalesce(max(sequence), 0) from result", ())
        return int(sequence)

    def result(self, series_uid: str) -> Result | None:
        sql = """select sequence, series_uid, document from result where series_uid = ?
                 order by sequence desc limit 1"""
        rows = self._read(sql, (series_uid,))
        return _result(*rows[0]) if rows else None

    def cursor(self, consumer: str) -> int:
        rows = self._read("select sequence from consumer where name = ?", (consumer,))
        return rows[0][0] if rows else 0

    def confirm(self, consumer: str, sequence: int) -> None:
        sql = """insert into consumer (name, sequence) values (?, ?)
                 on conflict (name) do update set sequence = excluded.sequence"""
        self._change(sql, (consumer, sequence))

    def claim(self, consumer: str) -> AbstractContextManager[None]:
        if not self._file:
            return self._claim_here(consumer)
        return lock_file(self._file, consumer, self._options.busy_s)

    @contextmanager
    def _claim_here(self, consumer: str) -> Iterator[None]:
        """A claim among the threads of this process; nobody else can see a queue in memory."""
        if not self._claims[consumer].acquire(timeout=self._options.busy_s):
            raise Unavailable(f"another thread is delivering to {consumer}")
        try:
            yield
        finally:
            self._claims[consumer].release()

    def set_aside(self, consumer: str, result: Result, sentence: str) -> None:
        # Only while it stands: a worker may have replaced it since it was read.
        sql = """insert or replace into aside (series_uid, consumer, sequence, sentence)
                 select series_uid, ?, sequence, ? from result where sequence = ?"""
        self._change(sql, (consumer, sentence, result.sequence))

    def asides(self, consumer: str, limit: int = 100) -> Sequence[Aside]:
        sql = """select consumer, sequence, series_uid, sentence from aside where consumer = ?
                 order by sequence desc limit ?"""
        return [
            Aside(consumer=name, sequence=sequence, series_uid=series_uid, sentence=sentence)
            for name, sequence, series_uid, sentence in self._read(sql, (consumer, limit))
        ]

    def accept(self, aside: Aside) -> None:
        sql = "delete from aside where consumer = ? and series_uid = ? and sequence = ?"
        self._change(sql, (aside.consumer, aside.series_uid, aside.sequence))

    # What became of them

    def count(self, source: str = "") -> Mapping[tuple[Lane, Status], int]:
        sql = """select lane, status, sum(tasks) from tally
                 where tasks > 0 and (?1 = '' or source_id = (select id from source where url = ?1))
                 group by lane, status"""
        return {(LANES[lane], status): n for lane, status, n in self._read(sql, (source,))}

    def pace(self, since: datetime) -> Mapping[Lane, int]:
        facts = {"since": round(since.timestamp() * 1000)}
        return {LANES[lane]: tasks for lane, tasks in self._read(say.PACE, facts)}

    def waiting_since(self, lane: Lane) -> datetime | None:
        ((since_ms,),) = self._read(say.WAITING_SINCE, (LANES.index(lane),))
        return None if since_ms is None else datetime.fromtimestamp(since_ms / 1000, UTC)

    def _write_audit(
        self, db: apsw.Connection, event: str, series_uid: str, source: str, sentence: str
    ) -> None:
        sql = """insert into audit (at_ms, event, series_uid, source, sentence)
                 values (?, ?, ?, ?, ?)"""
        db.execute(sql, (self._now_ms(), event, series_uid, source, sentence))

    def audit(self, series_uid: str = "", limit: int = 100) -> Sequence[Audited]:
        rows = self._read(say.AUDITED, {"series_uid": series_uid, "limit": limit})
        return [
            Audited(sequence=n, at=_moment(at), event=e, series_uid=uid, source=url, sentence=why)
            for n, at, e, uid, url, why in rows
        ]

    def reasons(self) -> Mapping[tuple[Status, str], int]:
        return {(status, reason): tasks for status, reason, tasks in self._read(say.REASONS, ())}

    def states(self, series_uid: str) -> Sequence[TaskState]:
        sql = f"{say.STATE} where series_uid = ? order by configuration"
        return [_state(row) for row in self._read(sql, (series_uid,))]

    def find_states(
        self, status: Status, reason: str = "", limit: int = 100
    ) -> Sequence[TaskState]:
        if reason and status not in ("rejected", "failed"):
            return []
        why = "and reason = :reason and status in ('rejected', 'failed')" if reason else ""
        sql = f"""{say.STATE} where status = :status {why}
                  order by updated_ms desc, id desc limit :limit"""
        facts = {"status": status, "reason": reason, "limit": limit}
        return [_state(row) for row in self._read(sql, facts)]

    # The file

    def probe(self) -> Iterator[Probe]:
        yield from probe_file(self._file)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _now_ms(self) -> int:
        return round(self._now() * 1000)

    def _read(self, sql: str, facts: apsw.Bindings) -> list[tuple[Any, ...]]:
        with self._lock, named_errors(self._file):
            return self._db.execute(sql, facts).fetchall()

    def _change(self, sql: str, facts: apsw.Bindings) -> int:
        with self._writing() as db:
            db.execute(sql, facts)
            return db.changes()

    @contextmanager
    def _writing(self) -> Iterator[apsw.Connection]:
        """One transaction; what it did survives the end of any process, `kill -9` included."""
        with self._lock, named_errors(self._file), transaction(self._db):
            yield self._db

    @contextmanager
    def _writing_durably(self) -> Iterator[apsw.Connection]:
        """One transaction that survives a power cut too, for some ms of waiting for the disk."""
        with self._lock, named_errors(self._file):
            self._db.pragma("synchronous", "full")
            try:
                with transaction(self._db):
                    yield self._db
            finally:
                self._db.pragma("synchronous", "normal")


def _file_of(url: str) -> str:
    """Path of the file; "" for one in memory."""
    path = str(path_of(url))
    return "" if path == "." else path


def _options_of(url: str) -> Options:
    asked = dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))
    usual = Options()
    try:
        options = Options(
            attempts=int(asked.pop("attempts", usual.attempts)),
            retry_s=float(asked.pop("retry_s", usual.retry_s)),
            fair=int(asked.pop("fair", usual.fair)),
            lanes=read_lanes(asked.pop("lanes", ",".join(usual.lanes))),
            busy_s=float(asked.pop("busy_s", usual.busy_s)),
        )
    except ValueError as wrong:
        raise Misconfigured(f"the queue's options are wrong: {wrong}") from wrong
    if asked:
        known = ", ".join(f.name for f in fields(Options))
        raise Misconfigured(f"the queue has no option {min(asked)!r}; it has {known}")
    if options.attempts < 1 or options.fair < 0:
        raise Misconfigured("the queue's attempts are 1 or more, and its fair is 0 or more")
    if not (0 <= options.retry_s < inf and 0 <= options.busy_s < LONGEST_BUSY_S):
        raise Misconfigured(f"the queue's seconds are 0 to {LONGEST_BUSY_S}")
    return options


def _ms(lease: timedelta) -> int:
    return round(lease.total_seconds() * 1000)


@cache
def _series_adapter() -> TypeAdapter[Series]:
    from pydantic import TypeAdapter

    return TypeAdapter(Series)


def _series_json(series: Series) -> str:
    # The standard library's, as a header can hold a NaN or half a character, and both are JSON
    # to it: what cannot be indexed is to end as a failed task, not to stop discovery.
    return json.dumps({f.name: getattr(series, f.name) for f in fields(series)}, default=dict)


def read_series(text: str) -> Series:
    """A series as the files and topics of a queue have it."""
    return _series_adapter().validate_python(json.loads(text))


def pack(document: bytes) -> bytes:
    """A result's JSON as the file has it."""
    # Measured on 30 structures, 14.6 kB of JSON: level 1 leaves 2.6 kB in 0.15 ms, level 6 2.2 kB
    # in 0.35 ms.
    return zlib.compress(document, level=1)


def _result(sequence: int, series_uid: str, document: bytes | None) -> Result:
    annotated = from_json(zlib.decompress(document)) if document is not None else None
    return Result(sequence=sequence, series_uid=series_uid, annotated=annotated)


def _task(row: tuple[Any, ...]) -> Task:
    number, series, source, configuration, lane, attempt, token = row
    return Task(
        id=number,
        series=read_series(series),
        source=source,
        configuration=configuration,
        lane=LANES[lane],
        attempt=attempt,
        token=token,
    )


def _moment(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")


def _state(row: tuple[Any, ...]) -> TaskState:
    number, series, source, configuration, lane, status, attempt, reason, sentence, updated = row
    return TaskState(
        id=number,
        series=read_series(series),
        source=source,
        configuration=configuration,
        lane=LANES[lane],
        status=status,
        attempt=attempt,
        reason=reason,
        sentence=sentence,
        updated=_moment(updated),
    )
