"""Reads the log into the view, up to its end."""

from __future__ import annotations

import logging
import time
from threading import RLock
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from tomodex.errors import Unavailable
from tomodex.queues.kafka.cluster import Cluster
from tomodex.queues.kafka.view import View

log = logging.getLogger(__name__)

#: Messages that are taken in at once.
BATCH = 2_000

#: How long a broker may take to say where the log ends; then it is asked which one has it.
ANSWER_S = 5.0

#: How long one who only asks waits for transactions that are open.
MOMENT_S = 3.0

#: While a topic moves to another broker, or a broker has just begun. That the topics are there was
#: seen when the queue was opened.
FOR_A_MOMENT = {
    KafkaError._UNKNOWN_PARTITION,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._TIMED_OUT,
    KafkaError._WAIT_COORD,
    KafkaError._DESTROY_BROKER,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.OFFSET_NOT_AVAILABLE,
    KafkaError.NETWORK_EXCEPTION,
    KafkaError.BROKER_NOT_AVAILABLE,
}


class Ledger:
    """The log, and the view of it.

    Raises:
        Misconfigured: the topics are not there, or may not be read.
        Unavailable: no broker answers.
    """

    def __init__(self, cluster: Cluster, view: View) -> None:
        self._cluster = cluster
        self._view = view
        self._lock = RLock()
        self._topic = cluster.names.states
        # Told what is committed, and where the log really ends: no group is joined by either.
        group = f"{cluster.names.prefix}.view"
        self._reader = cluster.consumer(
            group,
            isolation_level="read_committed",
            enable_partition_eof=True,
            fetch_wait_max_ms=cluster.options.fetch_ms,
            auto_offset_reset="error",
        )
        self._end = cluster.consumer(group, isolation_level="read_uncommitted")
        self._place = -1  #: of the reader

    def catch_up(self) -> None:
        """Have in the view all that was said before this was called.

        Waits for transactions that are open: who reads past one could miss what it says.
        """
        if not self._read_up(self._cluster.options.busy_s):
            raise Unavailable(
                f"Kafka at {self._cluster.servers}: the log of the queue cannot be read to its "
                "end; a transaction is open or the broker is slow"
            )

    def look(self) -> None:
        """The same for one who only asks: a transaction that a dead worker left open holds up no
        answer for longer than a moment. What we said ourselves is in it, if nothing is open."""
        if not self._read_up(MOMENT_S):
            log.warning("not read to its end", extra={"topic": self._topic})

    def _read_up(self, seconds: float) -> bool:
        with self._lock:
            until = time.monotonic() + seconds
            end = self._end_of_log(time.monotonic() + self._cluster.options.busy_s)
            while self._view.next_offset() < end:
                before = self._view.next_offset()
                self._read_some()
                stuck = self._view.next_offset() == before
                if stuck and time.monotonic() > until:
                    return False
        return True

    def end_of_results(self) -> int:
        """Up to which sequence of the feed all is decided that will ever be in it.

        A worker sends its result and then what the log is to say of it; another may send and
        commit both in between, and then the log tells of the later result first.
        """
        until = time.monotonic() + self._cluster.options.busy_s
        # To one who reads what is committed, a topic ends where the first open transaction begins.
        return self._end_of(self._reader, self._cluster.names.results, until)

    def _end_of_log(self, until: float) -> int:
        return self._end_of(self._end, self._topic, until)

    def _end_of(self, consumer: Consumer, topic: str, until: float) -> int:
        while True:
            try:
                place = TopicPartition(topic, 0)
                return int(consumer.get_watermark_offsets(place, ANSWER_S, cached=False)[1])
            except KafkaException as error:
                if error.args[0].code() not in FOR_A_MOMENT or time.monotonic() > until:
                    raise self._cluster.named(error.args[0]) from error
            self._look_who_has(consumer, topic)
            time.sleep(0.1)

    def _look_who_has(self, consumer: Consumer, topic: str) -> None:
        """Have the library learn which broker leads the topic now.

        It asks when a broker goes, which is before the others have missed it, and then no more for
        five minutes if nothing is read (measured: 270 s without an answer).
        """
        try:
            consumer.list_topics(topic, ANSWER_S)
        except KafkaException as error:
            log.info("no broker answers", extra={"sentence": error.args[0].name()})

    def _read_some(self) -> None:
        place = self._view.next_offset()
        # Another process of this machine may have read on; a few messages are passed over sooner
        # than a new place is found.
        if self._place < 0 or place > self._place + BATCH:
            self._reader.assign([TopicPartition(self._topic, 0, place)])
            self._place = place
        messages: list[Any] = []
        if (first := self._reader.poll(1.0)) is not None:
            messages = [first, *self._reader.consume(BATCH, 0)]
        said = [m for m in messages if m.error() is None]
        ends = [m for m in messages if m.error() is not None]
        for message in ends:
            self._check(message.error())
        reached = [m.offset() for m in ends if m.error().code() == KafkaError._PARTITION_EOF]
        self._place = max([self._place, *(m.offset() + 1 for m in said), *reached])
        if self._place > place:
            self._take(said, self._place)

    def _take(self, said: list[Any], end: int) -> None:
        try:
            self._view.apply(((m.offset(), m.key(), m.value()) for m in said), end)
        except BaseException:
            # The reader has passed what was not taken in: it begins there anew.
            self._place = -1
            raise

    def _check(self, error: KafkaError) -> None:
        if error.code() == KafkaError._PARTITION_EOF or error.code() in FOR_A_MOMENT:
            return
        self._place = -1
        raise self._cluster.named(error)

    def close(self) -> None:
        with self._lock:
            self._reader.close()
            self._end.close()
