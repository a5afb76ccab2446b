"""Patients who are not to be indexed: they were erased, or do not want it.

The queue keeps them, so that it holds on every machine that uses the queue; as keyed hashes of
their pseudonyms, and of the UIDs of series that were erased alone, so that who reads them learns
of nobody.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import cache
from hashlib import sha256
from pathlib import Path
from threading import RLock
from typing import Any, Literal, cast

from tomodex.annotation import AnnotatedSeries
from tomodex.private_file import open_private, transaction
from tomodex.queues import Erasure, NewTask, Outcome, Queue, Rejected, Task
from tomodex.series import Series

#: Why somebody is not indexed, as the reason of rejected tasks.
Why = Literal["erased", "opted_out"]

SENTENCES: dict[Why, str] = {
    "erased": "was erased, and is not indexed again",
    "opted_out": "is of a patient who does not want to be indexed",
}

#: Of the file in which a data folder kept its own before.
FORMER_SCHEMA = """
create table if not exists exclusion (
    mark text primary key,
    why  text not null
) strict, without rowid;
create table if not exists erasure (
    id      integer primary key,
    request text    not null
) strict;
"""


class Exclusions:
    """Who is not to be indexed, as the queue keeps it.

    Args:
        key: gives a secret of the site, the same on all machines; it is asked once somebody is
            excluded.
    """

    def __init__(self, queue: Queue, key: Callable[[], bytes]) -> None:
        self._queue = queue
        self._key = cache(key)

    def why(self, series: Series) -> Why | None:
        """Why a series is not to be indexed; None: nothing is against it."""
        marks = self._queue.barred()
        if not marks:
            return None
        found = marks.get(self._mark("patient", series.patient)) or marks.get(
            self._mark("series", series.series_uid)
        )
        return cast(Why | None, found)

    def exclude_patients(self, pseudonyms: Iterable[str], why: Why) -> int:
        """Have these not indexed from now on; how many were not excluded so before."""
        return self._exclude("patient", pseudonyms, why)

    def exclude_series(self, series_uids: Iterable[str], why: Why) -> int:
        """The same for single series."""
        return self._exclude("series", series_uids, why)

    def readmit_patients(self, pseudonyms: Iterable[str]) -> int:
        """Let those be indexed again who had opted out; how many that are."""
        marks = [self._mark("patient", pseudonym) for pseudonym in pseudonyms]
        return self._queue.unbar(marks, "opted_out")

    def excludes(self, pseudonym: str) -> Why | None:
        """Why a patient is not indexed; None: nothing is against it."""
        return cast(Why | None, self._queue.barred().get(self._mark("patient", pseudonym)))

    def count(self, why: Why) -> int:
        """How many are not indexed for this reason, patients and single series."""
        return sum(one == why for one in self._queue.barred().values())

    def _exclude(self, kind: str, names: Iterable[str], why: Why) -> int:
        marks: dict[str, str] = {self._mark(kind, name): why for name in names if name}
        return self._queue.bar(marks) if marks else 0

    def _mark(self, kind: str, name: str) -> str:
        return hmac.digest(self._key(), f"{kind}\0{name}".encode(), "sha256").hex()


class ExcludingQueue:
    """A queue that takes nothing of those who are excluded: no series, and no result."""

    def __init__(self, queue: Queue, exclusions: Exclusions) -> None:
        self._queue = queue
        self.exclusions = exclusions

    def put(self, tasks: Iterable[NewTask]) -> int:
        judged = [one for one in map(self._judged, tasks) if one is not None]
        new = self._queue.put(judged)
        # Somebody may have been excluded, on another machine, just before these came in.
        for task in judged:
            if not task.reason:
                self._take_out(task.series)
        return new

    def lease(self, worker: str, lease: timedelta, avoiding: Collection[str] = ()) -> Task | None:
        """As of any queue; whoever was excluded meanwhile is rejected before anything is read."""
        while (task := self._queue.lease(worker, lease, avoiding)) is not None:
            why = self.exclusions.why(task.series)
            if why is None:
                return task
            self._reject(task, why)
        return None

    def settle(self, task: Task, outcome: Outcome) -> bool:
        # Only now it may be known whose the series is.
        series = outcome.series if isinstance(outcome, AnnotatedSeries) else task.series
        why = self.exclusions.why(series)
        if why is not None:
            return self._reject(task, why)
        settled = self._queue.settle(task, outcome)
        # Whoever was excluded while it was written did not find it.
        self._take_out(series)
        return settled

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queue, name)

    def _judged(self, task: NewTask) -> NewTask | None:
        why = self.exclusions.why(task.series)
        if why is None:
            return task
        if why == "erased":
            return None
        return replace(task, reason=why, sentence=sentence_of(why), listed=None)

    def _reject(self, task: Task, why: Why) -> bool:
        settled = self._queue.settle(task, Rejected(reason=why, sentence=sentence_of(why)))
        if why == "erased":
            self._queue.forget([task.series.series_uid])
        return settled

    def _take_out(self, series: Series) -> None:
        match self.exclusions.why(series):
            case "erased":
                self._queue.forget([series.series_uid])
            case "opted_out":
                self._queue.exclude(series.series_uid, "opted_out", sentence_of("opted_out"))


def sentence_of(why: Why) -> str:
    """What is said of a series that is not indexed."""
    return f"the series {SENTENCES[why]}"


def excluding(queue: Queue, exclusions: Exclusions) -> Queue:
    """The queue, as it takes nothing of those who are excluded."""
    return cast(Queue, ExcludingQueue(queue, exclusions))


def refusal_of(queue: Queue, series: Series) -> Why | None:
    """Why a queue takes nothing of a series, if that is because somebody is excluded."""
    return queue.exclusions.why(series) if isinstance(queue, ExcludingQueue) else None


def take_over(file: Path, queue: Queue) -> None:
    """Bring what a data folder kept in a file of its own into the queue, and remove the file.

    Whatever stops it, the next one does it again.

    Raises:
        Misconfigured: the file cannot be used.
        Unavailable: it, or the queue, cannot be written now.
    """
    db = open_private(file, FORMER_SCHEMA)
    try:
        with transaction(db, RLock(), "the exclusions"):
            marks = db.execute("select mark, why from exclusion").fetchall()
            queue.bar({str(mark): str(why) for mark, why in marks})
            for number, request in db.execute("select id, request from erasure").fetchall():
                # Other data folders may have brought theirs, with the same numbers.
                mark = sha256(str(request).encode()).hexdigest()[:16]
                queue.begin_erasure(Erasure(id=f"former-{number}-{mark}", request=str(request)))
            # Whoever waits for us finds nothing more to do.
            db.execute("delete from exclusion; delete from erasure")
    finally:
        db.close()
    for remains in (file, file.with_name(f"{file.name}-journal")):
        with suppress(FileNotFoundError):
            remains.unlink()
