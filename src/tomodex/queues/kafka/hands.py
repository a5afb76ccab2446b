"""What this process works on: tasks taken, held and settled, in transactions of its own."""

from __future__ import annotations

import fcntl
import logging
import socket
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Condition
from typing import IO

from tomodex.annotation import AnnotatedSeries, to_json
from tomodex.errors import TomodexError, Unavailable
from tomodex.locks import open_lock
from tomodex.queues import Outcome, Status, Task
from tomodex.queues.kafka.cluster import Cluster
from tomodex.queues.kafka.crew import Crew
from tomodex.queues.kafka.ledger import Ledger
from tomodex.queues.kafka.outbox import Fenced, Letter, NotOurs, Outbox, Transaction
from tomodex.queues.kafka.press import Press, result_key
from tomodex.queues.kafka.records import Record, Standing, Wanted, Work, place_of, share_of
from tomodex.queues.kafka.topics import LANES, MOST_BYTES, retry_place
from tomodex.queues.kafka.view import Row, View
from tomodex.queues.sqlite import Verdict

log = logging.getLogger(__name__)

#: How long the first lease waits for the group to say which partitions are ours.
JOIN_S = 15.0

#: How often something is written again that the group refused, while it is shared out anew.
TRIES = 5
PAUSE_S = 0.3

#: Offset, of a message that is not to be sent.
NONE = -1


#: Of a transaction, see `Outbox`.
TIMEOUT_MS = 10_000

#: Workers of a machine that write at once.
MOST_SLOTS = 10_000


@dataclass(frozen=True, slots=True)
class Slot:
    """A number that no other worker of this machine has.

    Whoever comes after one that died has the same, and so ends the transaction that it left open.
    """

    number: int
    lock: IO[bytes] | None  #: None: there are no others

    def close(self) -> None:
        if self.lock is not None:
            self.lock.close()


def take_slot(file: Path | None) -> Slot:
    """The lowest number that is free; locks lie beside the view's file, and go with the process."""
    for number in range(MOST_SLOTS if file else 0):
        lock = open_lock(Path(f"{file}-worker-{number}.lock"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
        else:
            return Slot(number, lock)
    return Slot(0, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """A task that we hold."""

    row: Row  #: as it was when it was taken, with the place of its ticket
    work: Work  #: what was said of it last


class Hands:
    """The tasks that this process holds."""

    def __init__(
        self,
        cluster: Cluster,
        view: View,
        ledger: Ledger,
        press: Press,
        now_ms: Callable[[], int],
        file: Path | None,
    ) -> None:
        self._cluster = cluster
        self._options = cluster.options
        self._view = view
        self._ledger = ledger
        self._press = press
        self._now_ms = now_ms
        self._held: dict[tuple[str, str], Holding] = {}
        self._change = Condition()  # its lock is held while anything is written
        self._crew = Crew(cluster, self._let_go, self._lose)
        self._file = file
        self._slot: Slot | None = None
        self._opened: Outbox | None = None
        self._leases = 0

    @property
    def _outbox(self) -> Outbox:
        """What we write with, from the first task on."""
        if self._opened is None or self._slot is None:
            self._slot = take_slot(self._file)
            name = f"{socket.gethostname()}.{self._view.name()}.{self._slot.number}"
            transactional_id = f"{self._cluster.names.prefix}.worker.{name}"
            self._opened = Outbox(self._cluster, transactional_id, TIMEOUT_MS)
        return self._opened

    # Taken

    def take(self, worker: str, lease_ms: int, avoiding: Collection[str]) -> Row | None:
        """The next task, with the attempt and token of ours; None: there is none for us."""
        if not self._is_in(avoiding):
            return None
        while True:
            fresh = self._crew.fresh()
            self._ledger.catch_up()
            self._crew.accept(fresh)
            with self._change:
                held = [one.row.id for one in self._held.values()]
                fair = self._options.fair
                least = bool(fair) and (self._leases + 1) % fair == 0
                row = self._view.next_task(self._crew.ours(), held, avoiding, least)
                if row is None:
                    return None
                taken = self._take(row, worker, lease_ms)
            if taken is not None:
                self._leases += 1
                return taken

    def _is_in(self, avoiding: Collection[str]) -> bool:
        """Join if need be; wait for that only where something is to be done."""
        self._crew.start()
        if self._crew.wait_joined(0):
            return True
        self._ledger.catch_up()
        open_ones: set[Status] = {"ready", "in-progress"}
        if not any(status in open_ones for _, status in self._view.count()):
            return False
        return self._crew.wait_joined(JOIN_S)

    def _take(self, row: Row, worker: str, lease_ms: int) -> Row | None:
        now = self._now_ms()
        token = max(row.taken + 1, now)
        if row.status == "in-progress" and row.attempt >= self._options.attempts:
            self._fail(row, now, token)
            return None
        work = _work(row, status="in-progress", attempt=row.attempt + 1, token=token,
                     worker=worker, due_ms=now + lease_ms, updated_ms=now)  # fmt: skip
        if not self._write(row, work):
            return None
        taken = row._replace(status="in-progress", attempt=work.attempt, token=token, taken=token)
        self._held[row.series_uid, row.configuration] = Holding(row=taken, work=work)
        return taken

    def _fail(self, row: Row, now: int, token: int) -> None:
        """Give up a task that no worker came back from."""
        sentence = f"{row.attempt} workers did not come back from it"
        work = _work(row, status="failed", attempt=row.attempt, token=token, worker="",
                     reason="worker_lost", sentence=sentence, updated_ms=now)  # fmt: skip
        if self._write(row, work, letters=[self._dead_letter(row, work)]):
            extra = {"series_uid": row.series_uid, "configuration": row.configuration}
            log.error("failed", extra={**extra, "attempt": row.attempt, "reason": "worker_lost"})

    # Held

    def extend(self, task: Task, lease_ms: int) -> bool:
        """Hold a task for longer."""
        with self._change:
            holding = self._holding(task)
            if holding is None:
                return False
            now = self._now_ms()
            work = replace(holding.work, due_ms=now + lease_ms, updated_ms=now)
            if not self._write(holding.row, work):
                self._drop(task)
                return False
            self._held[_key(task)] = replace(holding, work=work)
            return True

    def give_back(self, task: Task) -> bool:
        """Hand a task back untried."""
        with self._change:
            holding = self._holding(task)
            if holding is None:
                return False
            self._drop(task)
            return self._return(holding)

    def _return(self, holding: Holding) -> bool:
        work = replace(holding.work, status="ready", attempt=holding.work.attempt - 1, worker="",
                       due_ms=0, updated_ms=self._now_ms())  # fmt: skip
        return self._write(holding.row, work)

    def _holding(self, task: Task) -> Holding | None:
        """What we hold, if nobody decided otherwise and it is the newest lease."""
        holding = self._held.get(_key(task))
        if holding is None or holding.work.token != task.token:
            return None
        self._ledger.catch_up()
        row = self._view.row(*_key(task))
        # It may be another lease's by now, or nobody's: decided anew, or excluded.
        if row is None or (row.version, row.taken) != (holding.work.version, task.token):
            self._drop(task)
            return None
        return holding

    def _drop(self, task: Task) -> None:
        self._held.pop(_key(task), None)
        self._change.notify_all()

    # Settled

    def settle(self, task: Task, outcome: Outcome, verdict: Verdict) -> bool:
        """Store what came of a task."""
        document = to_json(outcome) if isinstance(outcome, AnnotatedSeries) else None
        if document is not None and len(document) > MOST_BYTES:
            raise ValueError(f"a result of {len(document)} bytes; at most {MOST_BYTES} are taken")
        with self._change:
            holding = self._holding(task)
            if holding is None:
                return False
            work = _settled(holding, outcome, verdict)
            done = self._write_outcome(holding.row, work, outcome, document)
            self._drop(task)
            return done

    def _write_outcome(
        self, row: Row, work: Work, outcome: Outcome, document: bytes | None
    ) -> bool:
        if isinstance(outcome, AnnotatedSeries):
            key = result_key(row.series_uid, row.configuration)
            letter = Letter(topic=self._cluster.names.results, key=key, value=document)

            def standing(offsets: Sequence[int]) -> Sequence[Record]:
                return [_standing(row, work, offsets[0])]

            return self._write(row, work, letters=[letter], records=standing)
        if work.status == "rejected":
            return self._reject(row, work)
        if work.status == "failed":
            return self._write(row, work, letters=[self._dead_letter(row, work)])
        return self._put_off(row, work)

    def _reject(self, row: Row, work: Work) -> bool:
        """Reject a task; another configuration's result stands in for its own, or a tombstone."""
        with self._view.trying() as changes:
            self._view.retract(row.series_uid, row.configuration)

        def publish(transaction: Transaction) -> None:
            self._press.publish(transaction, changes)

        return self._write(row, work, also=publish)

    def _put_off(self, row: Row, work: Work) -> bool:
        """Have a task wait in a topic of retries."""
        place = retry_place((work.due_ms - work.updated_ms) / 1000)
        ticket = self._press.ticket(_wanted(row, work), LANES[row.lane], place,
                                    (("not-before", str(work.due_ms)),))  # fmt: skip
        share = share_of(place, ticket.partition)

        def moved(offsets: Sequence[int]) -> Work:
            return replace(work, share=share, at=offsets[0])

        return self._write(row, work, letters=[ticket], moved=moved)

    def _dead_letter(self, row: Row, work: Work) -> Letter:
        return self._press.dead_letter(_wanted(row, work))

    def _write(
        self,
        row: Row,
        work: Work,
        *,
        letters: Sequence[Letter] = (),
        records: Callable[[Sequence[int]], Sequence[Record]] = lambda offsets: (),
        moved: Callable[[Sequence[int]], Work] | None = None,
        also: Callable[[Transaction], None] = lambda transaction: None,
    ) -> bool:
        """Tell the log, as long as the task's partition is ours; False: it is not.

        Args:
            letters: what else is sent.
            records: more for the log, given the offsets of those.
            moved: the work, given the offset of its new ticket.
            also: sends more.
        """
        for attempt in range(TRIES):
            try:
                with self._outbox.transaction() as transaction:
                    offsets = transaction.send(letters)
                    also(transaction)
                    said = moved(offsets) if moved else work
                    transaction.send(self._press.letters([said, *records(offsets)]))
                    self._commit_place(transaction, row, work)
            except (NotOurs, Fenced) as refused:
                log.info("refused", extra={"sentence": str(refused), "try": attempt})
                time.sleep(PAUSE_S)
                continue
            except Unavailable:
                # Whether it was done is known when a new producer of our id has begun.
                self._outbox.ready()
                self._ledger.catch_up()
                if self._was_written(work):
                    return True
                raise
            self._ledger.catch_up()
            return self._was_written(work)
        return False

    def _commit_place(self, transaction: Transaction, row: Row, work: Work) -> None:
        """The first ticket of the partition that is not done: what tools call its lag."""
        open_still = work.status in ("ready", "in-progress") and work.due_ms == 0
        stays = open_still or work.status == "in-progress"
        offset = self._view.undone(row.share, but=NONE if stays else row.id)
        place, partition = place_of(row.share)
        topic = self._cluster.names.tickets[place]
        transaction.offset(topic, partition, offset, self._crew.metadata())

    def _was_written(self, work: Work) -> bool:
        row = self._view.row(work.series_uid, work.configuration)
        now = row and (row.version, row.taken, row.status, row.attempt)
        return now == (work.version, work.token, work.status, work.attempt)

    # Taken away

    def _let_go(self, partitions: frozenset[int]) -> None:
        """Another worker gets these partitions: wait for our tasks of them, then give them back."""
        until = time.monotonic() + self._options.patience_s
        with self._change:
            while self._of(partitions) and (left := until - time.monotonic()) > 0:
                self._change.wait(left)
            for holding in self._of(partitions):
                self._held.pop((holding.row.series_uid, holding.row.configuration))
                try:
                    self._return(holding)
                except TomodexError as error:
                    log.warning("not given back", extra={"sentence": str(error)})

    def _lose(self, partitions: frozenset[int]) -> None:
        """They are another worker's already."""
        with self._change:
            for holding in self._of(partitions):
                self._held.pop((holding.row.series_uid, holding.row.configuration))
            self._change.notify_all()

    def _of(self, partitions: frozenset[int]) -> Sequence[Holding]:
        held = self._held.values()
        return [one for one in held if place_of(one.row.share)[1] in partitions]

    def close(self) -> None:
        """Leave the group; what is still held is given back."""
        with self._change:
            left = list(self._held.values())
            self._held.clear()
            for holding in left:
                try:
                    self._return(holding)
                except TomodexError as error:
                    log.warning("not given back", extra={"sentence": str(error)})
        self._crew.close()
        if self._opened is not None and self._slot is not None:
            self._opened.close()
            self._slot.close()


def _key(task: Task) -> tuple[str, str]:
    return task.series.series_uid, task.configuration


def _work(row: Row, *, status: Status, attempt: int, token: int, worker: str, updated_ms: int,
          due_ms: int = 0, reason: str = "", sentence: str = "") -> Work:  # fmt: skip
    return Work(
        series_uid=row.series_uid, configuration=row.configuration, version=row.version,
        status=status, due_ms=due_ms, attempt=attempt, token=token, worker=worker, reason=reason,
        sentence=sentence, updated_ms=updated_ms, share=row.share, at=row.at,
    )  # fmt: skip


def _settled(holding: Holding, outcome: Outcome, verdict: Verdict) -> Work:
    """What is said of a task that is done; its series was ordered blindly, if it has no count."""
    series = outcome.series if isinstance(outcome, AnnotatedSeries) else None
    return replace(
        holding.work,
        status=verdict.status,
        reason=verdict.reason,
        sentence=verdict.sentence,
        due_ms=verdict.due_ms,
        updated_ms=verdict.settled_ms,
        instances=series.instance_count if series and not holding.row.fingerprint else None,
        patient=series.patient if series else "",
    )


def _standing(row: Row, work: Work, offset: int) -> Standing:
    return Standing(
        series_uid=row.series_uid, configuration=row.configuration, version=work.version,
        sequence=offset + 1, document=True, listed=False, settled_ms=work.updated_ms,
    )  # fmt: skip


def _wanted(row: Row, work: Work) -> Wanted:
    """As much of a task as its ticket and dead letter say."""
    return Wanted(
        series_uid=row.series_uid, configuration=row.configuration, version=row.version,
        void=0, source=row.source, lane=row.lane, reason=work.reason, sentence=work.sentence,
    )  # fmt: skip
