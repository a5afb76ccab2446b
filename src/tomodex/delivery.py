"""Brings the results feed to an index or a sink, as far as each of them has come.

A consumer may be slow, down or made anew without holding up a worker. Its place in the feed is
confirmed after it has written, so that a crash in between writes again, which does no harm.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from tomodex.annotation import AnnotatedSeries
from tomodex.errors import Misconfigured, Unsuitable
from tomodex.heartbeat import beat
from tomodex.indexes import Index
from tomodex.queues import Queue, Result
from tomodex.sinks import Sink
from tomodex.worker import describe

log = logging.getLogger(__name__)

#: Results in one write: some 10 MB of them in memory.
BATCH = 500

#: A sink that refuses all of so many has a fault of its own, and the results are to be kept.
SUSPICIOUS = 20


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
    beat()  # there may be thousands of batches
    with queue.claim(consumer):
        results = queue.results(queue.cursor(consumer), batch)
        if not results:
            return 0
        # Of a series that comes twice the later entry is its last word.
        last = {result.series_uid: result for result in results}.values()
        gone = [result.series_uid for result in last if result.annotated is None]
        if gone:
            sink.erase(gone)
        refused = _write(sink, [result for result in last if result.annotated is not None])
        for result, why in refused:
            queue.set_aside(consumer, result, why)
        queue.confirm(consumer, results[-1].sequence)
    facts = {"consumer": consumer, "results": len(results), "erased": len(gone)}
    log.info("delivered", extra={**facts, "set_aside": len(refused)})
    return len(results)


def rebuild(queue: Queue, consumer: str, index: Index, batch: int = BATCH) -> int:
    """Fill an index anew from the feed; return how many entries it was."""
    with queue.claim(consumer):
        # In this order: whatever stops us in between, the feed is delivered again.
        queue.confirm(consumer, 0)
        index.clear()
    return deliver(queue, consumer, index, batch)


def _write(sink: Sink, results: Sequence[Result]) -> list[tuple[Result, str]]:
    """Write what the sink takes; return the others, each with the reason why not."""
    refused = list(_refused(sink, results))
    if len(refused) == len(results) >= SUSPICIOUS:
        raise Misconfigured(
            f"the sink takes none of {len(results)} results; of the last it says: {refused[-1][1]}"
        )
    return refused


def _refused(sink: Sink, results: Sequence[Result]) -> Iterator[tuple[Result, str]]:
    """Write by halves around what the sink cannot take."""
    if not results:
        return
    try:
        sink.write(_documents(results))
    except (Unsuitable, ValueError) as poison:
        if len(results) == 1:
            yield results[0], describe(poison)
            return
        middle = len(results) // 2
        yield from _refused(sink, results[:middle])
        yield from _refused(sink, results[middle:])


def _documents(results: Sequence[Result]) -> list[AnnotatedSeries]:
    return [result.annotated for result in results if result.annotated is not None]
