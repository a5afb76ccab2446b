"""Brings the results feed to an index or a sink, as far as each of them has come.

A consumer may be slow, down or made anew without holding up a worker. Its place in the feed is
confirmed after it has written, so that a crash in between writes again, which does no harm.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from tomodex.annotation import AnnotatedSeries
from tomodex.errors import Misconfigured, TomodexError, Unavailable, Unsuitable
from tomodex.indexes import Index, Staged
from tomodex.options import without_query
from tomodex.queues import Aside, Queue, Result
from tomodex.sinks import Ordered, Sink
from tomodex.worker import Stop, describe, rest

log = logging.getLogger(__name__)

#: Results in one write: some 10 MB of them in memory.
BATCH = 500

#: A sink that refuses all of so many has a fault of its own, and the results are to be kept.
SUSPICIOUS = 20

#: Seconds between two looks at a feed with nothing new: an answer is as old as this at most.
IDLE_S = 2.0

#: And the longest pause of a consumer that may be written only part of the time.
LONGEST_PAUSE_S = 60.0

#: What fails is tried again after so long, twice as long each time, at most.
FIRST_REST_S = 1.0
LONGEST_REST_S = 60.0

#: Results set aside that are named, or tried again at once.
NAMED_ASIDES = 100
MOST_ASIDES = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Lag:
    """How far a consumer is behind the results feed."""

    consumer: str  #: its URL without options
    cursor: int  #: the last entry of the feed that it has
    behind: int  #: entries that it lacks, at most: of those replaced since, only the last will come
    since: str | None  #: RFC 3339, when the first was made; None: it lacks none, or a withdrawal
    asides: tuple[Aside, ...]  #: the newest of what it could not take


def deliver(queue: Queue, consumer: str, sink: Sink, batch: int = BATCH) -> int:
    """Write all that `consumer` has not seen yet; return how many entries of the feed it was.

    Raises:
        Unavailable: the sink did not take it, or somebody else is delivering for too long; what
            was confirmed is kept, and the next call goes on from there.
        Misconfigured: the sink refuses everything.
    """
    delivered = 0
    while some := deliver_batch(queue, consumer, sink, batch):
        delivered += some
    return delivered


def deliver_batch(queue: Queue, consumer: str, sink: Sink, batch: int = BATCH) -> int:
    """Write the next entries of the feed, as `deliver` does; 0 if there are none."""
    with queue.claim(consumer):
        results = queue.results(queue.cursor(consumer), batch)
        if not results:
            if isinstance(sink, Staged):
                sink.complete()
            return 0
        # Of a series that comes twice the later entry is its last word.
        last = list({result.series_uid: result for result in results}.values())
        refused = _bring(sink, last)
        for result, why in refused:
            queue.set_aside(consumer, result, why)
        queue.confirm(consumer, results[-1].sequence)
    facts = {"consumer": without_query(consumer), "results": len(results)}
    erased = sum(result.annotated is None for result in last)
    log.info("delivered", extra={**facts, "erased": erased, "set_aside": len(refused)})
    return len(results)


def rebuild(queue: Queue, consumer: str, index: Index, batch: int = BATCH) -> int:
    """Fill an index anew from the feed; return how many entries it was."""
    begin_anew(queue, consumer, index)
    return deliver(queue, consumer, index, batch)


def begin_anew(queue: Queue, consumer: str, index: Index) -> None:
    """Have an index filled from the beginning of the feed, by whoever delivers to it."""
    with queue.claim(consumer):
        # In this order: whatever stops us in between, the feed is delivered again.
        queue.confirm(consumer, 0)
        if isinstance(index, Staged):
            index.renew()
        else:
            index.clear()


def start_over(queue: Queue, consumer: str) -> None:
    """Have whoever delivers to a consumer begin with the first result again.

    Raises:
        Unavailable: a batch is being delivered for too long.
    """
    with queue.claim(consumer):
        queue.confirm(consumer, 0)


def take_again(queue: Queue, consumer: str, sink: Sink) -> tuple[int, Sequence[Aside]]:
    """Bring what was set aside once more: how many are taken now, and those that are not.

    Raises:
        Unavailable: as `deliver`.
    """
    taken = 0
    # The oldest first, as they would have come.
    for aside in reversed(queue.asides(consumer, MOST_ASIDES)):
        with queue.claim(consumer):
            taken += _take_again(queue, aside, sink)
    return taken, queue.asides(consumer, NAMED_ASIDES)


def _take_again(queue: Queue, aside: Aside, sink: Sink) -> bool:
    results = queue.results(aside.sequence - 1, 1)
    if not results or results[0].sequence != aside.sequence:  # replaced meanwhile
        return False
    for result, why in _bring(sink, results):
        queue.set_aside(aside.consumer, result, why)
        return False
    queue.accept(aside)
    return True


def lag_of(queue: Queue, consumer: str) -> Lag:
    """How far a consumer is behind, and what it could not take."""
    cursor = queue.cursor(consumer)
    first = next(iter(queue.results(cursor, 1)), None)
    made = first.annotated.provenance.finished if first and first.annotated else None
    return Lag(
        consumer=without_query(consumer),
        cursor=cursor,
        behind=max(1, queue.newest() - cursor) if first else 0,
        since=made,
        asides=tuple(queue.asides(consumer, NAMED_ASIDES)),
    )


class Deliverer:
    """Delivers to one consumer for as long as it is wanted, whatever becomes of the other side.

    Args:
        opened_queue: opens the queue; again after every failure, as `opened_sink` the sink.
        consumer: name of its cursor.
        part: of the time that may go into writing: an embedded index keeps those waiting who
            search it meanwhile.
    """

    def __init__(
        self,
        opened_queue: Callable[[], Queue],
        consumer: str,
        opened_sink: Callable[[], Sink],
        part: float = 1.0,
    ) -> None:
        self._opened_queue = opened_queue
        self._consumer = consumer
        self._opened_sink = opened_sink
        self._part = part
        self._failures = 0

    def keep_on(self, stop: Stop) -> None:
        """Deliver until `stop` says so, which is asked between two batches.

        Whatever fails is tried again, later each time: somebody may mend it, and meanwhile it
        holds up no other consumer.
        """
        while not stop():
            try:
                self._deliver(stop)
            except Unavailable as unavailable:
                self._rest(logging.WARNING, str(unavailable), stop)
            except TomodexError as wrong:
                self._rest(logging.ERROR, str(wrong), stop)
            except Exception as bug:  # noqa: BLE001 - other consumers have done nothing wrong
                self._rest(logging.ERROR, describe(bug), stop)

    def _deliver(self, stop: Stop) -> None:
        """Deliver until `stop` or a failure."""
        with closing(self._opened_queue()) as queue, closing(self._opened_sink()) as sink:
            while not stop():
                begin = time.monotonic()
                # Looked before it is claimed: that may cost a queue a conversation.
                while not stop() and _waits(queue, self._consumer):
                    deliver_batch(queue, self._consumer, sink)
                    self._failures = 0
                rest(pause_s(time.monotonic() - begin, self._part), stop)

    def _rest(self, level: int, sentence: str, stop: Stop) -> None:
        seconds = min(FIRST_REST_S * 2.0 ** min(self._failures, 20), LONGEST_REST_S)
        self._failures += 1
        facts = {"consumer": without_query(self._consumer), "again_s": seconds}
        log.log(level, "not delivered", extra={**facts, "sentence": sentence})
        rest(seconds, stop)


def _waits(queue: Queue, consumer: str) -> bool:
    """Whether there is something to deliver."""
    return bool(queue.results(queue.cursor(consumer), 1))


def pause_s(took_s: float, part: float) -> float:
    """Seconds until the next delivery, so that writing takes no more than this part of the time."""
    return min(max(IDLE_S, took_s / part - took_s), LONGEST_PAUSE_S)


def _bring(sink: Sink, results: Sequence[Result]) -> list[tuple[Result, str]]:
    """Have a sink forget and take what it will; return the others, each with the reason why not."""
    gone = [result for result in results if result.annotated is None]
    there = [result for result in results if result.annotated is not None]

    refused = [*_refused(partial(_erase, sink), gone), *_refused(partial(_write, sink), there)]
    if len(refused) == len(results) >= SUSPICIOUS:
        raise Misconfigured(
            f"the sink takes none of {len(results)} results; of the last it says: {refused[-1][1]}"
        )
    return refused


def _erase(sink: Sink, some: Sequence[Result]) -> None:
    if isinstance(sink, Ordered):
        sink.erase_entries({result.sequence: result.series_uid for result in some})
    else:
        sink.erase([result.series_uid for result in some])


def _write(sink: Sink, some: Sequence[Result]) -> None:
    if isinstance(sink, Ordered):
        sink.write_entries({r.sequence: r.annotated for r in some if r.annotated is not None})
    else:
        sink.write(_documents(some))


def _refused(
    bring: Callable[[Sequence[Result]], None], results: Sequence[Result]
) -> Iterator[tuple[Result, str]]:
    """Bring by halves around what the sink cannot take."""
    if not results:
        return
    try:
        bring(results)
    except (Unsuitable, ValueError) as poison:
        if len(results) == 1:
            yield results[0], describe(poison)
            return
        middle = len(results) // 2
        yield from _refused(bring, results[:middle])
        yield from _refused(bring, results[middle:])


def _documents(results: Sequence[Result]) -> list[AnnotatedSeries]:
    return [result.annotated for result in results if result.annotated is not None]
