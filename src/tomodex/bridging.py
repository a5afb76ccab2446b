"""Stands where the IMPETUS CT Indexer stood: its tasks from Kafka, its answers back to Kafka.

A task goes into the queue like any other, and what came of it is said in the predecessor's words.
Until then its message is remembered in the data folder, as it has to come back as it was; it
may hold a patient's number, so it is forgotten as soon as it is answered.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlencode

import orjson
from pydantic import ValidationError

from tomodex.doors import Bridge
from tomodex.errors import Misconfigured, TomodexError, Unavailable
from tomodex.formats.predecessor import error_message, result_message
from tomodex.logs import log_to_stderr
from tomodex.private_file import open_private
from tomodex.queues import Queue, TaskState
from tomodex.selection import Rules, load_rules
from tomodex.settings import Settings
from tomodex.web.orders import PredecessorOrder, as_order
from tomodex.web.problems import Refused
from tomodex.web.tasks import task_for
from tomodex.wiring import queue_of
from tomodex.worker import Stop

log = logging.getLogger(__name__)

#: Messages that are taken at once, and that wait for an answer at most: the rest stays in Kafka.
MOST_TAKEN = 100
MOST_WAITING = 5_000

#: How long Kafka is asked for more, and how often it is looked what has become of tasks.
POLL_S = 0.5
LOOK_S = 2.0

#: How long the broker may take to confirm answers.
FLUSH_S = 60.0

#: After Kafka or the queue did not answer.
REST_S = 10.0

SCHEMA = """
create table if not exists waiting (
    id         integer primary key,
    place      text not null unique,   -- topic, partition and offset of the message
    series_uid text not null,
    message    text not null           -- JSON, as it came
) strict;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A task that has no answer yet."""

    id: int
    series_uid: str
    message: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A message for one of the predecessor's topics."""

    topic: str
    key: str
    value: Mapping[str, Any]
    settles: int | None = None  #: id of what waits for it; None: nothing does


class Memory:
    """The tasks that have no answer yet, in a file that survives us."""

    def __init__(self, file: Path) -> None:
        self._db = open_private(file, SCHEMA, {"journal_mode": "wal", "synchronous": "full"})

    def add(self, place: str, series_uid: str, message: str) -> None:
        """Remember a task; the same message twice is one."""
        self._db.execute(
            "insert or ignore into waiting (place, series_uid, message) values (?, ?, ?)",
            (place, series_uid, message),
        )

    def count(self) -> int:
        return int(self._db.execute("select count(*) from waiting").get)

    def all(self) -> Iterator[Waiting]:
        """Oldest first."""
        select = "select id, series_uid, message from waiting order by id"
        rows = cast("list[tuple[int, str, str]]", self._db.execute(select).fetchall())
        for number, series_uid, message in rows:
            yield Waiting(id=number, series_uid=series_uid, message=json.loads(message))

    def forget(self, ids: Sequence[int]) -> None:
        """They are answered."""
        with self._db:
            self._db.executemany("delete from waiting where id = ?", [(one,) for one in ids])

    def close(self) -> None:
        self._db.close()


class Kafka:
    """The predecessor's topics: tasks in, answers out.

    Raises:
        Misconfigured: confluent-kafka is not installed, or an option is wrong.
    """

    def __init__(self, door: Bridge) -> None:
        try:
            from confluent_kafka import Consumer, Producer
        except ImportError as missing:
            raise Misconfigured(
                "the bridge needs confluent-kafka; pip install 'tomodex[kafka]'"
            ) from missing
        common = _connection(door)
        self._producer = Producer({**common, "enable.idempotence": True, "acks": "all"})
        self._consumer = Consumer(
            {
                **common,
                "group.id": door.group,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "partition.assignment.strategy": "cooperative-sticky",
            }
        )
        self._consumer.subscribe([door.tasks])

    def take(self, most: int) -> list[Any]:
        """The next messages; none are asked for where `most` is 0, but the group is kept.

        Raises:
            Unavailable: the broker does not answer.
        """
        from confluent_kafka import KafkaException

        assigned = self._consumer.assignment()
        if most:
            self._consumer.resume(assigned)
        else:
            self._consumer.pause(assigned)
        try:
            messages = self._consumer.consume(max(1, most), timeout=POLL_S)
        except KafkaException as error:
            raise Unavailable(f"Kafka does not answer: {_name(error.args[0])}") from error
        for message in messages:
            if message.error() is not None:
                raise Unavailable(f"Kafka does not answer: {_name(message.error())}")
        return list(messages)

    def confirm(self) -> None:
        """What was taken is safe with us."""
        from confluent_kafka import KafkaException

        try:
            self._consumer.commit(asynchronous=False)
        except KafkaException as error:
            # Somebody else has the partition by now, and gets the messages again.
            log.warning("not confirmed", extra={"sentence": _name(error.args[0])})

    def send(self, answers: Sequence[Answer]) -> None:
        """Return when all of these are safe with the broker.

        Raises:
            Unavailable: it did not confirm all of them.
        """
        failed: list[str] = []

        def confirmed(error: object, message: object) -> None:
            if error is not None:
                failed.append(_name(error))

        for answer in answers:
            value = orjson.dumps(answer.value)
            self._producer.produce(answer.topic, value, answer.key, on_delivery=confirmed)
            self._producer.poll(0)
        left = self._producer.flush(FLUSH_S)
        if left or failed:
            self._producer.purge()
            why = failed[0] if failed else f"{left} answers not confirmed in {FLUSH_S:g} s"
            raise Unavailable(f"Kafka does not take answers: {why}")

    def close(self) -> None:
        self._consumer.close()


class Bridging:
    """Takes tasks and gives answers, a step at a time."""

    def __init__(self, settings: Settings, kafka: Kafka, queue: Queue, memory: Memory) -> None:
        self._settings = settings
        self._door = settings.bridge
        self._rules: Rules = load_rules(settings.rules)
        self._kafka = kafka
        self._queue = queue
        self._memory = memory
        self._next_look_s = 0.0

    def step(self) -> None:
        """Take what has come, and answer what is done.

        Raises:
            Unavailable: Kafka or the queue does not answer; nothing is lost.
        """
        room = max(0, MOST_WAITING - self._memory.count())
        self._take(min(room, MOST_TAKEN))
        if time.monotonic() >= self._next_look_s:
            self._answer()
            self._next_look_s = time.monotonic() + LOOK_S

    def _take(self, most: int) -> None:
        messages = self._kafka.take(most)
        if not messages:
            return
        refused = [answer for message in messages if (answer := self._order(message))]
        if refused:
            self._kafka.send(refused)
        self._kafka.confirm()

    def _order(self, message: Any) -> Answer | None:
        """Put the task of a message into the queue, or say why not."""
        value = message.value() or b""
        try:
            given = PredecessorOrder.model_validate_json(value)
            order = as_order(self._settings, given).model_copy(update={"lane": self._door.lane})
            task = task_for(order, self._settings, self._rules)
        except ValidationError as wrong:
            return self._refusal(value, "Validation", _plain(wrong))
        except Unavailable:
            raise
        except (Refused, TomodexError) as wrong:
            return self._refusal(value, "Validation", str(wrong))
        # Remembered first: a task that is in the queue must have its answer.
        place = f"{message.topic()} {message.partition()} {message.offset()}"
        self._memory.add(place, task.series.series_uid, value.decode())
        self._queue.put([task])
        return None

    def _refusal(self, value: bytes, kind: str, sentence: str) -> Answer:
        try:
            asked: object = orjson.loads(value)
        except orjson.JSONDecodeError:
            asked = value.decode(errors="replace")
        message = error_message(asked, kind, sentence, _now())
        return Answer(topic=self._door.errors, key="", value=message)

    def _answer(self) -> None:
        batch: list[Answer] = []
        for waiting in self._memory.all():
            if (answer := self._answer_to(waiting)) is not None:
                batch.append(answer)
            if len(batch) == MOST_TAKEN:
                self._send(batch)
                batch = []
        self._send(batch)

    def _send(self, batch: Sequence[Answer]) -> None:
        if batch:
            self._kafka.send(batch)
            self._memory.forget([one.settles for one in batch if one.settles is not None])

    def _answer_to(self, waiting: Waiting) -> Answer | None:
        """What there is to say of a task by now; None: nothing yet."""
        states = self._queue.states(waiting.series_uid)
        ours = [s for s in states if s.configuration == self._settings.configuration]
        if not ours:  # it was withdrawn or erased
            return self._failure(waiting, "Withdrawn", "the series was taken out of the index")
        return self._said(waiting, ours[0])

    def _said(self, waiting: Waiting, state: TaskState) -> Answer | None:
        if state.status in ("rejected", "failed"):
            return self._failure(waiting, state.reason, state.sentence)
        if state.status != "completed":
            return None
        result = self._queue.result(waiting.series_uid)
        if result is None or result.annotated is None or result.annotated.image is None:
            return None
        message = result_message(result.annotated, waiting.message, self._door.labels, _now())
        topic, key = self._door.results, waiting.series_uid
        return Answer(topic=topic, key=key, value=message, settles=waiting.id)

    def _failure(self, waiting: Waiting, kind: str, sentence: str) -> Answer:
        message = error_message(waiting.message, kind, sentence, _now())
        topic, key = self._door.errors, waiting.series_uid
        return Answer(topic=topic, key=key, value=message, settles=waiting.id)


def read_env(file: Path) -> dict[str, Any]:
    """Settings of ours for the predecessor's `.env`; what it says joins the environment.

    Raises:
        Misconfigured: it cannot be read, or `settings_of_env` does not take it.
    """
    from dotenv import dotenv_values

    if not file.is_file():
        raise Misconfigured(f"{file} is not a file")
    said = {name: value for name, value in dotenv_values(file).items() if value is not None}
    # The environment counts more, as it did there. Workers find the keys of the store in it.
    given = {**said, **{name: os.environ[name] for name in said if name in os.environ}}
    os.environ.update(given)
    return settings_of_env(given)


def settings_of_env(given: Mapping[str, str]) -> dict[str, Any]:
    """What the predecessor's `.env` says, as settings of ours.

    Raises:
        Misconfigured: it asks for what we do not do, or does not say where Kafka is.
    """
    if given.get("MODUS", "index") != "index":
        raise Misconfigured(
            "MODUS: only `index` goes over the bridge; masks are made by `tomodex segment`"
        )
    if not given.get("BOOTSTRAP_SERVER"):
        raise Misconfigured("BOOTSTRAP_SERVER is not set: no broker is named")
    names = {
        "servers": "BOOTSTRAP_SERVER",
        "tasks": "INCOMING_INDEX_TOPIC_NAME",
        "results": "OUTGOING_INDEX_TOPIC_NAME",
        "errors": "ERROR_TOPIC_NAME",
        "group": "INDEX_CONSUMER_GROUP",
    }
    bridge = {ours: given[theirs] for ours, theirs in names.items() if given.get(theirs)}
    if given.get("S3_ENDPOINT"):
        bridge["store"] = _store(given)
    return {"bridge": bridge}


def _store(given: Mapping[str, str]) -> str:
    """Its object store; the keys stay where they are, in the environment."""
    secure = given.get("SSL_ON", "True").strip().casefold() == "true"
    options = {
        "endpoint": f"{'https' if secure else 'http'}://{given['S3_ENDPOINT']}",
        "key": "env:S3_ACCESS_KEY",
        "secret": "env:S3_SECRET_KEY",
        "layout": "archives",
        **({} if secure else {"insecure": "true"}),
    }
    return f"s3:?{urlencode(options)}"


@contextmanager
def opened_bridge(settings: Settings) -> Iterator[Bridging]:
    """A bridge on these settings."""
    kafka = Kafka(settings.bridge)
    queue = queue_of(settings)
    memory = Memory(settings.data / "bridge.db")
    try:
        yield Bridging(settings, kafka, queue, memory)
    finally:
        memory.close()
        queue.close()
        kafka.close()


def be_bridge(settings: Settings, name: str, stop: Stop) -> None:
    """What the process beside the workers does."""
    log_to_stderr(settings.log_level, settings.log_format)
    with opened_bridge(settings) as bridge:
        while not stop():
            try:
                bridge.step()
            except Unavailable as unavailable:
                log.warning("unavailable", extra={"sentence": str(unavailable)})
                _rest(stop)


def _rest(stop: Stop, sleep: Callable[[float], None] = time.sleep) -> None:
    end = time.monotonic() + REST_S
    while time.monotonic() < end and not stop():
        sleep(0.2)


def _connection(door: Bridge) -> dict[str, Any]:
    """What librdkafka needs to reach the broker."""
    given = {
        "bootstrap.servers": door.servers,
        "security.protocol": door.protocol,
        "sasl.mechanism": door.mechanism if door.user else "",
        "sasl.username": door.user,
        "sasl.password": door.password.read() if door.password else "",
        "ssl.ca.location": str(door.ca) if door.ca else "",
        "ssl.certificate.location": str(door.certificate) if door.certificate else "",
        "ssl.key.location": str(door.key) if door.key else "",
    }
    # It would write to stderr by itself, not as JSON.
    return {name: value for name, value in given.items() if value} | {"logger": log}


def _now() -> datetime:
    """Local time, as the predecessor's messages have it."""
    return datetime.now().astimezone()


def _name(error: Any) -> str:
    """The broker's word for it, without what was asked."""
    return str(error.name()) if hasattr(error, "name") else str(error)


def _plain(wrong: ValidationError) -> str:
    """What is wrong with a task, without its values."""
    faults = wrong.errors(include_url=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'it'}: {e['msg']}" for e in faults[:5])
