"""How Kafka is reached, and what its errors mean to us."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it exports them to people only
    AclOperation,
    AdminClient,
)
from pydantic import AfterValidator, Field, model_validator

from tomodex.errors import Misconfigured, TomodexError, Unavailable
from tomodex.kafka_door import Door, KafkaOptions, Seldom
from tomodex.options import read_options
from tomodex.queues import LANES, read_lanes
from tomodex.queues.kafka.topics import Names, names_of

#: The library's own lines; that another has decided first is no fault.
library = logging.getLogger(f"{__name__}.librdkafka")
library.addFilter(Seldom())
library.addFilter(lambda line: not re.search("fenced|old epoch", line.getMessage()))

#: While the first group of a new cluster is made, or the broker that keeps it is another one.
NO_COORDINATOR = frozenset(
    {
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    }
)

#: How long one request may take.
PATIENCE_S = 30.0


def _as_lanes(names: str) -> str:
    """Refuse what does not name each lane once."""
    return ",".join(read_lanes(names))


class QueueOptions(KafkaOptions):
    """What a queue's URL may set after its `?`."""

    attempts: int = Field(5, ge=1)  #: a task that was leased so often without answer is failed
    retry_s: float = Field(30.0, ge=0, lt=86400)  #: first wait after Unavailable; doubles
    fair: int = Field(10, ge=0)  #: every so many-th lease takes the least urgent lane; 0: never
    lanes: Annotated[str, AfterValidator(_as_lanes)] = ",".join(LANES)  #: most urgent first
    busy_s: float = Field(60.0, ge=1, lt=86400)  #: how long to wait for other processes
    partitions: int = Field(24, ge=1, le=10_000)  #: of a lane, when topics are made
    copies: int = Field(
        -1, ge=-1
    )  #: of each topic, when they are made; -1: 3, or one of each broker
    session_s: float = Field(30.0, ge=1, le=1800)  #: a worker silent for so long is dead
    patience_s: float = Field(120.0, ge=0, le=86400)
    #: how long a task may go on that another worker is to get
    poll_s: float = Field(600.0, ge=2, le=86400)
    #: a worker that does not answer the group for so long is left out; more than `patience_s`
    fetch_ms: int = Field(20, ge=1, le=500)  #: how long the broker waits for something new

    @model_validator(mode="after")
    def _be_patient_in_time(self) -> QueueOptions:
        if self.patience_s >= self.poll_s or self.session_s > self.poll_s:
            raise ValueError("patience_s and session_s are to be less than poll_s")
        return self


class Cluster:
    """`kafka://broker1:9092,broker2:9092/PREFIX?options`.

    Raises:
        Misconfigured: the URL names no broker or no prefix, or an option is wrong.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.options = read_options(url, QueueOptions)
        self.servers = parts.netloc
        prefix = unquote(parts.path).strip("/")
        if not self.servers or "@" in self.servers:
            raise Misconfigured("a queue in Kafka is kafka://broker:9092/PREFIX, without a user")
        self.names: Names = names_of(prefix)
        self._allowed_groups: set[str] = set()
        self.door = Door(self.servers, self.options)
        self._common: Mapping[str, Any] = {**self.door.settings, "logger": library}

    def be_called(self, name: str) -> None:
        """Go by this name with the brokers, from the next connection on."""
        self._common = {**self._common, "client.id": name}

    def allowed_in_group(self, group: str, admin: AdminClient) -> Collection[AclOperation] | None:
        """What we may do in a group; None: the broker does not say.

        Raises:
            Unavailable: no broker answers.
        """
        until = time.monotonic() + min(PATIENCE_S, self.options.busy_s)
        while True:
            asked = admin.describe_consumer_groups(
                [group], request_timeout=PATIENCE_S, include_authorized_operations=True
            )
            self.door.await_answers(admin, asked, PATIENCE_S)
            try:
                allowed: Collection[AclOperation] | None
                allowed = asked[group].result().authorized_operations
            except KafkaException as error:
                code = error.args[0].code()
                if code == KafkaError.GROUP_AUTHORIZATION_FAILED:
                    return ()
                if code not in NO_COORDINATOR or time.monotonic() > until:
                    raise self.named(error.args[0]) from error
                time.sleep(0.1)
            else:
                return allowed

    def _require_group(self, group: str) -> None:
        """Look once whether we may be in a group: a consumer that may not waits in silence."""
        if group in self._allowed_groups:
            return
        try:
            allowed = self.allowed_in_group(group, self.admin())
        except Unavailable:
            # A new cluster takes a while to make its topic of groups, for which a member waits.
            return
        if allowed is not None and AclOperation.READ not in allowed:
            raise Misconfigured(
                f"Kafka at {self.servers}: this user may not read the group {group}; "
                "`tomodex doctor` says what is not allowed"
            )
        self._allowed_groups.add(group)

    def consumer(self, group: str, **more: Any) -> Consumer:
        """A member of a group, or one who only asks.

        Raises:
            Misconfigured: we may not use the group.
        """
        if group != self.names.view:  # who reads the log is told as soon as he reads
            self._require_group(group)
        with self.named_errors():
            return Consumer(
                {
                    **self._common,
                    "group.id": group,
                    "enable.auto.commit": False,
                    "auto.offset.reset": "earliest",
                    "queued.max.messages.kbytes": 16_384,
                    **{name.replace("_", "."): value for name, value in more.items()},
                }
            )

    def producer(self, transactional_id: str, timeout_ms: int) -> Producer:
        with self.named_errors():
            return Producer(
                {
                    **self._common,
                    "transactional.id": transactional_id,
                    "transaction.timeout.ms": timeout_ms,
                    "compression.type": "zstd",
                    "message.max.bytes": 16_000_000,
                    "linger.ms": 0,
                }
            )

    def admin(self) -> AdminClient:
        return self.door.admin()

    @contextmanager
    def named_errors(self) -> Iterator[None]:
        """Name Kafka's errors after what the catcher does."""
        try:
            yield
        except KafkaException as error:
            raise self.named(error.args[0]) from error

    def named(self, error: KafkaError) -> TomodexError:
        """Our error for one of Kafka's."""
        return self.door.named(error)
