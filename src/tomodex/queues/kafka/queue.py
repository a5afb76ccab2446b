"""The queue in Kafka, as everybody else sees it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from functools import partial
from math import inf
from pathlib import Path
from typing import TypeVar

from tomodex.annotation import AnnotatedSeries, from_json
from tomodex.errors import Unavailable
from tomodex.probe import Probe
from tomodex.queues import (
    Aside,
    Audited,
    Cells,
    Copied,
    Erasure,
    Lane,
    NewTask,
    Order,
    Outcome,
    Part,
    Result,
    Status,
    Task,
    TaskState,
)
from tomodex.queues.kafka.changes import Changes
from tomodex.queues.kafka.cluster import Cluster
from tomodex.queues.kafka.desk import Act, Desk
from tomodex.queues.kafka.feed import Feed
from tomodex.queues.kafka.hands import Hands
from tomodex.queues.kafka.ledger import Ledger
from tomodex.queues.kafka.making import make_topics, require_topics
from tomodex.queues.kafka.press import Press, result_key, task_key
from tomodex.queues.kafka.records import Kind, Nothing, place_of
from tomodex.queues.kafka.relay import Relay
from tomodex.queues.kafka.rights import probe_rights
from tomodex.queues.kafka.safety import probe_topics
from tomodex.queues.kafka.view import VERSION, View, task_of
from tomodex.queues.sqlite import pack
from tomodex.queues.sqlite_portions import DOCUMENT
from tomodex.sources import Window

log = logging.getLogger(__name__)

_T = TypeVar("_T")

#: Who is barred is asked of the log again after so long.
FRESH_S = 1.0

#: How long every machine has time to carry out an erasure that another began.
ERASURES_KEPT_S = 30 * 86_400.0


class KafkaQueue:
    """`kafka://broker1:9092,broker2:9092/PREFIX?options`.

    Args:
        url: names the brokers and the prefix of the topics.
        state: the data folder, where the processes of a machine share a view; None: each has one
            of its own, in memory.
        now: seconds since 1970; a test's own clock.

    Raises:
        Misconfigured: the URL is wrong, or the topics are not there or may not be used.
        Unavailable: no broker answers.
    """

    def __init__(
        self, url: str, state: Path | None = None, *, now: Callable[[], float] = time.time
    ) -> None:
        self._cluster = Cluster(url)
        self._names = self._cluster.names
        self._now = now
        self._read_s = -inf  #: when the log was last read to its end
        topics = require_topics(self._cluster)
        file = view_file(state, self._names.prefix, topics[self._names.states].id)
        self._view = View(file, self._cluster.options, now=now)
        self._ledger = Ledger(self._cluster, self._view)
        self._feed = Feed(self._cluster)
        partitions = [topics[name].partitions for name in self._names.tickets]
        press = Press(self._names, partitions, self._document)
        self._desk = Desk(self._cluster, self._view, self._ledger, press, file)
        self._relay = Relay(self._cluster, self._view, self._desk)
        self._new_hands = partial(
            Hands, self._cluster, self._view, self._ledger, press, self._now_ms, file
        )
        self._hands = self._new_hands()

    @staticmethod
    def create(url: str) -> Sequence[str]:
        """Make the topics of a queue that are not there yet; their names.

        Raises:
            Misconfigured: they cannot be made so, or by this user.
            Unavailable: no broker answers.
        """
        return make_topics(Cluster(url))

    def _now_ms(self) -> int:
        return round(self._now() * 1000)

    def _document(self, sequence: int) -> bytes:
        return self._feed.read([sequence])[sequence]

    def _seen(self) -> View:
        """The view, with all that was said before; or, where a worker died just now, nearly all."""
        self._ledger.look()
        self._read_s = time.monotonic()
        return self._view

    def _decide(self, act: Act[_T]) -> _T:
        answer = self._desk.decide(act)
        self._read_s = time.monotonic()
        return answer

    # Tasks come in

    def put(self, tasks: Iterable[NewTask]) -> int:
        # All of it first: a slow source must not hold up everybody else's decisions.
        all_of_them = list(tasks)
        return self._decide(lambda view, _: view.put(all_of_them)) if all_of_them else 0

    def withdraw(self, series_uid: str, source: str = "", sentence: str = "") -> bool:
        return self._decide(lambda view, _: view.withdraw(series_uid, source, sentence))

    def exclude(self, series_uid: str, reason: str, sentence: str) -> bool:
        return self._decide(lambda view, _: view.exclude(series_uid, reason, sentence))

    def forget(self, series_uids: Sequence[str]) -> None:
        said: list[Changes] = []

        def forget(view: View, changes: Changes) -> None:
            for uid in series_uids:
                self._forget(uid, view, changes)
            said.append(changes)

        def again(view: View, changes: Changes) -> None:
            changes.forgotten += said[-1].forgotten
            changes.others += said[-1].others

        self._decide(forget)
        # A result may have come in between our messages; whoever has it now gets no further.
        self._decide(again)
        self._view.overwrite()

    def _forget(self, series_uid: str, view: View, changes: Changes) -> None:
        """Say of every key that names a series that there is nothing any more."""
        results, dead = self._names.results, self._names.dead
        for configuration, share, _ in view.traces(series_uid):
            key = task_key(series_uid, configuration)
            changes.forgotten += [
                (results, 0, result_key(series_uid, configuration)),
                (dead, 0, key),
            ]
            if share >= 0:
                place, partition = place_of(share)
                changes.forgotten.append((self._names.tickets[place], partition, key))
            pair = (series_uid, configuration)
            kinds: tuple[Kind, ...] = ("task", "work", "result")
            changes.others += [Nothing(kind, pair) for kind in kinds]
        for consumer in view.consumers_without(series_uid):
            changes.others.append(Nothing("aside", (consumer, series_uid)))
        changes.others.append(Nothing("elsewhere", (series_uid,)))

    def retry(self, status: Status = "failed", reason: str = "") -> int:
        return self._decide(lambda view, _: view.retry(status, reason))

    def bar(self, marks: Mapping[str, str]) -> int:
        return self._decide(lambda view, _: view.bar(marks))

    def unbar(self, marks: Collection[str], why: str) -> int:
        return self._decide(lambda view, _: view.unbar(marks, why))

    def barred(self) -> Mapping[str, str]:
        # Asked for every series: whoever has just decided, leased or settled has read the log.
        if time.monotonic() > self._read_s + FRESH_S:
            self._seen()
        return self._view.barred()

    def begin_erasure(self, erasure: Erasure) -> None:
        self._decide(lambda view, _: view.begin_erasure(erasure))

    def erasures(self) -> Sequence[Erasure]:
        def drop(view: View, changes: Changes) -> None:
            changes.others += [Nothing("erasure", (one,)) for one in view.over(ERASURES_KEPT_S)]

        if self._seen().over(ERASURES_KEPT_S):
            self._decide(drop)
            self._view.overwrite()
        return self._view.erasures()

    def end_erasure(self, erasure: Erasure) -> None:
        self._view.remember_done(erasure)

    def renew(self, series_uids: Sequence[str], lane: Lane = "reindex") -> int:
        return self._decide(lambda view, _: view.renew(series_uids, lane))

    def bury(self, worker: str) -> int:
        if worker not in self.holders():
            return 0
        return self._decide(lambda view, _: view.bury_at_once(worker))

    def hold(self, lane: Lane, source: str) -> None:
        self._decide(lambda view, _: view.hold(lane, source))

    def release(self, lane: Lane, source: str) -> None:
        self._decide(lambda view, _: view.release(lane, source))

    def order(self, lane: Lane, source: str, order: Order) -> None:
        self._decide(lambda view, _: view.order(lane, source, order))

    def held(self) -> Sequence[tuple[Lane, str]]:
        return self._seen().held()

    # Workers take them

    def is_due(self, avoiding: Collection[str] = ()) -> bool:
        return self._seen().is_due(avoiding)

    def lease(self, worker: str, lease: timedelta, avoiding: Collection[str] = ()) -> Task | None:
        self._relay.now_and_then()
        row = self._hands.take(worker, _ms(lease), avoiding)
        if row is None:
            return None
        self._read_s = time.monotonic()
        return task_of(row)

    def leave(self, sources: Collection[str]) -> None:
        # Others hear of it when we join the group, so it is joined anew.
        if self._relay.leave(sources):
            self._hands.close()
            self._hands = self._new_hands()

    def extend(self, task: Task, lease: timedelta) -> bool:
        return self._hands.extend(task, _ms(lease))

    def settle(self, task: Task, outcome: Outcome) -> bool:
        settled = self._hands.settle(task, outcome, self._view.verdict(task, outcome))
        self._read_s = time.monotonic()
        try:
            self._desk.mend()
        except Unavailable as unavailable:  # what is settled is; whoever decides next mends it
            log.warning("not mended", extra={"sentence": str(unavailable)})
        return settled

    def give_back(self, task: Task) -> bool:
        return self._hands.give_back(task)

    def holders(self) -> Sequence[str]:
        return self._seen().holders()

    # The results feed

    def results(self, after: int, limit: int) -> Sequence[Result]:
        # In this order, or who delivers misses what is committed later than what comes after it.
        end = self._ledger.end_of_results()
        self._ledger.catch_up()
        found = self._view.standing(after, limit)
        entries = [entry for entry in found if entry[0] <= end]
        documents = self._feed.read([sequence for sequence, _, stands in entries if stands])
        return [
            _result(sequence, uid, documents.get(sequence))
            for sequence, uid, stands in entries
            if sequence in documents or not stands
        ]

    def result(self, series_uid: str) -> Result | None:
        last = self._seen().last_word(series_uid)
        if last is None:
            return None
        sequence, stands = last
        return _result(sequence, series_uid, self._document(sequence) if stands else None)

    def amend(self, result: Result, annotated: AnnotatedSeries) -> bool:
        return self._decide(lambda view, _: view.amend(result, annotated))

    def newest(self) -> int:
        return self._seen().newest()

    def cursor(self, consumer: str) -> int:
        return self._feed.cursor(consumer)

    def confirm(self, consumer: str, sequence: int) -> None:
        self._feed.confirm(consumer, sequence)

    def claim(self, consumer: str) -> AbstractContextManager[None]:
        return self._feed.claim(consumer)

    def set_aside(self, consumer: str, result: Result, sentence: str) -> None:
        self._decide(lambda view, _: view.set_aside(consumer, result, sentence))

    def asides(self, consumer: str, limit: int = 100) -> Sequence[Aside]:
        return self._seen().asides(consumer, limit)

    def accept(self, aside: Aside) -> None:
        self._decide(lambda view, _: view.accept(aside))

    # Copied as a whole

    def sizes(self) -> Mapping[Part, int]:
        return self._seen().sizes()

    def portion(self, part: Part, after: int, limit: int) -> Sequence[Cells]:
        rows = self._seen().portion(part, after, limit)
        return self._with_documents(rows) if part == "result" else rows

    def _with_documents(self, rows: Sequence[Cells]) -> Sequence[Cells]:
        """Results as other queues have them, in the place of where they are in the topic."""
        documents = self._feed.read([row[0] for row in rows if row[DOCUMENT] is not None])
        return [
            row
            if row[DOCUMENT] is None
            else (*row[:DOCUMENT], pack(documents[row[0]]), *row[DOCUMENT + 1 :])
            for row in rows
        ]

    def copied(self) -> Copied | None:
        return self._seen().copied()

    def take_in(self, copied: Copied, rows: Sequence[Cells]) -> None:
        def take_in(view: View, changes: Changes) -> None:
            view.take_in(copied, rows)
            if copied.part == "result":
                changes.wanted += view.unknown(rows)

        self._decide(take_in)

    def end_copy(self) -> None:
        self._decide(lambda view, _: view.end_copy())

    def rank(self, sequence: int) -> int:
        return self._seen().rank(sequence)

    def at_rank(self, rank: int) -> int:
        return self._seen().at_rank(rank)

    # What became of them

    def known(self, source: str, window: Window | None = None) -> Iterator[str]:
        return self._seen().known(source, window)

    def of_patient(self, patient: str) -> Sequence[str]:
        return self._seen().of_patient(patient)

    def audit(self, series_uid: str = "", limit: int = 100) -> Sequence[Audited]:
        return self._seen().audit(series_uid, limit)

    def count(self, source: str = "") -> Mapping[tuple[Lane, Status], int]:
        return self._seen().count(source)

    def pace(self, since: datetime) -> Mapping[Lane, int]:
        return self._seen().pace(since)

    def waiting_since(self, lane: Lane) -> datetime | None:
        return self._seen().waiting_since(lane)

    def reasons(self) -> Mapping[tuple[Status, str], int]:
        return self._seen().reasons()

    def states(self, series_uid: str) -> Sequence[TaskState]:
        return self._seen().states(series_uid)

    def find_states(
        self, status: Status, reason: str = "", limit: int = 100
    ) -> Sequence[TaskState]:
        return self._seen().find_states(status, reason, limit)

    # The cluster

    def probe(self) -> Iterator[Probe]:
        yield from probe_topics(self._cluster)
        rights = list(probe_rights(self._cluster))
        yield from rights
        if any(probe.verdict == "wrong" for probe in rights):
            return
        begin = time.monotonic()
        self._ledger.catch_up()
        seconds = time.monotonic() - begin
        read = self._view.next_offset()
        sentence = f"the log is read up to {read:,}, in {seconds:.1f} s"
        yield Probe(subject="view", verdict="ok", sentence=sentence)

    def close(self) -> None:
        self._hands.close()
        self._desk.close()
        self._feed.close()
        self._ledger.close()
        self._view.close()


def view_file(state: Path | None, prefix: str, topic_id: str) -> Path | None:
    """A file of its own for each log: a topic that was made anew starts from the beginning."""
    if state is None:
        return None
    name = "".join(c if c.isalnum() or c in "-_" else "_" for c in f"{prefix}-{topic_id}")
    file = state / f"kafka-{VERSION}-{name}.db"
    # Those of an older Tomodex: whoever is erased from now on would stay in them.
    for former in state.glob(f"kafka-*-{name}.db*"):
        if not former.name.startswith(file.name):
            former.unlink(missing_ok=True)
    return file


def _ms(lease: timedelta) -> int:
    return round(lease.total_seconds() * 1000)


def _result(sequence: int, series_uid: str, document: bytes | None) -> Result:
    annotated = from_json(document) if document is not None else None
    return Result(sequence=sequence, series_uid=series_uid, annotated=annotated)
