"""Delivers results in processes of their own, one for each index or sink: `tomodex deliver`.

So one that is slow or does not answer holds up no other, and no worker. Any number of these may
run: of two that deliver to the same, one waits while the other writes.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from urllib.parse import urlsplit

from tomodex.delivery import Deliverer, Lag, deliver_batch, lag_of, start_over, take_again
from tomodex.erasing import erasing_beside
from tomodex.errors import BadQuery, Unavailable
from tomodex.heartbeat import beat, beating, working
from tomodex.indexes import EMBEDDED
from tomodex.logs import log_to_stderr
from tomodex.options import without_query
from tomodex.queues import Aside
from tomodex.settings import Settings
from tomodex.wiring import consumer_names, consumer_openers, queue_of
from tomodex.worker import FINISH_S, Main, Stop, run_workers

log = logging.getLogger(__name__)

#: What part of the time an embedded index may be written: who searches it waits meanwhile, so one
#: answer in twenty is late at most.
PART = 0.04

#: What a person may call the index.
INDEX = "index"


def deliver_until_told(settings: Settings, consumers: Sequence[str]) -> None:
    """Deliver to these until SIGTERM or Ctrl-C; what is being written then is finished.

    What is begun to be erased elsewhere is erased here too.

    Raises:
        Misconfigured: one of them cannot be used with these settings.
    """
    require_consumers(settings, consumers)
    log.info("delivering", extra={"consumers": [without_query(name) for name in consumers]})
    mains = deliverers(settings, consumers)
    with beating(settings.data, "deliver"), erasing_beside(settings):
        working()
        run_workers(
            0,
            mains[0],
            bury=lambda worker: 0,
            finished=lambda: False,
            progress=beat,
            beside=mains,
            finish_s=FINISH_S,
        )


def deliverers(settings: Settings, consumers: Sequence[str]) -> list[Main]:
    """What each process does that delivers to one of these."""
    return [partial(be_deliverer, settings, name) for name in consumers]


def be_deliverer(settings: Settings, consumer: str, name: str, stop: Stop) -> None:
    """What the process beside the workers does that delivers to one consumer."""
    log_to_stderr(settings.log_level, settings.log_format)
    opened_sink = consumer_openers(settings)[consumer]
    part = PART if urlsplit(consumer).scheme in EMBEDDED else 1.0
    Deliverer(partial(queue_of, settings), consumer, opened_sink, part).keep_on(stop)


def deliver_once(settings: Settings, consumers: Sequence[str]) -> Mapping[str, int]:
    """Bring each of these all that is in the feed now; how many entries, by name.

    Raises:
        TomodexError: one failed, so to be called again; the others have got all.
    """
    ended = threading.Event()
    delivered = dict.fromkeys(consumers, 0)
    with ThreadPoolExecutor(len(consumers), "deliver") as threads:
        jobs = [
            threads.submit(_deliver_all, settings, name, delivered, ended.is_set)
            for name in consumers
        ]
        try:
            failed = [job.exception() for job in jobs]
        finally:  # somebody has asked us to end
            ended.set()
    for error in failed:
        if error is not None:
            raise error
    return {without_query(name): count for name, count in delivered.items()}


def _deliver_all(settings: Settings, name: str, delivered: dict[str, int], stop: Stop) -> None:
    """Deliver what is there; what comes meanwhile is left to the next time."""
    with closing(queue_of(settings)) as queue, closing(consumer_openers(settings)[name]()) as sink:
        last = queue.newest()
        while not stop() and queue.cursor(name) < last:
            some = deliver_batch(queue, name, sink)
            delivered[name] += some
            if not some:
                break


def require_consumers(settings: Settings, consumers: Sequence[str]) -> None:
    """Open each of these for a moment, so that what is wrong with the settings shows now.

    Raises:
        Misconfigured: one cannot be used.
    """
    openers = consumer_openers(settings)
    for name in consumers:
        with suppress(Unavailable):
            openers[name]().close()


def named_consumers(settings: Settings, given: Sequence[str]) -> tuple[str, ...]:
    """Names of the cursors that a person means: URLs, without options too, or `index`; none: all.

    Raises:
        BadQuery: one is not configured, or two are the same but for their options.
    """
    known = consumer_names(settings)
    return tuple(dict.fromkeys(_named(settings, one, known) for one in given)) or known


def _named(settings: Settings, given: str, known: Sequence[str]) -> str:
    if given in known:
        return given
    if given == INDEX:
        return settings.index_url
    meant = [name for name in known if without_query(name) == given]
    if len(meant) == 1:
        return meant[0]
    shown = ", ".join(without_query(name) for name in known)
    raise BadQuery(
        f"{without_query(given)} is {'more than' if meant else 'not'} one of what results are "
        f"delivered to: {shown}; `index` is the first"
    )


def lags_of(settings: Settings) -> list[Lag]:
    """How far each index and sink is behind."""
    with closing(queue_of(settings)) as queue:
        return [lag_of(queue, name) for name in consumer_names(settings)]


def redeliver(settings: Settings, consumer: str) -> int:
    """Have a consumer brought everything again by who delivers to it; how many entries at most."""
    with closing(queue_of(settings)) as queue:
        start_over(queue, consumer)
        return queue.newest()


def redeliver_set_aside(settings: Settings, consumer: str) -> tuple[int, Sequence[Aside]]:
    """Bring a consumer what it could not take; how much it takes now, and what it does not.

    Raises:
        Unavailable: it does not answer.
    """
    opened = consumer_openers(settings)[consumer]
    with closing(queue_of(settings)) as queue, closing(opened()) as sink:
        return take_again(queue, consumer, sink)
