"""Results at their offsets, and how far each consumer of them has come.

The topic has one partition, so that a result's sequence is its offset and 1, and a consumer's place
is the committed offset of a group of its own, which every tool for Kafka shows.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from threading import Lock, RLock, Timer
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from tomodex.errors import Unavailable
from tomodex.queues.kafka.cluster import PATIENCE_S, Cluster
from tomodex.queues.kafka.ledger import FOR_A_MOMENT

_T = TypeVar("_T")

#: Messages that are read at once: some 10 MB of them in memory.
BATCH = 100

#: A result so little further on is read up to; one that is further is looked for.
NEAR = 200

#: Before every offset, and near to none.
NOWHERE = -NEAR - 2

#: One who delivers is taken for dead after so long.
SESSION_MS = 10_000

#: One who has delivered remains the one who delivers for so long.
LINGER_S = 1.0

#: Kafka forgets the place of a group that nobody is in after some days, by default 7.
RENEW_S = 3600.0


class Feed:
    """The topic of results."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._topic = cluster.names.results
        self._lock = RLock()
        self._reader: Consumer | None = None
        self._place = NOWHERE
        self._consumers: dict[str, _Place] = {}
        self._claims: defaultdict[str, Lock] = defaultdict(Lock)

    def read(self, sequences: Sequence[int]) -> Mapping[int, bytes]:
        """The JSON of these results, which grow; one that a newer one has replaced is left out.

        Raises:
            Unavailable: the broker does not answer.
        """
        found: dict[int, bytes] = {}
        left = list(sequences)
        until = time.monotonic() + self._cluster.options.busy_s
        with self._lock:
            while left:
                if time.monotonic() > until:
                    raise Unavailable(
                        f"Kafka at {self._cluster.servers}: results cannot be read from the topic"
                    )
                self._turn_to(left[0] - 1)
                end = self._read_some(frozenset(left), found)
                left = [one for one in left if one > end]
        return found

    def _turn_to(self, offset: int) -> None:
        if self._reader is None:
            # What the view names is committed; who waits for open transactions waits for nothing.
            self._reader = self._cluster.consumer(
                f"{self._cluster.names.prefix}.view",
                isolation_level="read_uncommitted",
                enable_partition_eof=True,
                fetch_wait_max_ms=self._cluster.options.fetch_ms,
            )
        if not self._place <= offset <= self._place + NEAR:
            self._reader.assign([TopicPartition(self._topic, 0, offset)])
            self._place = offset

    def _read_some(self, wanted: frozenset[int], found: dict[int, bytes]) -> int:
        """Up to which sequence was read."""
        assert self._reader is not None
        first = self._reader.poll(1.0)
        messages: list[Any] = [first, *self._reader.consume(BATCH, 0)] if first else []
        for message in messages:
            error = message.error()
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    self._place = max(self._place, message.offset())
                elif error.code() not in FOR_A_MOMENT:
                    self._place = NOWHERE
                    raise self._cluster.named(error)
                continue
            self._place = message.offset() + 1
            if self._place in wanted and message.value() is not None:
                found[self._place] = message.value()
        return self._place

    # How far consumers are

    def cursor(self, consumer: str) -> int:
        """What the consumer confirmed last."""
        place = self._place_of(consumer)
        with place.lock, self._cluster.named_errors():
            at = [TopicPartition(self._topic, 0)]
            (told,) = self._patiently(lambda: place.opened().committed(at, PATIENCE_S))
            sequence = max(0, int(told.offset))
            # Whoever only asks moves nothing: it may have been confirmed anew meanwhile.
            if sequence and place.is_ours and time.monotonic() > place.renewed_s + RENEW_S:
                self.confirm(consumer, sequence)
        return sequence

    def confirm(self, consumer: str, sequence: int) -> None:
        """Commit what the consumer has done."""
        place = self._place_of(consumer)
        at = [TopicPartition(self._topic, 0, sequence)]
        with place.lock, self._cluster.named_errors():
            self._patiently(lambda: place.opened().commit(offsets=at, asynchronous=False))
        place.renewed_s = time.monotonic()

    def _patiently(self, ask: Callable[[], _T]) -> _T:
        until = time.monotonic() + self._cluster.options.busy_s
        while True:
            try:
                return ask()
            except KafkaException as error:
                passing = FOR_A_MOMENT | {
                    KafkaError.REBALANCE_IN_PROGRESS,
                    KafkaError.COORDINATOR_NOT_AVAILABLE,
                    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
                    KafkaError.NOT_COORDINATOR,
                }
                if error.args[0].code() not in passing or time.monotonic() > until:
                    raise
            time.sleep(0.1)

    @contextmanager
    def claim(self, consumer: str) -> Iterator[None]:
        """Be the one member of the consumer's group.

        Raises:
            Unavailable: another is, for too long.
        """
        busy_s = self._cluster.options.busy_s
        held = self._claims[consumer]
        if not held.acquire(timeout=busy_s):
            raise Unavailable(f"another thread is delivering to {consumer}")
        place = self._place_of(consumer)
        try:
            with self._cluster.named_errors():
                if not place.join(busy_s):
                    raise Unavailable(f"another process is delivering to {consumer}")
            yield
        finally:
            place.leave_soon()
            held.release()

    def _place_of(self, consumer: str) -> _Place:
        with self._lock:
            if consumer not in self._consumers:
                self._consumers[consumer] = _Place(self._cluster, consumer)
            return self._consumers[consumer]

    def close(self) -> None:
        with self._lock:
            for place in self._consumers.values():
                place.leave()
            if self._reader is not None:
                self._reader.close()
                self._reader = None


class _Place:
    """A consumer's group: asked for its offset, or joined to be the one who moves it."""

    def __init__(self, cluster: Cluster, consumer: str) -> None:
        self._cluster = cluster
        self._group = group_of(cluster.names.prefix, consumer)
        self._consumer: Consumer | None = None
        self._leaving: Timer | None = None
        self._joined = False
        self._ours = False
        self.lock = RLock()
        self.renewed_s = -RENEW_S

    @property
    def is_ours(self) -> bool:
        """Whether we are the one member of the group."""
        return self._ours

    def opened(self) -> Consumer:
        if self._consumer is None:
            self._consumer = self._cluster.consumer(
                self._group,
                session_timeout_ms=SESSION_MS,
                heartbeat_interval_ms=SESSION_MS // 4,
                max_poll_interval_ms=86_400_000,
                partition_assignment_strategy="cooperative-sticky",
            )
        return self._consumer

    def join(self, busy_s: float) -> bool:
        """Whether we are the one, after at most so long."""
        with self.lock:
            if self._leaving is not None:
                self._leaving.cancel()
                self._leaving = None
            consumer = self.opened()
            if not self._joined:
                topics = [self._cluster.names.results]
                consumer.subscribe(
                    topics, on_assign=self._take, on_revoke=self._let_go, on_lost=self._let_go
                )
                self._joined = True
            until = time.monotonic() + busy_s
            consumer.poll(0)  # it may have been lost
            while not self._ours and time.monotonic() < until:
                message = consumer.poll(0.05)
                error = message.error() if message is not None else None
                if error is not None and error.code() not in FOR_A_MOMENT:
                    raise KafkaException(error)
            return self._ours

    def _take(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        consumer.incremental_assign(partitions)
        consumer.pause(partitions)
        self._ours = self._ours or bool(partitions)

    def _let_go(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        consumer.incremental_unassign(partitions)
        self._ours = False

    def leave_soon(self) -> None:
        with self.lock:
            self._leaving = Timer(LINGER_S, self.leave)
            self._leaving.daemon = True
            self._leaving.start()

    def leave(self) -> None:
        with self.lock:
            if self._leaving is not None:
                self._leaving.cancel()
                self._leaving = None
            consumer, self._consumer = self._consumer, None
            self._joined = self._ours = False
            if consumer is not None:
                consumer.close()


def group_of(prefix: str, consumer: str) -> str:
    """The group of a consumer: as much of its name as tools can show, and what tells it apart."""
    shown = re.sub(r"[^A-Za-z0-9._-]+", "-", consumer).strip("-")[:80]
    return f"{prefix}.to.{shown}.{sha256(consumer.encode()).hexdigest()[:8]}"
