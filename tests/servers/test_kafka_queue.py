"""The queue on a real Kafka: its whole contract, and what only happens with several workers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from uuid import uuid4

import pytest
from confluent_kafka.admin import AdminClient

from tests.contracts.queue import Later, QueueContract
from tests.test_queues_sqlite import Clock
from tomodex.queues.kafka.queue import KafkaQueue

pytestmark = pytest.mark.server


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def url(broker: str) -> Iterator[str]:
    """A queue that nobody has used yet."""
    prefix = f"t{uuid4().hex[:10]}"
    url = f"kafka://{broker}/{prefix}?partitions=2&copies=1&fetch_ms=5&session_s=6&busy_s=20"
    names = KafkaQueue.create(url)
    yield url
    AdminClient({"bootstrap.servers": broker}).delete_topics(list(names))


class TestKafkaQueue(QueueContract):
    @pytest.fixture
    def queue(self, url: str, clock: Clock) -> Iterator[KafkaQueue]:
        with closing(KafkaQueue(f"{url}&fair=0", now=clock)) as queue:
            yield queue

    @pytest.fixture
    def fair_queue(self, url: str, clock: Clock) -> Iterator[KafkaQueue]:
        with closing(KafkaQueue(f"{url}&fair=3", now=clock)) as queue:
            yield queue

    @pytest.fixture
    def later(self, clock: Clock) -> Later:
        return clock.move
