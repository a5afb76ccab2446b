"""Takes the log into the tables of the view, record by record."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tomodex.queues import LANES
from tomodex.queues.kafka.cluster import QueueOptions
from tomodex.queues.kafka.records import (
    Audit,
    Barred,
    Begun,
    Copying,
    Elsewhere,
    Held,
    NewestFirst,
    Nothing,
    Record,
    SetAside,
    Standing,
    Told,
    Wanted,
    Work,
    key_of,
    parse,
    value_of,
)
from tomodex.queues.kafka.view_statements import (
    ASTRAY,
    MORE,
    NEW_VERSION,
    PLACE,
    REACHED,
    RESULT,
    SAME_VERSION,
    WORK,
)
from tomodex.queues.sqlite import SqliteQueue
from tomodex.queues.sqlite_file import named_errors, transaction

#: Of what is no record so much of its key is kept.
LONGEST_KEY = 200


class Intake(SqliteQueue):
    """The tables, as the log fills them.

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
        same = ("attempts", "retry_s", "fair", "lanes", "busy_s")
        asked = {name: getattr(options, name) for name in same}
        query = "&".join(f"{name}={value}" for name, value in asked.items())
        place = f"//{quote(str(file))}" if file else ""
        super().__init__(f"sqlite:{place}?{query}", now=now)
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

    def apply(self, messages: Iterable[tuple[int, bytes | None, bytes | None]], end: int) -> None:
        """Take in messages as (offset, key, value), and remember that all before `end` was read.

        What another process took in already is passed over. What is no record is kept until it
        was laid with the dead.

        Raises:
            Misconfigured: a newer Tomodex wrote one; nothing is taken in.
        """
        with self._lock, named_errors(self._file), transaction(self._db):
            done = self.next_offset()
            for offset, key, value in messages:
                if offset >= done:
                    self._take(offset, key, value)
            self._db.execute("update place set next = max(next, ?)", (end,))

    def _take(self, offset: int, key: bytes | None, value: bytes | None) -> None:
        try:
            record = parse(key, value)
        except ValueError as why:
            row = (offset, str(why), (key or b"")[:LONGEST_KEY])
            self._db.execute("insert or replace into strange values (?, ?, ?)", row)
        else:
            self._learn(record)

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
                 and document is not null and version <= :void returning sequence"""
        void: list[tuple[Any, ...]] = self._db.execute(sql, self._facts(wanted)).fetchall()
        for (sequence,) in void:
            self._db.execute(ASTRAY, (wanted.series_uid, wanted.configuration, sequence))

    def _catch_up_with(self, wanted: Wanted) -> None:
        """Take in what was said of this before it was there, in the order of the log."""
        sql = """delete from early where series_uid = :series_uid
                 and (kind = 'result' or configuration = :configuration)
                 returning rowid, key, value"""
        waited: list[tuple[Any, ...]] = self._db.execute(sql, self._facts(wanted)).fetchall()
        for _, key, value in sorted(waited):
            self._learn(parse(key, value))

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
        self._know_the_end(standing, stands)
        if not standing.said:
            pair = (uid, configuration)
            sql = "delete from result where (series_uid, configuration) = (?, ?)"
            self._db.execute(sql, pair)
            return
        old = "delete from result where series_uid = ? and (configuration = ? or document is null)"
        self._db.execute(old, (uid, configuration))
        self._db.execute("delete from aside where series_uid = ?", (uid,))
        document = PLACE % standing.sequence if stands else None
        self._db.execute(RESULT, {**self._facts(standing), "document": document})

    def _know_the_end(self, standing: Standing, stands: bool) -> None:
        """Whether the topic of results ends, for this key, with what stands or with a tombstone."""
        place = (standing.series_uid, standing.configuration, standing.sequence)
        if standing.document and not stands:
            self._db.execute(ASTRAY, place)
        else:
            sql = """delete from stray where (series_uid, configuration) = (?1, ?2)
                     and sequence < ?3"""
            self._db.execute(sql, place)

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
                for table in ("task", "marker", "result", "stray"):
                    sql = f"delete from {table} where (series_uid, configuration) = (?, ?)"
                    self._db.execute(sql, pair)
            case "result", pair:
                sql = "delete from result where (series_uid, configuration) = (?, ?)"
                self._db.execute(sql, pair)
            case "elsewhere", uid:
                self._db.execute("delete from elsewhere where series_uid = ?", uid)
            case "copied", ():
                self._db.execute("delete from copied")
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
            case Told():
                self._db.execute("delete from strange where at < ?", (record.before,))
            case Copying():
                sql = "insert or replace into copied values (1, :origin, :part, :after)"
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


def _lane(name: str) -> Any:
    if name not in LANES:
        raise ValueError(f"no lane {name}")
    return name
