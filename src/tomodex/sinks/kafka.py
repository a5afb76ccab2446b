"""Sends each annotated series to a Kafka topic, under its UID.

The last message of a series is the one that counts, so the topic is best a compacted one: whoever
begins to read it then finds every series once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicCollection
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it exports them to people only
    AclOperation,
    AdminClient,
    ConfigResource,
)
from pydantic import Field

from tomodex.annotation import AnnotatedSeries, to_json
from tomodex.errors import Misconfigured, TomodexError, Unavailable, Unsuitable
from tomodex.kafka_door import Door, KafkaOptions, place_of
from tomodex.options import read_options
from tomodex.probe import Probe

#: What a message has around its key and value.
AROUND_BYTES = 512

#: Messages that wait in memory for the brokers, at most.
WAITING_KIB = 64 * 1024

#: How long the brokers may take to tell what they have.
LOOK_S = 20.0

#: After the last message was given up, librdkafka takes a moment to say so.
SLACK_S = 5.0

#: What counts more where several messages failed for several reasons.
WORST = (Misconfigured, Unavailable, Unsuitable)


class KafkaSinkOptions(KafkaOptions):
    """What the URL of a topic may set after its `?`."""

    timeout_s: float = Field(60.0, ge=1, le=3600)  #: for the brokers to confirm a batch
    message_bytes: int = Field(1_000_000, ge=1024, le=100_000_000)  #: of the largest message
    compression: Literal["zstd", "lz4", "gzip", "none"] = "zstd"


class KafkaSink:
    """`kafka://broker:9092,other:9092/TOPIC?protocol=SASL_SSL&user=tomodex&password=file:/run/...`

    The key of a message is the series' UID, in UTF-8; its value what
    `schemas/annotated-series-1.json` describes, or null (a tombstone) for a series that the
    archive no longer has. Keys go to the partitions that Java's clients expect them in.

    Raises:
        Misconfigured: an option or a secret is not as it should be.
    """

    def __init__(self, url: str, state: Path | None = None) -> None:
        # All that is to be remembered is in the topic.
        del state
        self._options = read_options(url, KafkaSinkOptions)
        self._servers, self._topic = place_of(url)
        self._door = Door(self._servers, self._options)
        self._producer: Producer | None = None

    def write(self, annotated: Sequence[AnnotatedSeries]) -> None:
        """Return when the brokers have all of these, on as many disks as the topic asks for.

        Raises:
            Unavailable: they do not have all of them, as far as we know.
            Unsuitable: one is too large; the others may be there.
            Misconfigured: they refuse us, or there is no such topic.
        """
        messages = [(one.series.series_uid.encode(), to_json(one)) for one in annotated]
        largest = max((len(key) + len(value) for key, value in messages), default=0)
        # Looked at before any is sent, so that the others are not sent twice.
        if largest + AROUND_BYTES > self._options.message_bytes:
            raise Unsuitable(
                "refused_by_kafka",
                f"a message of {largest:,} bytes is more than the option message_bytes allows",
            )
        self._send(messages)

    def erase(self, series_uids: Sequence[str]) -> None:
        """Send tombstones; raises as `write` does."""
        self._send([(uid.encode(), None) for uid in series_uids])

    def probe(self) -> Iterator[Probe]:
        """Whether the brokers answer, and the topic is there and keeps the last of each series."""
        try:
            partitions = self._partitions()
            policy = self._setting("cleanup.policy")
        except TomodexError as error:
            commands = tuple(error.commands) if isinstance(error, Misconfigured) else ()
            yield Probe(
                subject="topic",
                verdict="wrong",
                sentence=str(error),
                advice="have somebody who may type the commands"
                if commands
                else "see that the brokers run, that this machine may reach them, and the options",
                commands=commands,
            )
            return
        shown = policy or "not seen: this user may not DescribeConfigs"
        fault = "set cleanup.policy=compact, or old results are deleted by their age"
        yield Probe(
            subject="topic",
            verdict="ok" if "compact" in policy else "doubtful",
            sentence=f"{self._topic} has {partitions} partitions, cleanup.policy={shown}",
            advice=fault if policy and "compact" not in policy else "",
        )

    def close(self) -> None:
        """Give up what is not confirmed; nobody was told that it was."""
        if self._producer is not None:
            self._producer.purge()
        self._producer = None

    def _send(self, messages: Sequence[tuple[bytes, bytes | None]]) -> None:
        if not messages:
            return
        producer = self._opened()
        failed: list[KafkaError] = []

        def confirmed(error: KafkaError | None, message: Message) -> None:
            # No call of anything in here: if the producer is done for, the library calls us while
            # its exception is already set, which makes every built-in function fail.
            nonlocal failed
            if error is not None:
                failed += [error]

        try:
            for key, value in messages:
                self._produce(producer, key, value, confirmed)
            left = producer.flush(self._options.timeout_s + SLACK_S)
        except KafkaException as error:
            self.close()
            raise self._door.named(error.args[0]) from error
        faults = [self._door.named(error) for error in failed]
        if left:
            faults.append(Unavailable(f"Kafka at {self._servers} did not confirm {left} messages"))
        if faults:
            worst = min(faults, key=lambda error: WORST.index(type(error)))
            if not isinstance(worst, Unsuitable):
                # Some may be on their way yet, and must not come after what is sent from now on.
                self.close()
            raise worst

    def _produce(
        self,
        producer: Producer,
        key: bytes,
        value: bytes | None,
        confirmed: Callable[[KafkaError | None, Message], None],
    ) -> None:
        while True:
            try:
                producer.produce(self._topic, value, key, on_delivery=confirmed)
            except BufferError:  # as much waits as may; what is not confirmed in time is given up
                producer.poll(0.2)
            else:
                producer.poll(0)
                return

    def _opened(self) -> Producer:
        """A producer that sends nothing twice, once the topic is there.

        Otherwise the brokers would make one as they make all, which is not to be compacted.
        """
        if self._producer is None:
            self._partitions()
            timeout_ms = round(self._options.timeout_s * 1000)
            given = {
                **self._door.settings,
                "enable.idempotence": True,
                "acks": "all",
                "partitioner": "murmur2_random",
                "compression.type": self._options.compression,
                "message.max.bytes": self._options.message_bytes,
                "queue.buffering.max.kbytes": WAITING_KIB,
                "delivery.timeout.ms": timeout_ms,
            }
            try:
                self._producer = Producer(given)
            except KafkaException as error:
                raise self._door.named(error.args[0]) from error
        return self._producer

    def _partitions(self) -> int:
        """How many the topic has.

        Raises:
            Misconfigured: there is no such topic, or we may not write to it.
        """
        asked = self._asked(
            lambda admin: admin.describe_topics(
                TopicCollection([self._topic]), include_authorized_operations=True
            )
        )
        topic = asked[self._topic]
        allowed = topic.authorized_operations
        if allowed is not None and AclOperation.WRITE not in allowed:
            raise self._forbidden()
        return len(topic.partitions)

    def _forbidden(self) -> Misconfigured:
        who = self._options.user or "NAME"
        command = (
            f"kafka-acls.sh --bootstrap-server {self._servers} --command-config admin.properties "
            f"--add --allow-principal User:{who} --operation Write --operation DescribeConfigs "
            f"--topic {self._topic}"
        )
        sentence = f"this user may not Write to the topic {self._topic}"
        return Misconfigured(f"Kafka at {self._servers}: {sentence}", commands=[command])

    def _setting(self, name: str) -> str:
        """A setting of the topic; "" where we may not see it."""
        resource = ConfigResource(ConfigResource.Type.TOPIC, self._topic)
        try:
            found = self._asked(lambda admin: admin.describe_configs([resource]))
        except Misconfigured:
            return ""
        return str(found[resource][name].value)

    def _asked(self, ask: Callable[[AdminClient], dict[Any, Any]]) -> dict[Any, Any]:
        """What the brokers answer."""
        admin = self._door.admin()
        asked = ask(admin)
        self._door.await_answers(admin, asked, LOOK_S)
        try:
            return {what: answer.result() for what, answer in asked.items()}
        except KafkaException as error:
            if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise Misconfigured(
                    f"Kafka at {self._servers} has no topic {self._topic}; make it, compacted"
                ) from error
            if error.args[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                raise self._forbidden() from error
            raise self._door.named(error.args[0]) from error
