"""Index a source from its listing to the index, in one go: what `tomodex index` does."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from tomodex.delivering import PART
from tomodex.delivery import IDLE_S, deliver, pause_s, rebuild
from tomodex.discovery import MAY_VANISH_PERCENT, Discovery, discover
from tomodex.errors import TomodexError, Unavailable
from tomodex.logs import log_to_stderr
from tomodex.queues import Lane, Queue, Status
from tomodex.segmenters import require_segmenter
from tomodex.selection import load_rules
from tomodex.settings import Settings
from tomodex.sinks import Sink
from tomodex.sources import Progress
from tomodex.sources.gate import Suspension
from tomodex.wiring import (
    annotator_of,
    avoided_sources,
    bounds_of,
    consumers_of,
    index_of,
    left_alone,
    queue_of,
    source_of,
    with_source,
)
from tomodex.worker import Stop, bury_the_dead, run_workers, work

log = logging.getLogger(__name__)

#: Makes the progress of something that is about to be done, by its title.
ProgressOf = Callable[[str], Progress]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a source held, and what the queue says of all series now."""

    found: int  #: series that the source holds
    new: int  #: of those, put for the first time or changed since
    skipped: Mapping[str, int]  #: files that hold no instance, by reason
    indexed: int
    rejected: Mapping[str, int]  #: by reason
    failed: int
    waiting: int  #: for another try, because something outside did not answer
    suspended: tuple[Suspension, ...]  #: archives that are left alone now, and until when
    withdrawn: int  #: known before, and no longer in the source
    delivered: int  #: results that the index and the sinks took in this run
    seconds: float


def index_source(
    given: Settings,
    source: str,
    lane: Lane,
    progress: ProgressOf,
    may_vanish_percent: float = MAY_VANISH_PERCENT,
) -> Summary:
    """List a source, work off the queue, and deliver the results.

    `source` is a name that the settings give one, a URL or a folder.

    Raises:
        Unavailable: the source or the index did not answer; what was done is kept.
        Misconfigured: something is missing that a worker would miss only later.
    """
    begin = time.monotonic()
    settings = with_source(given, source)
    for segmenter in settings.segmenters:
        require_segmenter(segmenter)
    queue = queue_of(settings)
    archive = source_of(settings, source)
    # Before a listing that may take hours: what is wrong with a sink shows now.
    delivery = Delivery(queue, consumers_of(settings) if settings.delivery == "here" else {})
    discovery = discover(
        archive,
        load_rules(settings.rules),
        queue,
        lane=lane,
        configuration=settings.configuration,
        progress=progress("looking through files"),
        may_vanish_percent=may_vanish_percent,
    )
    delivered = work_off(settings, queue, delivery, progress)
    suspended = tuple(left_alone(settings))
    seconds = time.monotonic() - begin
    return _summary(queue, discovery, archive.skipped(), suspended, delivered, seconds)


def work_off(settings: Settings, queue: Queue, delivery: Delivery, progress: ProgressOf) -> int:
    """Work until nothing can be done now, delivering all along; return how much was delivered."""
    bury_the_dead(queue)
    if queue.is_due():
        watch = Watch(settings, queue, delivery, progress("indexing series"))
        run_workers(
            settings.workers,
            partial(be_worker, settings),
            bury=queue.bury,
            finished=watch.nothing_to_do,
            progress=watch.look,
        )
    delivery.finish()
    return delivery.delivered


def be_worker(settings: Settings, worker: str, stop: Stop) -> None:
    """What each worker process does."""
    log_to_stderr(settings.log_level, settings.log_format)
    bounds = bounds_of(settings)
    # Closed however it ends: in a cluster the others wait for one who left without a word.
    with closing(queue_of(settings)) as queue:
        work(
            queue,
            annotator_of(settings, bounds.expect),
            worker=worker,
            stop=stop,
            lease=timedelta(seconds=settings.lease_s),
            bounds=bounds,
            avoiding=avoided_sources(settings),
        )


def rebuild_index(settings: Settings) -> int:
    """Make the index anew from the results in the queue; return how many there are."""
    return rebuild(queue_of(settings), settings.index_url, index_of(settings))


class Delivery:
    """Delivers to every consumer, now and then while workers work, and all of it at the end."""

    def __init__(self, queue: Queue, consumers: Mapping[str, Sink]) -> None:
        self._queue = queue
        self._consumers = consumers
        self._next = time.monotonic() + IDLE_S
        self.delivered = 0

    def now_and_then(self) -> None:
        """Deliver if it is time; a consumer that does not answer is asked again later."""
        begin = time.monotonic()
        if begin < self._next:
            return
        try:
            self.finish()
        except Unavailable as unavailable:
            log.warning("not delivered", extra={"sentence": str(unavailable)})
        end = time.monotonic()
        self._next = end + pause_s(end - begin, PART)

    def finish(self) -> None:
        """Deliver what is left; a consumer that does not answer holds up no other.

        Raises:
            Unavailable: one did not answer; the others have got all.
            Misconfigured: the same of one that cannot be used.
        """
        failed: list[TomodexError] = []
        for name, sink in self._consumers.items():
            try:
                self.delivered += deliver(self._queue, name, sink)
            except TomodexError as error:
                failed.append(error)
        if failed:
            # What only the operator can mend comes first.
            raise min(failed, key=lambda error: isinstance(error, Unavailable))


class Watch:
    """Looks on while workers work: shows how far they are, and notices when they are done."""

    def __init__(
        self, settings: Settings, queue: Queue, delivery: Delivery, progress: Progress
    ) -> None:
        self._settings = settings
        self._queue = queue
        self._delivery = delivery
        self._progress = progress
        self._before = _settled(queue.count())
        self._all = _waiting(queue.count())

    def look(self) -> None:
        """Show how many of the waiting series are settled, and deliver what came of them."""
        self._progress(_settled(self._queue.count()) - self._before, self._all)
        self._delivery.now_and_then()

    def nothing_to_do(self) -> bool:
        """Nobody has a task in hand, and what waits, waits for its time or its archive's."""
        suspended = {one.source for one in left_alone(self._settings)}
        avoiding = suspended | avoided_sources(self._settings)
        # In this order: what is leased in between is then seen in hand.
        return not (self._queue.is_due(avoiding) or _of(self._queue.count(), "in-progress"))


def _summary(
    queue: Queue,
    discovery: Discovery,
    skipped: Mapping[str, int],
    suspended: tuple[Suspension, ...],
    delivered: int,
    seconds: float,
) -> Summary:
    counts = queue.count()
    rejected = Counter(
        {why: n for (status, why), n in queue.reasons().items() if status == "rejected"}
    )
    return Summary(
        found=discovery.found,
        new=discovery.new,
        skipped=skipped,
        indexed=_of(counts, "completed"),
        rejected=dict(rejected.most_common()),
        failed=_of(counts, "failed"),
        waiting=_waiting(counts),
        suspended=suspended,
        withdrawn=discovery.withdrawn,
        delivered=delivered,
        seconds=round(seconds, 3),
    )


def _of(counts: Mapping[tuple[Lane, Status], int], *statuses: Status) -> int:
    return sum(n for (_, status), n in counts.items() if status in statuses)


def _waiting(counts: Mapping[tuple[Lane, Status], int]) -> int:
    return _of(counts, "ready", "in-progress")


def _settled(counts: Mapping[tuple[Lane, Status], int]) -> int:
    return _of(counts, "completed", "rejected", "failed")
