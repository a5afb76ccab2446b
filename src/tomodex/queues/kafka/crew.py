"""Which partitions are ours, as one worker among many.

A thread of its own polls all along, with everything paused, so that a task may take as long as it
takes. Kafka shares out the partitions anew whenever a worker comes or goes.

All topics of tickets have the same number of partitions, and who has a partition of the first has
it of all. Kafka's assignor counts partitions and not topics: of two workers it would give one the
lanes, and the other the retries.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Collection
from threading import Event, RLock, Thread
from typing import Any

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaException,
    TopicPartition,
)

from tomodex.errors import Misconfigured, TomodexError, Unavailable
from tomodex.queues.kafka.cluster import PATIENCE_S, Cluster
from tomodex.queues.kafka.ledger import FOR_A_MOMENT

log = logging.getLogger(__name__)

POLL_S = 0.1

#: How soon a worker hears that another has come or gone; partitions move after two or three.
HEARTBEAT_MS = 1000

#: How librdkafka begins what it says of a member; generation, group and member follow.
METADATA = b"CGMDv2:"

#: Waits until tasks of these partitions are done, or gives them back.
LetGo = Callable[[frozenset[int]], None]


class Crew:
    """Our membership in the group of all workers, from its first use on.

    Args:
        let_go: called before partitions are given away; it may take the options' `patience_s`.
        lose: called when they are somebody else's already.
    """

    def __init__(self, cluster: Cluster, let_go: LetGo, lose: LetGo) -> None:
        self._cluster = cluster
        self._let_go = let_go
        self._lose = lose
        self._lock = RLock()
        self._ours: frozenset[int] = frozenset()
        self._fresh: frozenset[int] = frozenset()
        self._trouble: TomodexError | None = None
        self._joined = Event()
        self._closing = Event()
        self._metadata: bytes | None = None
        self._consumer: Consumer | None = None
        self._thread: Thread | None = None

    def start(self) -> None:
        """Join, unless it was done before."""
        if self._thread is not None:
            return
        options = self._cluster.options
        session_ms = round(options.session_s * 1000)
        self._consumer = self._cluster.consumer(
            self._cluster.names.workers,
            isolation_level="read_committed",
            partition_assignment_strategy="cooperative-sticky",
            session_timeout_ms=session_ms,
            heartbeat_interval_ms=min(HEARTBEAT_MS, session_ms // 5),
            max_poll_interval_ms=round(options.poll_s * 1000),
            queued_min_messages=1,
        )
        is_member(self._consumer.consumer_group_metadata())  # or we could not know it later
        self._thread = Thread(target=self._poll, name="kafka-crew", daemon=True)
        self._thread.start()

    def wait_joined(self, seconds: float) -> bool:
        """Whether the group has said which partitions are ours, which may be none."""
        return self._joined.wait(seconds)

    def ours(self) -> frozenset[int]:
        """Partitions whose tasks we may take.

        Raises:
            Misconfigured: the group cannot be joined.
        """
        with self._lock:
            if isinstance(self._trouble, Misconfigured):
                raise self._trouble
            return self._ours

    def fresh(self) -> frozenset[int]:
        """Partitions that we have just got, once what their last owner has begun is ended."""
        with self._lock:
            fresh = self._fresh
        if fresh:
            self._wait_stable(fresh)
        return fresh

    def _wait_stable(self, partitions: frozenset[int]) -> None:
        """Kafka does not answer before the last owner's transaction is committed or aborted."""
        names = self._cluster.names
        asked = ConsumerGroupTopicPartitions(
            names.workers,
            [TopicPartition(topic, number) for topic in names.tickets for number in partitions],
        )
        until = time.monotonic() + self._cluster.options.busy_s
        while True:
            try:
                if self._is_stable(asked):
                    return
            except Unavailable:
                if time.monotonic() > until:
                    raise
            time.sleep(POLL_S)

    def _is_stable(self, asked: ConsumerGroupTopicPartitions) -> bool:
        admin = self._cluster.admin()
        (answer,) = admin.list_consumer_group_offsets([asked], require_stable=True).values()
        try:
            with self._cluster.named_errors():
                places = answer.result(PATIENCE_S).topic_partitions
        except TimeoutError as late:
            raise Unavailable(f"Kafka at {self._cluster.servers} does not say who has it") from late
        return not any(place.error for place in places)

    def accept(self, fresh: frozenset[int]) -> None:
        """The view has all that was said of these before they were ours."""
        with self._lock:
            self._ours |= fresh & self._fresh
            self._fresh -= fresh

    def metadata(self) -> object:
        """Who we are to the group; Kafka refuses what a former member sends."""
        return self._metadata

    def close(self) -> None:
        """Leave the group, so that others get the partitions at once."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()

    def _poll(self) -> None:
        consumer = self._consumer
        assert consumer is not None
        consumer.subscribe(
            [self._cluster.names.tickets[0]],
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_lost,
        )
        while not self._closing.is_set():
            try:
                message = consumer.poll(POLL_S)
            except KafkaException as error:
                self._complain(error.args[0])
                time.sleep(1.0)
            else:
                # Nobody but this thread may ask the consumer: beside a loop of polls no other
                # call returns (measured, confluent-kafka 2.16.1).
                self._remember(consumer)
                if message is not None and message.error() is not None:
                    self._complain(message.error())
        consumer.close()

    def _remember(self, consumer: Consumer) -> None:
        """Who we are now. One who is out of the group stays who he was, whom Kafka refuses: an
        offset of nobody is taken from everybody."""
        metadata = consumer.consumer_group_metadata()
        if is_member(metadata):
            self._metadata = metadata

    def _complain(self, error: Any) -> None:
        if error.code() not in FOR_A_MOMENT:
            self._trouble = self._cluster.named(error)
            log.error("not in the group", extra={"sentence": str(self._trouble)})

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        with self._lock:
            consumer.incremental_assign(partitions)
            # Which task is next is asked of the view; nothing is to be fetched.
            consumer.pause(partitions)
            self._fresh |= _numbers(partitions)
            self._trouble = None
            self._remember(consumer)
            self._joined.set()

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        numbers = _numbers(partitions)
        with self._lock:
            # Nothing new is taken from these; what is in hand can still be settled.
            self._ours -= numbers
            self._fresh -= numbers
            self._remember(consumer)
        try:
            self._let_go(numbers)
        finally:
            consumer.incremental_unassign(partitions)

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        numbers = _numbers(partitions)
        with self._lock:
            self._ours -= numbers
            self._fresh -= numbers
        self._lose(numbers)
        consumer.incremental_unassign(partitions)


def is_member(metadata: bytes) -> bool:
    """Whether what librdkafka says of us, as `consumer_group_metadata` writes it, names a member.

    Raises:
        ValueError: it writes this in another way by now.
    """
    if not metadata.startswith(METADATA):
        raise ValueError("librdkafka writes a group's member in another way than we know")
    said = metadata[len(METADATA) :]
    generation = int.from_bytes(said[:4], sys.byteorder, signed=True)
    _, member, _ = said[4:].split(b"\0", 2)
    return generation >= 0 and bool(member)


def _numbers(partitions: Collection[TopicPartition]) -> frozenset[int]:
    return frozenset(one.partition for one in partitions)
