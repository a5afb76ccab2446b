"""Series waiting for a worker, and what came of them.

    sqlite:  one file, any number of workers on this machine   sqlite.py
    kafka:   topics in Apache Kafka, workers on any number     kafka/

A task is handed out on a lease: a worker that dies gives it back by doing nothing. Settling a task
stores its result and acknowledges it in one transaction, so nothing is lost and nothing doubled.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, cast, get_args, runtime_checkable

from tomodex.annotation import AnnotatedSeries
from tomodex.probe import Probe
from tomodex.registry import find_adapter, open_adapter
from tomodex.series import Series
from tomodex.sources import Window

ADAPTERS = {
    "sqlite": "tomodex.queues.sqlite:SqliteQueue",
    "kafka": "tomodex.queues.kafka.queue:KafkaQueue",
}

#: The names FHIR's Task.status has for these.
Status = Literal["ready", "in-progress", "completed", "rejected", "failed"]

#: In which order a lane hands out the studies of a source.
Order = Literal["oldest first", "newest first"]

#: Why a series waits, most urgent first where nothing else is said.
Lane = Literal["on-demand", "daily", "reindex", "backfill"]
LANES: tuple[Lane, ...] = get_args(Lane)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTask:
    """A series to be indexed, or one that discovery has rejected already."""

    series: Series
    source: str  #: URL of the source that has it
    configuration: str = "default"  #: the same series is indexed once with each configuration
    lane: Lane = "on-demand"
    reason: str = ""  #: code of why it is rejected; "" for a task that is wanted
    sentence: str = ""  #: the same for a person
    listed: AnnotatedSeries | None = None  #: what to show of it while it waits, see `Queue.put`


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One series to be indexed, as it was leased."""

    id: int
    series: Series
    source: str
    configuration: str
    lane: Lane
    attempt: int  #: 1 on the first lease
    token: int  #: fencing number: only the holder of the newest may settle


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """The series cannot be indexed, now or later."""

    reason: str
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Something outside did not answer, or a worker was ended; the task waits its back-off."""

    sentence: str
    reason: str = "unavailable"  #: of its failure, should this have been the last attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A bug, or too many attempts; waits for a person, see `Queue.retry`."""

    sentence: str
    reason: str = "bug"  #: to count and retry by: the exception's type


Outcome = AnnotatedSeries | Rejected | Retry | Failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One entry of the results feed; of a series and configuration only the newest is kept.

    The entry with the highest sequence is the last word on its series.
    """

    sequence: int  #: grows; a consumer keeps the last it has seen
    series_uid: str
    annotated: AnnotatedSeries | None  #: None, a tombstone: withdrawn, or rejected by now


@dataclass(frozen=True, slots=True, kw_only=True)
class Aside:
    """A result that a consumer could not take; a newer one of the series replaces it."""

    consumer: str
    sequence: int
    series_uid: str
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskState:
    """What became of a task so far, for `status`, `show` and `retry`."""

    id: int
    series: Series
    source: str
    configuration: str
    lane: Lane
    status: Status
    attempt: int
    reason: str
    sentence: str
    updated: str  #: RFC 3339 with offset


@dataclass(frozen=True, slots=True, kw_only=True)
class Audited:
    """Something that was done to what is known, and can be asked for ever after."""

    sequence: int  #: grows
    at: str  #: RFC 3339 with offset
    event: str  #: "withdrawn"; "kept": one source lost the series, another has it too
    series_uid: str
    source: str  #: the source that no longer has it; "": none was named
    sentence: str  #: why


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """Something that is to be erased wherever there are traces of it, see `tomodex.erasing`."""

    id: str
    request: str  #: JSON; nothing of it is left once the erasure has ended


#: What a queue is made of, in the order in which it is copied.
Part = Literal[
    "task", "elsewhere", "held", "newest_first", "result", "aside", "audit", "barred", "erasure"
]
PARTS: tuple[Part, ...] = get_args(Part)

#: A row of a part as every queue has it: its place first, which grows.
Cells = tuple[Any, ...]


class Copied(NamedTuple):
    """How far a copy of another queue has come."""

    origin: str  #: the other one
    part: Part
    after: int  #: the place of the last row of it that was taken in


class Queue(Protocol):
    """Holds each series at most once for each configuration; several threads may use it.

    Every method raises Unavailable where the store does not answer, and Misconfigured where it
    cannot be used at all.
    """

    def put(self, tasks: Iterable[NewTask]) -> int:
        """Add tasks in one transaction; return how many were new or changed.

        A series that is known with the same fingerprint is left as it is, whatever became of it,
        but a waiting one moves up if the new lane is more urgent, and one that only discovery has
        rejected takes discovery's new judgement. One whose fingerprint changed starts anew, but
        not where it was indexed and another source has no more instances of it: a partial copy
        must not take the place of the whole. One that was put without a fingerprint, and indexed,
        takes the first that its source gives, if there are as many instances as were indexed.

        What a wanted task says it has `listed` enters the results feed at once, but not in the
        place of a result that somebody worked for.
        """

    def lease(self, worker: str, lease: timedelta, avoiding: Collection[str] = ()) -> Task | None:
        """Take the task that is next, or None if there is none; none of the sources `avoiding`.

        Lanes in their order, the oldest study first within one; now and then the least urgent
        lane, so that it never starves. What is held is passed over. A task whose lease ran out
        counts as ready.
        """

    def is_due(self, avoiding: Collection[str] = ()) -> bool:
        """Whether there is a task to be leased now, and not only later, of the other sources."""

    def hold(self, lane: Lane, source: str) -> None:
        """Hand out nothing more of a source in a lane, until it is released."""

    def release(self, lane: Lane, source: str) -> None:
        """Hand it out again."""

    def order(self, lane: Lane, source: str, order: Order) -> None:
        """Hand out a source's studies in a lane in this order from now on."""

    def held(self) -> Sequence[tuple[Lane, str]]:
        """Lanes and sources that are held."""

    def extend(self, task: Task, lease: timedelta) -> bool:
        """Hold a task for longer; False if it belongs to somebody else by now."""

    def settle(self, task: Task, outcome: Outcome) -> bool:
        """Store what came of a task; False if it belongs to somebody else by now."""

    def give_back(self, task: Task) -> bool:
        """Hand a task back untried, for the next one to take; False if it is not ours any more."""

    def holders(self) -> Sequence[str]:
        """Workers that hold a task, alive or not."""

    def bury(self, worker: str) -> int:
        """Give back what a worker held that is known to be dead; its attempts count."""

    def results(self, after: int, limit: int) -> Sequence[Result]:
        """The next entries of the results feed with a sequence higher than `after`."""

    def newest(self) -> int:
        """The highest sequence of the results feed, or one that is a little higher; 0: none."""

    def cursor(self, consumer: str) -> int:
        """The last sequence that `consumer` has confirmed; 0 for a new one."""

    def confirm(self, consumer: str, sequence: int) -> None:
        """Remember that `consumer` is done with everything up to `sequence`; 0 starts over."""

    def claim(self, consumer: str) -> AbstractContextManager[None]:
        """Be the only one to deliver to `consumer`, so that nothing older overwrites newer.

        Waits for another to finish its batch, and raises Unavailable if that takes too long.
        """

    def set_aside(self, consumer: str, result: Result, sentence: str) -> None:
        """Remember that `consumer` could not take a result, and why."""

    def asides(self, consumer: str, limit: int = 100) -> Sequence[Aside]:
        """What `consumer` could not take, newest first, of the results that still stand."""

    def accept(self, aside: Aside) -> None:
        """Forget that a consumer could not take a result: by now it has."""

    def known(self, source: str, window: Window | None = None) -> Iterator[str]:
        """Series that a source has listed, all or those of its studies in a window.

        What was put by its UIDs alone, without a modality, counts once it was indexed or rejected.
        """

    def withdraw(self, series_uid: str, source: str = "", sentence: str = "") -> bool:
        """Forget a series that the archive no longer has; the feed gets a tombstone.

        False if nothing was known of it, or another source than the one named has it too: then it
        is left to that one. The tombstone is left out where no result was. The audit keeps what
        was done, and the sentence that says why.
        """

    def of_patient(self, patient: str) -> Sequence[str]:
        """The series of a patient, by pseudonym, whatever became of them; takes some time."""

    def exclude(self, series_uid: str, reason: str, sentence: str) -> bool:
        """Reject a series whatever stands of it; the feed gets a tombstone in place of a result.

        False if nothing was known of it. `retry` with the reason makes it ready again.
        """

    def forget(self, series_uids: Sequence[str]) -> None:
        """Have nothing of these any more: no task, no result and no tombstone.

        Who consumes the feed is to be told some other way. What the audit says of a withdrawal
        stays: that one was, and its UID.
        """

    def bar(self, marks: Mapping[str, str]) -> int:
        """Keep why the bearers of these marks are not to be indexed; how many marks are new so.

        What a mark is the caller knows. One that is barred as "erased" stays so.
        """

    def unbar(self, marks: Collection[str], why: str) -> int:
        """Drop those of these marks that are barred for this reason; how many that is."""

    def barred(self) -> Mapping[str, str]:
        """All marks with their reasons, whoever has barred them, on whatever machine.

        As of the last put, lease or settling of this queue at least, and of a second ago.
        """

    def begin_erasure(self, erasure: Erasure) -> None:
        """Remember what is to be erased; one that is known already is left as it is."""

    def erasures(self) -> Sequence[Erasure]:
        """What is still to be erased by whoever has this data folder, the oldest first."""

    def end_erasure(self, erasure: Erasure) -> None:
        """This data folder is done with it; once all can be, nothing is left of it."""

    def renew(self, series_uids: Sequence[str], lane: Lane = "reindex") -> int:
        """Make series that were indexed ready again, in a lane; return how many tasks it was.

        What the feed has of them stands until the next result is there.
        """

    def amend(self, result: Result, annotated: AnnotatedSeries) -> bool:
        """Put this into the feed in the place of a result, whose task stays as it is.

        False if that one is in the feed no more: a worker was faster, or it was withdrawn.
        """

    def audit(self, series_uid: str = "", limit: int = 100) -> Sequence[Audited]:
        """What was done to one series, or to any, newest first."""

    def count(self, source: str = "") -> Mapping[tuple[Lane, Status], int]:
        """How many tasks are in each lane and status, of all sources or one."""

    def pace(self, since: datetime) -> Mapping[Lane, int]:
        """How many tasks workers have settled since then, by lane."""

    def waiting_since(self, lane: Lane) -> datetime | None:
        """When the task came that has waited longest in a lane; None: none waits.

        Looks at each that waits: 0.1 s for 100,000.
        """

    def reasons(self) -> Mapping[tuple[Status, str], int]:
        """How many tasks were rejected or failed, by status and reason."""

    def states(self, series_uid: str) -> Sequence[TaskState]:
        """What became of one series, for each configuration."""

    def find_states(
        self, status: Status, reason: str = "", limit: int = 100
    ) -> Sequence[TaskState]:
        """Tasks of one status, newest first, all reasons or one."""

    def result(self, series_uid: str) -> Result | None:
        """The feed's last word on one series, which may be a tombstone; None: it has none."""

    def retry(self, status: Status = "failed", reason: str = "") -> int:
        """Make failed (or rejected) tasks ready again, all or those with one reason."""

    def probe(self) -> Iterator[Probe]:
        """Look whether it can be used, for `tomodex doctor`; raises nothing of its own."""

    def close(self) -> None:
        """Give back what it holds open."""


@runtime_checkable
class Shared(Protocol):
    """A queue that gives each worker its part of the tasks beforehand."""

    def leave(self, sources: Collection[str]) -> None:
        """Say that this worker, which holds nothing now, can work on no task of these sources.

        Those in its part go to workers that have not said so, as soon as there are any.
        """


@runtime_checkable
class Movable(Protocol):
    """A queue that can be copied into another, and another into it."""

    def sizes(self) -> Mapping[Part, int]:
        """How many rows each part has."""

    def portion(self, part: Part, after: int, limit: int) -> Sequence[Cells]:
        """The next rows of a part after a place."""

    def copied(self) -> Copied | None:
        """How far a copy into this queue has come; None: none is being made."""

    def take_in(self, copied: Copied, rows: Sequence[Cells]) -> None:
        """Take in rows of another queue, and remember up to where, in one transaction."""

    def end_copy(self) -> None:
        """All is taken in."""

    def rank(self, sequence: int) -> int:
        """How many entries the results feed has up to this one."""

    def at_rank(self, rank: int) -> int:
        """The sequence of that entry; 0: of none."""


def read_lanes(names: str) -> tuple[Lane, ...]:
    """The lanes in another order, most urgent first, as a queue's URL says it with commas.

    Raises:
        ValueError: it does not name each lane once.
    """
    found = tuple(names.split(","))
    if sorted(found) != sorted(LANES):
        raise ValueError(f"lanes are {', '.join(LANES)}, each once, in another order if you like")
    return cast(tuple[Lane, ...], found)


def open_queue(url: str, state: Path | None = None) -> Queue:
    """Open the queue that `url` names; `state` is the folder for what it keeps on this machine."""
    return cast(Queue, open_adapter("queue", url, ADAPTERS, state=state))


def create_queue(url: str) -> Sequence[str]:
    """Make what the queue needs and is not there yet; what that was.

    Raises:
        Misconfigured: it cannot be made.
        Unavailable: its server does not answer.
    """
    factory = find_adapter("queue", url, ADAPTERS)
    return cast(Sequence[str], factory.create(url)) if hasattr(factory, "create") else ()
