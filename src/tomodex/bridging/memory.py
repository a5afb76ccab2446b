"""The predecessor's tasks that have no answer yet, in a file that survives us.

A message is handled once, however often Kafka brings it, and its answer is given once, whatever is
killed: which answers go together into one transaction of Kafka is written down before, and Kafka
knows the number of the last that became visible.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Any, cast

from tomodex.private_file import open_private, transaction

#: How long a message is known after its answer: Kafka brings it again within minutes, if at all.
KEEP_S = 7 * 86_400.0

SCHEMA = """
create table if not exists task (
    id         integer primary key,
    place      text not null unique,   -- topic, partition, offset and time of the message
    series_uid text not null,
    operation  text not null,          -- that makes its masks; '': it is in the queue
    fault      text not null,          -- JSON: [kind, sentence] of why it was not taken; '': it was
    message    text not null,          -- JSON, as it came; '' when it is answered
    batch      integer not null,       -- of answers that it goes with; 0: none yet
    answered_s real                    -- null: it is not
) strict;
create index if not exists task_open on task (id) where answered_s is null;
create table if not exists bridge (instance text not null, batch integer not null) strict;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A message that has no answer yet."""

    id: int = 0  #: 0: it is not remembered yet
    place: str = ""  #: topic, partition, offset and time of the message
    series_uid: str = ""
    operation: str = ""  #: id of what makes its masks; "": it is in the queue
    fault: tuple[str, str] | None = None  #: kind and sentence of why it was not taken
    message: Any  #: JSON, as it came; a text where it was none


class Memory:
    """The tasks without an answer, and those that were answered lately."""

    def __init__(self, file: Path, now: Callable[[], float] = time.time) -> None:
        self._db = open_private(file, SCHEMA, {"journal_mode": "wal", "synchronous": "full"})
        self._lock = RLock()
        self._now = now
        with self._writing() as db:
            if not db.execute("select 1 from bridge").fetchall():
                db.execute("insert into bridge values (?, 0)", (uuid.uuid4().hex,))

    @property
    def instance(self) -> str:
        """A name that no other bridge has, and that stays."""
        return cast(str, self._db.execute("select instance from bridge").get)

    def add(self, task: Task) -> None:
        """Remember a task; the same message again is the one that is remembered."""
        fault = json.dumps(task.fault) if task.fault else ""
        facts = (task.place, task.series_uid, task.operation, fault, json.dumps(task.message))
        with self._writing() as db:
            db.execute(
                """insert or ignore into task (place, series_uid, operation, fault, message, batch)
                values (?, ?, ?, ?, ?, 0)""",
                facts,
            )

    def is_answered(self, place: str) -> bool:
        """Whether a message has had its answer lately."""
        select = "select 1 from task where place = ? and answered_s is not null"
        return bool(self._db.execute(select, (place,)).fetchall())

    def count(self) -> int:
        """How many wait for an answer."""
        return int(self._db.execute("select count(*) from task where answered_s is null").get)

    def waiting(self) -> Iterator[Task]:
        """Those without an answer, oldest first."""
        select = """select id, place, series_uid, operation, fault, message from task
            where answered_s is null order by id"""
        rows = cast("list[tuple[int, str, str, str, str, str]]", list(self._db.execute(select)))
        for id, place, series_uid, operation, fault, message in rows:
            kind, sentence = json.loads(fault) if fault else ("", "")
            yield Task(
                id=id,
                place=place,
                series_uid=series_uid,
                operation=operation,
                fault=(kind, sentence) if fault else None,
                message=json.loads(message),
            )

    def begin(self, ids: Sequence[int]) -> int:
        """The number of a batch of answers, which is about to be given."""
        with self._writing() as db:
            db.execute("update bridge set batch = batch + 1")
            number = int(db.execute("select batch from bridge").get)
            db.executemany("update task set batch = ? where id = ?", [(number, id) for id in ids])
        return number

    def is_open(self) -> bool:
        """Whether nobody knows yet if a batch was given."""
        select = "select 1 from task where batch > 0 and answered_s is null limit 1"
        return bool(self._db.execute(select).fetchall())

    def end(self, number: int) -> None:
        """This batch was given, and none after it; what its tasks said is forgotten.

        0 is no batch: none was given.
        """
        now = self._now()
        with self._writing() as db:
            db.execute(
                """update task set message = '', fault = '', answered_s = ?
                where batch = ? and batch > 0 and answered_s is null""",
                (now, number),
            )
            db.execute("update task set batch = 0 where answered_s is null")
            db.execute("delete from task where answered_s < ?", (now - KEEP_S,))

    def close(self) -> None:
        """Give back what it holds open."""
        self._db.close()

    def _writing(self) -> Any:
        return transaction(self._db, self._lock, "what the bridge remembers")
