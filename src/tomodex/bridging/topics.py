"""The predecessor's topics in Kafka: tasks in, answers out, each answer once.

Answers are given in transactions, and with each the number of its batch is committed, as the offset
of a consumer group of our own. So after whatever happened Kafka says which batch was the last.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import orjson

from tomodex.doors import Bridge
from tomodex.errors import Misconfigured, TomodexError, Unavailable

log = logging.getLogger(__name__)

#: How long Kafka is asked for more.
POLL_S = 0.5

#: How long the broker may take for anything else.
WAIT_S = 60.0

#: And to let us in; nothing is lost by asking again.
WELCOME_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A message for one of the predecessor's topics."""

    topic: str
    key: str
    value: Mapping[str, Any]
    settles: int  #: id of the task that it answers


class Topics:
    """Tasks in, answers out.

    Args:
        instance: tells this bridge from others on the same broker, always by the same name.

    Raises:
        Misconfigured: confluent-kafka is not installed, or an option is wrong.
    """

    def __init__(self, door: Bridge, instance: str) -> None:
        try:
            from confluent_kafka import Consumer, KafkaException

            from tomodex.kafka_door import Door
        except ImportError as missing:
            raise Misconfigured(
                "the bridge needs confluent-kafka; pip install 'tomodex[kafka]'"
            ) from missing
        self._topics = [topic for topic in (door.tasks, door.mask_tasks) if topic]
        self._door = Door(door.servers, door)
        self._is_in = False
        self._common = self._door.settings
        self._name = f"{door.group}-{instance}"
        self._producer: Any = None
        reading = {**self._common, "enable.auto.commit": False}
        try:
            self._consumer = Consumer(
                {
                    **reading,
                    "group.id": door.group,
                    # After a kill it is itself again at once, and not a stranger in 45 s.
                    "group.instance.id": self._name,
                    "auto.offset.reset": "earliest",
                    "partition.assignment.strategy": "cooperative-sticky",
                }
            )
            self._marker = Consumer({**reading, "group.id": self._name})
        except KafkaException as wrong:
            raise Misconfigured(f"Kafka: {wrong.args[0].str()}") from wrong
        self._consumer.subscribe(self._topics)

    def take(self, most: int) -> list[Any]:
        """The next messages; none are asked for where `most` is 0, but the group is kept.

        Raises:
            Unavailable: the broker does not answer.
            Misconfigured: it does not let us in, or we may not read the topics.
        """
        self._come_in()
        assigned = self._consumer.assignment()
        if most:
            self._consumer.resume(assigned)
        else:
            self._consumer.pause(assigned)
        with self._asking("Kafka does not answer"):
            messages = self._consumer.consume(max(1, most), timeout=POLL_S)
        good = [one for one in messages if one.error() is None]
        if messages and not good:
            raise self._error("Kafka does not answer", messages[0].error())
        return good

    def _come_in(self) -> None:
        """Ask once for the topics of tasks: a consumer alone would wait in silence."""
        from confluent_kafka import KafkaError, KafkaException, TopicCollection

        if self._is_in:
            return
        admin = self._door.admin()
        asked = admin.describe_topics(TopicCollection(self._topics), request_timeout=WELCOME_S)
        self._door.await_answers(admin, asked, WELCOME_S)
        for answer in asked.values():
            try:
                answer.result()
            except KafkaException as error:
                # It may be made by whoever writes to it first.
                if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise self._door.named(error.args[0]) from error
        self._is_in = True

    def holds(self, message: Any) -> bool:
        """Whether its partition is still ours; if not, somebody else has the message now."""
        ours = {(one.topic, one.partition) for one in self._consumer.assignment()}
        return (message.topic(), message.partition()) in ours

    def confirm(self, messages: Sequence[Any]) -> None:
        """These, and all before them, are safe with us."""
        from confluent_kafka import KafkaException, TopicPartition

        last: dict[tuple[str, int], int] = {}
        for one in messages:
            place = one.topic(), one.partition()
            last[place] = max(last.get(place, -1), one.offset())
        offsets = [TopicPartition(*place, offset + 1) for place, offset in last.items()]
        try:
            self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            # Somebody else has the partition by now, or gets it; the messages may come again.
            log.warning("not confirmed", extra={"sentence": _name(error.args[0])})

    def send(self, answers: Sequence[Answer], number: int) -> None:
        """Give all of these or none, as the batch of this number.

        Raises:
            Unavailable: it is not known whether they were given; `last_sent` tells.
            Misconfigured: we may not write them.
        """
        producer, self._producer = self._producer or self._opened(), None
        with self._asking("Kafka does not take answers"):
            producer.begin_transaction()
            for answer in answers:
                producer.produce(answer.topic, orjson.dumps(answer.value), answer.key)
            group = self._marker.consumer_group_metadata()
            producer.send_offsets_to_transaction([self._mark(number)], group, WAIT_S)
            producer.commit_transaction(WAIT_S)
        self._producer = producer

    def last_sent(self) -> int:
        """The number of the last batch that was given; 0: none.

        Raises:
            Unavailable: the broker does not say.
        """
        # To open a producer of our name ends what one before it had begun, one way or the other.
        self._producer = self._opened()
        with self._asking("Kafka does not say what was answered"):
            (said,) = self._marker.committed([self._mark(0)], timeout=WAIT_S)
        return max(0, said.offset)

    def close(self) -> None:
        """Give back what it holds open; another bridge of the group takes over in 45 s."""
        self._consumer.close()
        self._marker.close()

    def _opened(self) -> Any:
        from confluent_kafka import Producer

        options = {"transactional.id": self._name, "transaction.timeout.ms": 90_000}
        producer = Producer({**self._common, **options})
        with self._asking("Kafka does not take answers"):
            producer.init_transactions(WAIT_S)
        return producer

    def _mark(self, number: int) -> Any:
        """A place that a group may commit an offset for: no one reads it in this group."""
        from confluent_kafka import TopicPartition

        return TopicPartition(self._topics[0], 0, number)

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        from confluent_kafka import KafkaException

        try:
            yield
        except KafkaException as error:
            raise self._error(what, error.args[0]) from error

    def _error(self, what: str, error: Any) -> TomodexError:
        named = self._door.named(error)
        return named if isinstance(named, Misconfigured) else Unavailable(f"{what}: {_name(error)}")


def _name(error: Any) -> str:
    """The broker's word for it, without what was asked."""
    return str(error.name()) if hasattr(error, "name") else str(error)
