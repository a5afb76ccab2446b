"""Whatever is killed when, of workers, delivery, broker and index: nothing is lost or doubled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from tests.servers.faults import Server, Site, brave
from tests.servers.kafka import running_kafka
from tests.servers.opensearch import running_opensearch
from tests.servers.ports import free_port
from tomodex.queues import create_queue

pytestmark = pytest.mark.server


#: Options of a queue in which a dead worker is soon missed, and no task given up.
IMPATIENT = "attempts=10000&retry_s=0.5"


@contextmanager
def site(folder: Path, queue: str) -> Iterator[tuple[Site, list[Server]]]:
    """Servers of its own, as nobody else's are to be killed; the queue in "sqlite" or "kafka"."""
    kafka_port, search_port = free_port(), free_port()
    kafka = Server(partial(running_kafka, folder / "kafka", kafka_port))
    search = Server(partial(running_opensearch, folder / "opensearch", port=search_port))
    try:
        broker, index = kafka.begin(), search.begin()
        make_topic(broker, "series")
        machines = tuple(folder / f"machine-{n}" for n in range(2))
        for machine in machines:
            machine.mkdir()
        queues = {
            "sqlite": f"sqlite://{folder}/tomodex.db?{IMPATIENT}",
            "kafka": f"kafka://{broker}/storm?{IMPATIENT}&partitions=8&copies=1&session_s=6",
        }
        create_queue(queues[queue])
        yield (
            Site(
                queue=queues[queue],
                index=f"{index}/tomodex",
                topic=f"kafka://{broker}/series?timeout_s=10",
                machines=machines,
            ),
            [kafka, search],
        )
    finally:
        kafka.end()
        search.end()


def make_topic(broker: str, name: str) -> None:
    admin = AdminClient({"bootstrap.servers": broker})
    made = admin.create_topics([NewTopic(name, num_partitions=3)])
    made[name].result(60)


# Thousands in the queue in Kafka take minutes: bench/faults.py.
@pytest.mark.parametrize(("queue", "past", "today"), [("sqlite", 1500, 300), ("kafka", 500, 100)])
def test_nothing_is_lost_or_doubled_whatever_is_killed_when(
    tmp_path: Path, queue: str, past: int, today: int
) -> None:
    tasks_per_kill = (past + today) // 24
    with site(tmp_path, queue) as (place, servers):
        outcome = brave(place, servers, past=past, today=today, tasks_per_kill=tasks_per_kill)
    assert outcome.kills >= 20
    assert outcome.restarts == 2
    # Not of the slowest: those that come while the broker is away wait until it is back.
    (daily_median, _), (backfill_median, _) = (
        outcome.waited_s["daily"],
        outcome.waited_s["backfill"],
    )
    assert daily_median < backfill_median / 2, outcome
