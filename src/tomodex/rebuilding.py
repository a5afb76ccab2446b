"""Makes the index anew for somebody who asked for it over HTTP, in the process that serves."""

from __future__ import annotations

import logging
from threading import Event, Thread

from tomodex.delivery import begin_anew, deliver_batch
from tomodex.errors import TomodexError, Unavailable
from tomodex.indexes import Index
from tomodex.operations import Operation, Operations
from tomodex.queues import Queue
from tomodex.settings import Settings
from tomodex.wiring import index_of, operations_of, queue_of
from tomodex.worker import describe

log = logging.getLogger(__name__)

#: What such an operation is called.
KIND = "rebuild"

#: A batch of results takes a second or two; putting all in order, some 30.
LEASE_S = 300.0

#: How often to look whether somebody has asked.
PAUSE_S = 2.0

#: How long a look may take that is under way when the process ends.
END_S = 3.0


class Rebuilder:
    """A thread that makes the index anew whenever it was asked for."""

    def __init__(self, settings: Settings) -> None:
        self._operations = operations_of(settings)
        self._queue = queue_of(settings)
        self._consumer = settings.index_url
        self._index = index_of(settings)
        self._ended = Event()
        self._thread = Thread(target=self._run, name="rebuilder", daemon=True)

    def start(self) -> None:
        """Begin to look whether somebody asks."""
        self._thread.start()

    def end(self) -> None:
        """Begin nothing more; what is under way is taken up by the next process that serves."""
        self._ended.set()
        self._thread.join(END_S)

    def _run(self) -> None:
        while not self._ended.wait(PAUSE_S):
            try:
                rebuild_next(self._operations, self._queue, self._consumer, self._index)
            except TomodexError as error:
                log.warning("not rebuilt", extra={"sentence": str(error)})


def rebuild_next(operations: Operations, queue: Queue, consumer: str, index: Index) -> bool:
    """Make the index anew if somebody has asked for it; False if nobody has."""
    held = operations.lease({KIND}, LEASE_S)
    if held is None:
        return False
    try:
        done = _rebuild(operations, held, queue, consumer, index)
    except Unavailable as unavailable:
        # Its lease runs out, and it is taken up again.
        operations.complain(held, f"attempt {held.attempt}: {unavailable}")
    except TomodexError as wrong:
        operations.fail(held, str(wrong))
    except Exception as bug:  # noqa: BLE001 - who asked is told, and the server goes on
        operations.fail(held, describe(bug))
    else:
        operations.finish(held, {"results": str(done)})
    return True


def _rebuild(
    operations: Operations, held: Operation, queue: Queue, consumer: str, index: Index
) -> int:
    """All results, delivered again; how many it were."""
    begin_anew(queue, consumer, index)
    done = 0
    while some := deliver_batch(queue, consumer, index):
        done += some
        operations.report(held, done, None, LEASE_S)
    return done
