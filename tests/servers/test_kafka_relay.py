"""Series that some workers leave to others, on a real Kafka."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from confluent_kafka.admin import AdminClient

from tests.contracts.queue import annotated, new, status_of
from tests.servers.kafka_workers import wait_until
from tomodex.annotation import AnnotatedSeries
from tomodex.errors import Elsewhere
from tomodex.queues import NewTask, Task
from tomodex.queues.kafka.queue import KafkaQueue
from tomodex.queues.kafka.relay import client_id, takes
from tomodex.worker import work

pytestmark = pytest.mark.server

DISK, PACS = "folder:///disk", "dimse://A@pacs:104/B"


@pytest.fixture
def url(broker: str) -> Iterator[str]:
    prefix = f"t{uuid4().hex[:10]}"
    url = f"kafka://{broker}/{prefix}?partitions=6&copies=1&fetch_ms=5&busy_s=20"
    names = KafkaQueue.create(url)
    yield f"{url}&session_s=6"
    AdminClient({"bootstrap.servers": broker}).delete_topics(list(names))


def tasks(source: str, how_many: int) -> list[NewTask]:
    stem = source.partition(":")[0]
    return [replace(new(f"{stem}.{n}"), source=source) for n in range(how_many)]


class Crew:
    """Workers in threads, each with a connection of its own, and who has done what."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.done: list[tuple[str, str]] = []

    @contextmanager
    def worker(self, name: str, lacking: str = "", avoiding: str = "") -> Iterator[None]:
        """One that finds out that it cannot read a source, or knows it from the beginning."""
        stop = threading.Event()

        def annotate(task: Task) -> AnnotatedSeries:
            if task.source == lacking:
                until = datetime.now(UTC) + timedelta(minutes=5)
                raise Elsewhere("never listed here", source=lacking, until=until)
            self.done.append((name, task.source))
            return annotated(task.series)

        def be_one() -> None:
            with closing(KafkaQueue(self._url)) as queue:
                work(queue, annotate, worker=name, stop=stop.is_set, idle_s=0.1,
                     avoiding=[avoiding] if avoiding else [])  # fmt: skip

        thread = threading.Thread(target=be_one)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def test_a_source_that_most_workers_leave_is_worked_off_by_the_one_that_does_not(url):
    crew = Crew(url)
    with closing(KafkaQueue(url)) as queue:
        queue.put([*tasks(DISK, 12), *tasks(PACS, 6)])
        with (
            crew.worker("without", avoiding=DISK),
            crew.worker("unlisted", lacking=DISK),
            crew.worker("with"),
        ):
            wait_until(lambda: len(crew.done) >= 18, 60)
        settled = [status_of(queue, task.series.series_uid) for task in tasks(DISK, 12)]
        attempts = [queue.states(f"folder.{n}")[0].attempt for n in range(12)]
    assert Counter(crew.done)["with", DISK] == 12
    assert len(crew.done) == 18  # each once
    assert settled == ["completed"] * 12
    assert attempts == [1] * 12


def test_what_nobody_takes_stays_where_it_is_until_somebody_comes(url):
    crew = Crew(url)
    with closing(KafkaQueue(url)) as queue:
        queue.put(tasks(DISK, 3))
        with crew.worker("without", avoiding=DISK):
            time.sleep(6)
            assert [status_of(queue, f"folder.{n}") for n in range(3)] == ["ready"] * 3
            waited = queue.waiting_since("on-demand")
            with crew.worker("with"):
                wait_until(lambda: len(crew.done) == 3, 40)
    assert waited is not None
    assert datetime.now(UTC) - waited > timedelta(seconds=6)


def take_and_die(url: str, how_many: int) -> None:
    """Lease tasks for a moment, and end like a machine without power."""
    queue = KafkaQueue(url)
    taken = [queue.lease("dead", timedelta(seconds=1)) for _ in range(how_many)]
    os._exit(0 if all(taken) else 1)


def test_what_a_machine_held_that_is_gone_goes_to_one_that_takes_it(url):
    crew = Crew(url)
    with closing(KafkaQueue(url)) as queue:
        queue.put(tasks(DISK, 8))
        spawn = multiprocessing.get_context("spawn")
        process = spawn.Process(target=take_and_die, args=(url, 8))
        process.start()
        process.join()
        assert process.exitcode == 0
        # It has half of the partitions, and the other worker not all of the tasks.
        with crew.worker("without", avoiding=DISK), crew.worker("with"):
            wait_until(lambda: len(crew.done) == 8, 60)
        assert {queue.states(f"folder.{n}")[0].attempt for n in range(8)} == {2}


def test_a_name_says_what_is_left_and_nothing_of_where_it_is():
    name = client_id([DISK, "s3://bucket"])
    assert not takes(name, DISK)
    assert takes(name, PACS)
    assert takes("rdkafka", DISK)
    assert "disk" not in name
