"""Kafka transactions: all of these messages, and an offset, or nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Thread
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicPartition

from tomodex.errors import Unavailable
from tomodex.kafka_door import TOO_LARGE
from tomodex.queues.kafka.cluster import PATIENCE_S, Cluster

#: Somebody else goes by our transactional id now.
FENCED = {
    KafkaError._FENCED,
    KafkaError.PRODUCER_FENCED,
    KafkaError.INVALID_PRODUCER_EPOCH,
    KafkaError.INVALID_PRODUCER_ID_MAPPING,
}

#: The partitions belong to somebody else now, or we have to look again who has them.
NO_LONGER_OURS = {
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.FENCED_INSTANCE_ID,
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError.STALE_MEMBER_EPOCH,
    KafkaError.FENCED_MEMBER_EPOCH,
}


class Fenced(Unavailable):
    """Somebody else decided in between, or is what we were."""


class Unsure(Unavailable):
    """The broker cannot say whether it was done, as when another begins with our id meanwhile."""


class NotOurs(Unavailable):
    """The group gave the partition to somebody else, or is about to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A message to be sent."""

    topic: str
    key: bytes
    value: bytes | None
    partition: int = 0
    headers: tuple[tuple[str, str], ...] = ()


#: Nobody has answered in time.
SILENT = frozenset(
    {
        KafkaError._TIMED_OUT,
        KafkaError._TIMED_OUT_QUEUE,
        KafkaError._MSG_TIMED_OUT,
        KafkaError.REQUEST_TIMED_OUT,
    }
)


#: What is said of messages that were not sent because something else had failed.
THROWN_AWAY = frozenset({KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT, KafkaError._FATAL})


class Outbox:
    """One transactional id; one transaction at a time.

    Args:
        timeout_ms: after so long the broker ends the transaction of one that died; until then
            nobody reads past it, unless another begins with the same id.

    Raises:
        Unavailable: the broker does not answer.
    """

    def __init__(self, cluster: Cluster, transactional_id: str, timeout_ms: int) -> None:
        self._cluster = cluster
        self._id = transactional_id
        self._timeout_ms = timeout_ms
        self._producer: Producer | None = None

    def ready(self) -> Producer:
        """The producer; made anew, it ends what a former one of its id has begun."""
        if self._producer is None:
            producer = self._cluster.producer(self._id, self._timeout_ms)
            try:
                with self._cluster.named_errors():
                    producer.init_transactions(PATIENCE_S)
            except BaseException:
                producer.purge()
                raise
            self._producer = producer
        return self._producer

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Send in here; nothing of it is seen unless all of it is.

        Raises:
            Fenced: another has our transactional id.
            NotOurs: the offset was refused.
            Unavailable: it is not known whether it was done; what uses this looks again.
            ValueError: a message is too large.
        """
        producer = self.ready()
        try:
            producer.begin_transaction()
            yield Transaction(producer, self._timeout_ms / 1000)
            self._commit(producer)
        except (KafkaException, SystemError) as failed:
            told = _told(failed)
            if told is None:
                self._end(producer, None)
                raise
            error = _cause(producer, told)
            self._end(producer, error)
            raise self._named(error) from failed
        except BaseException:
            self._end(producer, None)
            raise

    def _commit(self, producer: Producer) -> None:
        until = time.monotonic() + self._cluster.options.busy_s
        while True:
            try:
                producer.commit_transaction(PATIENCE_S)
            except KafkaException as failed:
                again = failed.args[0].retriable() and not failed.args[0].txn_requires_abort()
                if not again or time.monotonic() > until:
                    raise
            else:
                return

    def _end(self, producer: Producer, error: KafkaError | None) -> None:
        """Take back what was sent; a producer that cannot is thrown away."""
        if error is not None and error.fatal():
            self._throw_away()
            return
        try:
            producer.abort_transaction(PATIENCE_S)
        except KafkaException:
            self._throw_away()
        else:
            # After a broker was killed, one that has once waited in vain waits so every time.
            if error is not None and error.code() in SILENT:
                self._throw_away()

    def _throw_away(self) -> None:
        # Not closed: that would try once more to end what it cannot, and warn of it.
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge()

    def _named(self, error: KafkaError) -> Exception:
        if error.code() in FENCED:
            return Fenced(f"Kafka at {self._cluster.servers}: another process decided first")
        if error.code() == KafkaError.UNKNOWN:
            return Unsure(f"Kafka at {self._cluster.servers}: {error.str()}")
        if error.code() in NO_LONGER_OURS:
            return NotOurs(f"Kafka at {self._cluster.servers}: another worker has the partition")
        if error.code() in TOO_LARGE:
            return ValueError("the result is larger than a message in Kafka may be")
        return self._cluster.named(error)

    def close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.close()


def _told(failed: BaseException) -> KafkaError | None:
    """What the library said; if it called us while its exception was set, that is the cause.

    None: it said nothing.
    """
    found: BaseException | None = failed
    while found is not None and not isinstance(found, KafkaException):
        found = found.__cause__ or found.__context__
    return None if found is None else found.args[0]


def _cause(producer: Producer, error: KafkaError) -> KafkaError:
    """Why a transaction failed whose messages were thrown away."""
    if error.code() not in THROWN_AWAY:
        return error
    # It cannot begin another, and says why.
    try:
        producer.begin_transaction()
    except KafkaException as failed:
        return failed.args[0] if failed.args[0].code() != KafkaError._STATE else error
    return error


class Transaction:
    """What is sent in one transaction.

    Args:
        seconds: after so long the broker has ended it, and nothing is worth waiting for.
    """

    def __init__(self, producer: Producer, seconds: float) -> None:
        self._producer = producer
        self._seconds = seconds

    def send(self, letters: Sequence[Letter]) -> Sequence[int]:
        """Send these; return their offsets, which others see once all is committed."""
        offsets = [-1] * len(letters)
        failed: list[KafkaError] = []

        def delivered(place: int, error: KafkaError | None, message: Message) -> None:
            # No call of anything here: if the producer is done for, the library calls us while its
            # exception is already set, which makes every built-in function fail.
            nonlocal failed
            if error is not None:
                failed += [error]
            else:
                offsets[place] = message.offset() or 0

        for place, letter in enumerate(letters):
            self._produce(letter, lambda e, m, place=place: delivered(place, e, m))
        if self._producer.flush(PATIENCE_S) or failed:
            raise KafkaException(failed[0] if failed else KafkaError(KafkaError._TIMED_OUT))
        return offsets

    def _produce(self, letter: Letter, delivered: Any) -> None:
        while True:
            try:
                self._producer.produce(
                    letter.topic,
                    letter.value,
                    letter.key,
                    partition=letter.partition,
                    headers=list(letter.headers),
                    on_delivery=delivered,
                )
            except BufferError:
                self._producer.poll(0.1)
            else:
                self._producer.poll(0)
                return

    def offset(self, topic: str, partition: int, offset: int, metadata: object) -> None:
        """Have the group's offset committed with the rest, if the partition is still ours."""
        place = TopicPartition(topic, partition, offset)
        within(
            self._seconds,
            lambda: self._producer.send_offsets_to_transaction([place], metadata, PATIENCE_S),
        )


def within(seconds: float, call: Callable[[], None]) -> None:
    """Do this, or leave it alone after so long, in a thread that may never end.

    librdkafka has no timeout of its own where the broker was killed that looks after the group: it
    waits for a connection that it has given up (librdkafka issues 5456 and 5511).
    """
    failed: list[BaseException] = []

    def do() -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - raised below, by who waits for it
            failed.append(error)

    thread = Thread(target=do, name="kafka-offset", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
    if failed:
        raise failed[0]
