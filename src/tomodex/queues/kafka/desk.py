"""Decisions, one at a time in the whole cluster.

Whoever decides has the one transactional id of the queue. Of two processes at once, Kafka refuses
what the first one commits after the second has begun; the first then looks again and decides anew.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import TypeVar

from tomodex.errors import Unavailable
from tomodex.queues.kafka.changes import Changes
from tomodex.queues.kafka.cluster import Cluster
from tomodex.queues.kafka.ledger import Ledger
from tomodex.queues.kafka.mending import mend
from tomodex.queues.kafka.outbox import Fenced, Outbox, Unsure
from tomodex.queues.kafka.press import Press
from tomodex.queues.kafka.view import View
from tomodex.queues.sqlite_file import lock_file

_T = TypeVar("_T")

#: The longest pause of one who was fenced, seconds.
LONGEST_PAUSE_S = 2.0

#: Of a transaction: some 100,000 tasks are put in one.
TIMEOUT_MS = 60_000

Act = Callable[[View, Changes], _T]


class Desk:
    """Where put, withdraw, retry and the like are decided.

    Args:
        file: beside it processes of this machine take turns; None: there is one process.
    """

    def __init__(
        self, cluster: Cluster, view: View, ledger: Ledger, press: Press, file: Path | None
    ) -> None:
        self._cluster = cluster
        self._view = view
        self._ledger = ledger
        self._press = press
        self._file = file
        self._lock = RLock()
        self._outbox = Outbox(cluster, f"{cluster.names.prefix}.desk", TIMEOUT_MS)

    def decide(self, act: Act[_T]) -> _T:
        """What `act` answers, which is tried out on the view and then told to the log.

        It may be called several times, if others decide at the same time.

        Raises:
            Unavailable: others decide all the time, or the broker does not answer.
        """
        with self._turn():
            answer = self._decide_in_time(act)
            # Somebody may have settled meanwhile what is not wanted since.
            if self._view.is_astray():
                self._decide_in_time(_nothing)
            return answer

    def mend(self) -> None:
        """Repair what should not be in the topics, if anything; raises as `decide`."""
        if self._view.is_astray():
            with self._turn():
                self._decide_in_time(_nothing)

    def _decide_in_time(self, act: Act[_T]) -> _T:
        until = time.monotonic() + self._cluster.options.busy_s
        pause_s = 0.02
        while True:
            try:
                return self._decide_once(act)
            # Where it was done after all, there is nothing left to decide.
            except (Fenced, Unsure):
                if time.monotonic() > until:
                    raise
            time.sleep(random.uniform(0, pause_s))
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    def _decide_once(self, act: Act[_T]) -> _T:
        # In this order: what the last who decided has said is in the view, or we are fenced.
        self._outbox.ready()
        self._ledger.catch_up()
        with self._view.trying() as changes:
            mend(self._view, changes, self._cluster.names)
            answer = act(self._view, changes)
        if changes:
            with self._outbox.transaction() as transaction:
                self._press.publish(transaction, changes)
            self._ledger.catch_up()
        return answer

    @contextmanager
    def _turn(self) -> Iterator[None]:
        busy_s = self._cluster.options.busy_s
        if not self._lock.acquire(timeout=busy_s):
            raise Unavailable("another thread decides for too long")
        try:
            if self._file is None:
                yield
            else:
                with lock_file(str(self._file), "desk", busy_s):
                    yield
        finally:
            self._lock.release()

    def close(self) -> None:
        self._outbox.close()


def _nothing(view: View, changes: Changes) -> None:
    """Decides nothing, but for what is to be mended."""
