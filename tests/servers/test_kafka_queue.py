"""The queue on a real Kafka: its whole contract, and what only happens with several workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.contracts.queue import (
    HOUR,
    Later,
    QueueContract,
    annotated,
    feed,
    new,
    settle_next,
)
from tests.servers.kafka import running_kafka
from tests.servers.kafka_workers import begun, kill, wait_until, worker
from tests.servers.ports import free_port
from tests.test_queues_sqlite import DAILY_FIRST, Clock
from tomodex.annotation import from_json
from tomodex.errors import Misconfigured, Unavailable
from tomodex.phantom.cases import DEMO
from tomodex.phantom.writing import write_phantoms
from tomodex.queues import Failed, Retry
from tomodex.queues.kafka.queue import KafkaQueue

pytestmark = pytest.mark.server


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def url(broker: str) -> Iterator[str]:
    """A queue that nobody has used yet."""
    prefix = f"t{uuid4().hex[:10]}"
    url = f"kafka://{broker}/{prefix}?partitions=2&copies=1&fetch_ms=5&busy_s=20"
    names = KafkaQueue.create(url)
    yield f"{url}&session_s=6"
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
    def daily_first_queue(self, url: str, clock: Clock) -> Iterator[KafkaQueue]:
        with closing(KafkaQueue(f"{url}&fair=3&lanes={DAILY_FIRST}", now=clock)) as queue:
            yield queue

    @pytest.fixture
    def later(self, clock: Clock) -> Later:
        return clock.move


# Several workers


def open_tasks(queue: KafkaQueue) -> int:
    return sum(n for (_, status), n in queue.count().items() if status in ("ready", "in-progress"))


def test_a_worker_that_is_killed_leaves_its_task_to_another(url, tmp_path):
    with closing(KafkaQueue(url)) as queue, worker(url, tmp_path, 600) as first:
        queue.put([new("1.1")])
        wait_until(lambda: begun(tmp_path), 60)
        kill(first)
        assert queue.holders() == [f"w{first.pid}"]
        with worker(url, tmp_path):
            wait_until(lambda: not open_tasks(queue), 60)
        assert begun(tmp_path) == ["1.1", "1.1"]
        assert [uid for uid, _ in feed(queue)] == ["1.1"]
        assert queue.states("1.1")[0].attempt == 2


def test_what_a_buried_worker_held_waits_for_nobody(url, tmp_path):
    """Its partition is its own until its session ends; what it held is to go on before."""
    slow = url.replace("session_s=6", "session_s=60")
    with closing(KafkaQueue(slow)) as queue, worker(slow, tmp_path, 600) as first:
        assert queue.lease("w", HOUR) is None
        queue.put([new(f"1.{n}") for n in range(8)])
        wait_until(lambda: begun(tmp_path), 60)
        kill(first)
        assert queue.bury(f"w{first.pid}") == 1
        assert queue.holders() == []
        assert open_tasks(queue) == 8


def test_a_task_may_take_longer_than_the_longest_pause_between_polls(url, tmp_path):
    """The trap of aiokafka's issue 848: the group is shared out again and again, and the task is
    done for ever. Here others come and go while it is done, and it is done once."""
    slow = f"{url}&poll_s=7&patience_s=2"
    with closing(KafkaQueue(slow)) as queue, ExitStack() as stack:
        queue.put([new("1.1")])
        stack.enter_context(worker(slow, tmp_path, 11))
        wait_until(lambda: begun(tmp_path), 60)
        with worker(slow, tmp_path, 11) as second:
            time.sleep(4)
            kill(second)
        stack.enter_context(worker(slow, tmp_path, 11))
        wait_until(lambda: not open_tasks(queue), 90)
        time.sleep(2)
        assert [uid for uid, _ in feed(queue)] == ["1.1"]
        # As many as partitions could be taken away from it, by two who came and one who went.
        assert 1 <= len(begun(tmp_path)) <= 3


def test_a_task_whose_partition_goes_to_another_is_waited_for(url, tmp_path):
    with closing(KafkaQueue(url)) as queue:
        queue.put([new(f"1.{n}") for n in range(8)])
        tasks = []
        while task := queue.lease("w", HOUR):
            tasks.append(task)
        with worker(url, tmp_path):
            time.sleep(3)  # it has come by then, and gets nothing before we let go
            assert begun(tmp_path) == []
            assert all([queue.settle(task, annotated(task.series)) for task in tasks])
            queue.put([new(f"2.{n}") for n in range(16)])
            wait_until(lambda: begun(tmp_path), 60)
        assert len(feed(queue)) >= 8


def test_a_task_that_takes_too_long_is_given_back_and_its_attempt_is_not_counted(url):
    hasty = f"{url}&patience_s=0.2"
    with closing(KafkaQueue(hasty)) as slow, closing(KafkaQueue(hasty)) as other:
        lanes = ("on-demand", "daily", "reindex", "backfill")
        slow.put([new(f"1.{n}", lanes[n % 4]) for n in range(12)])
        held = {}
        while task := slow.lease("slow", HOUR):
            held[task.series.series_uid] = task
        wait_until(lambda: other.lease("other", HOUR), 60)
        moved = [uid for uid, task in held.items() if not slow.extend(task, HOUR)]
        assert 0 < len(moved) < 12
        for uid in moved:
            assert not slow.settle(held[uid], annotated(held[uid].series))
            assert not slow.give_back(held[uid])
            assert other.states(uid)[0].attempt <= 1
        assert feed(other) == []


def test_those_who_decide_at_once_decide_one_after_another(url):
    """Each on a machine of its own, without a file that they share."""
    uids = [f"1.{n}" for n in range(24)]

    def put_all(source: str) -> int:
        with closing(KafkaQueue(url)) as queue:
            return sum(
                queue.put([replace(new(uid), source=source) for uid in uids[first : first + 4]])
                for first in range(0, 24, 4)
            )

    with ThreadPoolExecutor(3) as pool, closing(KafkaQueue(url)) as queue:
        new_ones = sum(pool.map(put_all, ["s3://a", "s3://b", "s3://c"]))
        # Fewer where the broker could not say whether it was done, and it was.
        assert new_ones <= 24
        assert sum(queue.count().values()) == 24
        assert {len(list(queue.known(f"s3://{name}"))) for name in "abc"} == {24}


def test_a_series_that_is_withdrawn_while_it_is_settled_does_not_come_back(url):
    """Neither in our feed nor for those who read the topic without us."""
    uids = [f"1.{n}" for n in range(12)]
    with closing(KafkaQueue(url)) as workers, closing(KafkaQueue(url)) as archive:
        workers.put([new(uid) for uid in uids])
        tasks = [workers.lease("w", HOUR) for _ in uids]
        with ThreadPoolExecutor(2) as pool:
            settled = pool.submit(
                lambda: [workers.settle(task, annotated(task.series)) for task in tasks]
            )
            for uid in uids:
                archive.withdraw(uid)
            settled.result()
        assert archive.count() == {}
        assert all(volume is None for _, volume in feed(archive))
        assert all(value is None for value in last_values(workers, url).values())


def test_a_result_that_is_still_being_written_is_not_passed_over(url, monkeypatch):
    """Who delivers is not told of a later entry of the feed before it, or would never see it."""
    sent, go = Event(), Event()
    with closing(KafkaQueue(url)) as workers, closing(KafkaQueue(url)) as archive:
        workers.put([new("1.1"), new("1.2")])
        done, task = settle_next(workers), workers.lease("w", HOUR)
        press, last = workers._hands._press, archive.newest()
        letters = press.letters

        def hesitate(records):
            sent.set()
            assert go.wait(60)
            return letters(records)

        monkeypatch.setattr(press, "letters", hesitate)
        with ThreadPoolExecutor(1) as pool:
            settled = pool.submit(workers.settle, task, annotated(task.series))
            assert sent.wait(60)
            archive.withdraw(done.series.series_uid)
            seen = archive.results(last, 10)
            go.set()
            assert settled.result()
        assert seen == []
        uids = [result.series_uid for result in archive.results(last, 10)]
        assert uids == [task.series.series_uid, done.series.series_uid]


def last_values(queue: KafkaQueue, url: str) -> dict[bytes, bytes | None]:
    """What a reader of the topic of results has in the end of each key."""
    parts = urlsplit(url)
    topic = f"{parts.path.strip('/')}.results"
    consumer = Consumer(
        {
            "bootstrap.servers": parts.netloc,
            "group.id": uuid4().hex,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
        }
    )
    consumer.assign([TopicPartition(topic, 0, 0)])
    found: dict[bytes, bytes | None] = {}
    with closing(consumer):
        while (message := consumer.poll(10)) is not None and message.error() is None:
            found[message.key()] = message.value()
    return found


# What others see in Kafka, and put there


def test_the_topic_of_results_can_be_read_by_anybody(url):
    with closing(KafkaQueue(url)) as queue:
        queue.put([new("1.1"), new("1.2")])
        made = [settle_next(queue) for _ in range(2)]
        queue.withdraw("1.1")
        values = last_values(queue, url)
        assert from_json(values[b'["1.2","default"]']) == annotated(made[1].series)
        assert values[b'["1.1","default"]'] is None


def test_the_lag_of_the_workers_is_what_waits(url, broker):
    parts = urlsplit(url)
    prefix = parts.path.strip("/")
    with closing(KafkaQueue(url)) as queue:
        queue.put([new(f"1.{n}", "daily") for n in range(6)])
        for _ in range(6):
            settle_next(queue)
        admin = AdminClient({"bootstrap.servers": broker})
        ends = {p: queue_end(broker, f"{prefix}.tasks.daily", p) for p in (0, 1)}
        asked = ConsumerGroupTopicPartitions(f"{prefix}.workers")
        (answer,) = admin.list_consumer_group_offsets([asked]).values()
        places = {
            place.partition: place.offset
            for place in answer.result(30).topic_partitions
            if place.topic.endswith(".daily")
        }
        # What ends a transaction takes an offset too.
        assert all(0 <= ends[p] - at <= 1 for p, at in places.items())
        assert places


def queue_end(broker: str, topic: str, partition: int) -> int:
    consumer = Consumer({"bootstrap.servers": broker, "group.id": uuid4().hex})
    with closing(consumer):
        return consumer.get_watermark_offsets(TopicPartition(topic, partition), 30)[1]


def test_what_failed_lies_with_the_dead_until_it_is_tried_again(url):
    parts = urlsplit(url)
    topic = f"{parts.path.strip('/')}.tasks.dead"
    with closing(KafkaQueue(url)) as queue:
        queue.put([new("1.1")])
        settle_next(queue, Failed(reason="KeyError", sentence="at measure"))
        dead = read_all(parts.netloc, topic)
        assert [(m.key(), m.headers()) for m in dead] == [
            (b'["1.1","default"]', [("reason", b"KeyError"), ("sentence", b"at measure")])
        ]
        assert queue.retry() == 1
        assert read_all(parts.netloc, topic)[-1].value() is None
        assert queue.lease("w", HOUR) is not None


def test_what_waits_for_another_attempt_says_until_when(url, clock):
    parts = urlsplit(url)
    with closing(KafkaQueue(url, now=clock)) as queue:
        queue.put([new("1.1")])
        settle_next(queue, Retry(sentence="the PACS closed the association"))
        (ticket,) = read_all(parts.netloc, f"{parts.path.strip('/')}.tasks.retry.1m")
        ((name, at),) = ticket.headers()
        assert name == "not-before"
        assert clock.now_s < int(at) / 1000 <= clock.now_s + 30


def read_all(servers: str, topic: str) -> list[Any]:
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": uuid4().hex,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
        }
    )
    found = []
    with closing(consumer):
        for partition in consumer.list_topics(topic, 30).topics[topic].partitions:
            consumer.assign([TopicPartition(topic, partition, 0)])
            while (message := consumer.poll(10)) is not None and message.error() is None:
                found.append(message)
    return found


def test_what_others_put_into_the_topics_stops_nothing(url, broker):
    prefix = urlsplit(url).path.strip("/")
    with closing(KafkaQueue(url)) as queue:
        queue.put([new("1.1"), new("1.2")])
        settle_next(queue)
        producer = Producer({"bootstrap.servers": broker})
        for name in ("states", "results", "tasks.daily", "tasks.dead"):
            for value in (b"no JSON", b'{"format":0}', b"x" * 500_000, None):
                producer.produce(f"{prefix}.{name}", value, b'["task","1.2","default","odd"]')
        assert producer.flush(30) == 0
        settle_next(queue)
        assert [uid for uid, _ in feed(queue)] == ["1.1", "1.2"]


def test_a_result_that_is_too_large_is_said_to_be_and_the_task_is_still_held(url):
    with closing(KafkaQueue(url)) as queue:
        queue.put([new("1.1")])
        task = queue.lease("w", HOUR)
        huge = replace(annotated(task.series), unmapped=("x" * 9_000_000,))
        with pytest.raises(ValueError, match="bytes"):
            queue.settle(task, huge)
        large = replace(annotated(task.series), unmapped=("x" * 3_000_000,))
        assert queue.settle(task, large)
        assert queue.result("1.1").annotated == large


# What is wrong is said


def test_a_broker_that_is_not_there_is_named_and_can_be_waited_for():
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:9 "):
        KafkaQueue("kafka://127.0.0.1:9/tomodex?busy_s=1")


def test_topics_that_are_not_there_are_missed_and_not_made(broker):
    with pytest.raises(Misconfigured, match="doctor --create"):
        KafkaQueue(f"kafka://{broker}/nobodys")
    assert "nobodys.states" not in AdminClient({"bootstrap.servers": broker}).list_topics().topics


def test_the_doctor_looks_at_the_topics(url, tmp_path):
    with closing(KafkaQueue(url, tmp_path)) as queue:
        queue.put([new("1.1")])
        verdicts = {probe.subject: probe.verdict for probe in queue.probe()}
    assert verdicts == {
        "topics": "ok",
        "copies": "doubtful",
        "Kafka's own topics": "ok",
        "topic settings": "ok",
        "confirmations": "ok",
        "rights": "ok",
        "view": "ok",
    }


def test_the_view_of_a_machine_can_be_deleted_at_any_time(url, tmp_path):
    with closing(KafkaQueue(url, tmp_path)) as queue:
        queue.put([new("1.1"), new("1.2")])
        settle_next(queue)
        before = queue.states("1.1")
    (view,) = tmp_path.glob("kafka-*.db")
    view.unlink()
    with closing(KafkaQueue(url, tmp_path)) as queue:
        assert queue.states("1.1") == before
        assert [uid for uid, _ in feed(queue)] == ["1.1"]


def test_one_delivers_to_a_consumer_at_a_time(url):
    with (
        closing(KafkaQueue(url)) as one,
        closing(KafkaQueue(url.replace("busy_s=20", "busy_s=1"))) as other,
    ):
        with one.claim("index"):
            one.confirm("index", 3)
            with pytest.raises(Unavailable, match="index"), other.claim("index"):
                pass
        with closing(KafkaQueue(url)) as third, third.claim("index"):
            assert third.cursor("index") == 3


def test_who_only_asks_how_far_a_consumer_is_does_not_move_it(url):
    with closing(KafkaQueue(url)) as one, closing(KafkaQueue(url)) as other:
        with one.claim("index"):
            one.confirm("index", 3)
            assert other.cursor("index") == 3
            one.confirm("index", 1)
        with closing(KafkaQueue(url)) as third:
            assert third.cursor("index") == 1


# The whole product


SEGMENTED = [case for case in DEMO if not case.reason]


def tomodex(folder: Path, url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("TOMODEX_")},
        "TOMODEX_DATA": str(folder),
        "TOMODEX_QUEUE": url,
        "TOMODEX_SEGMENTERS": '["phantom:"]',
        "TOMODEX_WORKERS": "2",
    }
    start = "from tomodex.cli import main; main()"
    command = [sys.executable, "-c", start, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_the_commands_work_on_it_and_from_two_machines(broker, tmp_path):
    """Each data folder stands for a machine: what one has indexed, the other searches."""
    url = f"kafka://{broker}/c{uuid4().hex[:10]}?partitions=2&copies=1"
    here, there = tmp_path / "here", tmp_path / "there"
    truths = write_phantoms(tmp_path / "phantoms", SEGMENTED[:2])
    missing = tomodex(here, url, "index", str(tmp_path / "phantoms"))
    assert missing.returncode == 2
    assert "tomodex doctor --create" in missing.stderr
    made = tomodex(here, url, "doctor", "--create", "--json")
    assert made.stderr.count("made ") == 10
    indexed = tomodex(here, url, "index", str(tmp_path / "phantoms"), "--json")
    assert indexed.returncode == 0, indexed.stderr
    said = json.loads(indexed.stdout)
    assert said["indexed"] == len(truths)
    shown = tomodex(there, url, "show", truths[0].series_uid, "--json")
    assert truths[0].series_uid in shown.stdout
    rebuilt = tomodex(there, url, "rebuild")
    assert rebuilt.returncode == 0, rebuilt.stderr
    found = tomodex(there, url, "search", "Modality = CT", "--json")
    assert json.loads(found.stdout)["found"]["counts"]["series"] == len(truths), found.stderr


def test_nothing_is_lost_when_the_broker_is_restarted(tmp_path):
    port, uids = free_port(), [f"1.{n}" for n in range(30)]
    url = f"kafka://127.0.0.1:{port}/restarted?partitions=2&copies=1&session_s=6&fetch_ms=5"
    with ExitStack() as workers:
        with running_kafka(tmp_path / "kafka", port):
            KafkaQueue.create(url)
            for _ in range(2):
                workers.enter_context(worker(url, tmp_path, 0.2))
            with closing(KafkaQueue(url)) as queue:
                queue.put([new(uid) for uid in uids])
                wait_until(lambda: len(begun(tmp_path)) > 6, 60)
        time.sleep(1)
        with running_kafka(tmp_path / "kafka", port), closing(patiently(url)) as queue:
            wait_until(lambda: not open_tasks(queue), 90)
            assert sorted(uid for uid, _ in feed(queue)) == sorted(uids)
            assert queue.count() == {("on-demand", "completed"): 30}
            (tmp_path / "stop").touch()


def patiently(url: str) -> KafkaQueue:
    """A broker that has just begun does not know its topics at once."""
    end = time.monotonic() + 30
    while True:
        try:
            return KafkaQueue(url)
        except (Unavailable, Misconfigured):
            if time.monotonic() > end:
                raise
        time.sleep(0.2)
