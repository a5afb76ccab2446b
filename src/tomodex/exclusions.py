"""Patients who are not to be indexed: they were erased, or do not want it.

Kept as keyed hashes of their pseudonyms, and of the UIDs of series that were erased alone, so that
who reads the file learns of nobody.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from threading import RLock
from typing import Any, Literal, cast

import apsw
import orjson

from tomodex.annotation import AnnotatedSeries
from tomodex.errors import Unsuitable
from tomodex.private_file import open_private, transaction
from tomodex.queues import NewTask, Outcome, Queue, Rejected, Task
from tomodex.series import Series

#: Why somebody is not indexed, as the reason of rejected tasks.
Why = Literal["erased", "opted_out"]

SENTENCES: dict[Why, str] = {
    "erased": "was erased, and is not indexed again",
    "opted_out": "is of a patient who does not want to be indexed",
}

SCHEMA = """
create table if not exists exclusion (
    mark text primary key,
    why  text not null
) strict, without rowid;
-- Erasures that have begun: what is still to be forgotten, by whom it was erased, and why.
create table if not exists erasure (
    id      integer primary key,
    request text    not null            -- JSON
) strict;
"""


class Exclusions:
    """`exclusions.db` in the data folder; any number of processes and threads use it at once.

    Args:
        key: gives a secret of the site; it is asked once somebody is excluded.

    Raises:
        Misconfigured: the file cannot be used.
    """

    def __init__(self, file: Path, key: Callable[[], bytes]) -> None:
        self._key = cache(key)
        self._lock = RLock()  # an apsw connection serves one thread at a time
        self._db = open_private(file, SCHEMA)
        self._marks: dict[str, Why] = {}
        self._version = -1

    def why(self, series: Series) -> Why | None:
        """Why a series is not to be indexed; None: nothing is against it."""
        marks = self._current()
        if not marks:
            return None
        return marks.get(self._mark("patient", series.patient)) or marks.get(
            self._mark("series", series.series_uid)
        )

    def require(self, series: Series) -> None:
        """Raises Unsuitable: it is not to be indexed."""
        if why := self.why(series):
            raise Unsuitable(why, f"the series {SENTENCES[why]}")

    def exclude_patients(self, pseudonyms: Iterable[str], why: Why) -> int:
        """Have these not indexed from now on; how many were not excluded so before."""
        return self._exclude("patient", pseudonyms, why)

    def exclude_series(self, series_uids: Iterable[str], why: Why) -> int:
        """The same for single series."""
        return self._exclude("series", series_uids, why)

    def readmit_patients(self, pseudonyms: Iterable[str]) -> int:
        """Let those be indexed again who had opted out; how many that are."""
        rows = [(self._mark("patient", pseudonym),) for pseudonym in pseudonyms]
        with self._writing() as db:
            before = db.total_changes()
            db.executemany("delete from exclusion where mark = ? and why = 'opted_out'", rows)
            return db.total_changes() - before

    def excludes(self, pseudonym: str) -> Why | None:
        """Why a patient is not indexed; None: nothing is against it."""
        return self._current().get(self._mark("patient", pseudonym))

    def count(self, why: Why) -> int:
        """How many are not indexed for this reason, patients and single series."""
        return sum(one == why for one in self._current().values())

    # Erasures that have begun

    def begin_erasure(self, request: object) -> int:
        """Remember what is to be erased until it is; its number."""
        with self._writing() as db:
            sql = "insert into erasure (request) values (?)"
            db.execute(sql, (orjson.dumps(request).decode(),))
            return db.last_insert_rowid()

    def open_erasures(self) -> Sequence[tuple[int, Any]]:
        """What was begun and not ended, oldest first."""
        with self._lock:
            rows = self._db.execute("select id, request from erasure order by id").fetchall()
        return [(int(str(number)), orjson.loads(str(request))) for number, request in rows]

    def end_erasure(self, number: int) -> None:
        """Forget what was to be erased, as it was."""
        with self._writing() as db:
            db.execute("delete from erasure where id = ?", (number,))

    def _exclude(self, kind: str, names: Iterable[str], why: Why) -> int:
        rows = [(self._mark(kind, name), why) for name in names if name]
        with self._writing() as db:
            before = db.total_changes()
            # Whoever was erased stays so, whatever they want besides.
            db.executemany(
                """insert into exclusion values (?, ?) on conflict (mark) do update
                set why = excluded.why
                where exclusion.why = 'opted_out' and excluded.why = 'erased'""",
                rows,
            )
            return db.total_changes() - before

    def _mark(self, kind: str, name: str) -> str:
        return hmac.digest(self._key(), f"{kind}\0{name}".encode(), "sha256").hex()

    def _current(self) -> dict[str, Why]:
        """All of them, as the last process that changed them left them."""
        with self._lock:
            version = cast(int, self._db.pragma("data_version"))
            if version != self._version:
                rows = self._db.execute("select mark, why from exclusion").fetchall()
                self._marks = {str(mark): cast(Why, why) for mark, why in rows}
                self._version = version
            return self._marks

    @contextmanager
    def _writing(self) -> Iterator[apsw.Connection]:
        with transaction(self._db, self._lock, "the exclusions") as db:
            yield db
            # What this connection wrote does not change what it sees as the version.
            self._version = -1


class ExcludingQueue:
    """A queue that takes nothing of those who are excluded: no series, and no result."""

    def __init__(self, queue: Queue, exclusions: Exclusions) -> None:
        self._queue = queue
        self._exclusions = exclusions

    def put(self, tasks: Iterable[NewTask]) -> int:
        return self._queue.put(filter(None, map(self._judged, tasks)))

    def settle(self, task: Task, outcome: Outcome) -> bool:
        # Only now it may be known whose the series is.
        series = outcome.series if isinstance(outcome, AnnotatedSeries) else task.series
        why = self._exclusions.why(series)
        if why is None:
            return self._queue.settle(task, outcome)
        rejected = Rejected(reason=why, sentence=f"the series {SENTENCES[why]}")
        settled = self._queue.settle(task, rejected)
        if why == "erased":
            self._queue.forget([task.series.series_uid])
        return settled

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queue, name)

    def _judged(self, task: NewTask) -> NewTask | None:
        why = self._exclusions.why(task.series)
        if why is None:
            return task
        if why == "erased":
            return None
        sentence = f"the series {SENTENCES[why]}"
        return replace(task, reason=why, sentence=sentence, listed=None)


def excluding(queue: Queue, exclusions: Exclusions) -> Queue:
    """The queue, as it takes nothing of those who are excluded."""
    return cast(Queue, ExcludingQueue(queue, exclusions))
