"""Three brokers, of which any one may die at any time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread

import pytest
from confluent_kafka.admin import AdminClient

from tests.contracts.queue import feed, new
from tests.servers.kafka import RunningCluster, running_cluster
from tests.servers.kafka_workers import wait_until, worker
from tomodex.errors import TomodexError
from tomodex.probe import Probe
from tomodex.queues.kafka.queue import KafkaQueue

pytestmark = pytest.mark.server

#: A broker that is dead is missed after so long; 9,000 ms if nobody sets it.
QUICK = {"broker.session.timeout.ms": "6000", "broker.heartbeat.interval.ms": "1000"}

#: How long nothing at all may be settled after a broker was killed, seconds.
LONGEST_STALL_S = 60.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster"), QUICK) as cluster:
        yield cluster


@dataclass
class Watch:
    """Looks how far a queue is, and notes the longest time without a new result."""

    queue: KafkaQueue
    seen: int = 0
    longest_s: float = 0.0
    _ended: Event = field(default_factory=Event)

    def run(self) -> None:
        last_s = time.monotonic()
        while not self._ended.wait(0.1):
            try:
                count = self.queue.count()
            except TomodexError:
                continue
            done = sum(n for (_, status), n in count.items() if status == "completed")
            left = sum(count.values()) - done
            now_s = time.monotonic()
            if done > self.seen or not left:
                last_s = now_s
            self.seen = done
            self.longest_s = max(self.longest_s, now_s - last_s)

    def end(self) -> None:
        self._ended.set()


def probes(queue: KafkaQueue) -> dict[str, Probe]:
    return {probe.subject: probe for probe in queue.probe()}


def is_whole(queue: KafkaQueue) -> bool:
    """Whether each copy of each topic has all again."""
    try:
        return probes(queue)["copies"].verdict == "ok"
    except TomodexError:
        return False


def patiently_put(queue: KafkaQueue, uids: Sequence[str]) -> None:
    """Put them, however long it takes; what was put already is known."""
    end = time.monotonic() + LONGEST_STALL_S
    while True:
        try:
            queue.put([new(uid) for uid in uids])
        except TomodexError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)
        else:
            return


def coordinator(address: str, group: str) -> int:
    """The broker that keeps a group."""
    admin = AdminClient({"bootstrap.servers": address})
    node = admin.describe_consumer_groups([group])[group].result(30).coordinator
    return int(node.id)


def test_nothing_is_lost_or_doubled_whichever_broker_is_killed(
    cluster: RunningCluster, tmp_path: Path
) -> None:
    """The group's coordinator and the transactions' are among them: each is killed in turn."""
    url = f"kafka://{cluster.address}/t?partitions=4&fetch_ms=5&session_s=10"
    KafkaQueue.create(url)
    with closing(KafkaQueue(url)) as queue, closing(KafkaQueue(url)) as seen, ExitStack() as stack:
        wait_until(lambda: is_whole(queue), 30)
        found = probes(queue)
        assert "3 of" in found["copies"].sentence
        assert found["confirmations"].sentence == "min.insync.replicas=2"
        for _ in range(2):
            stack.enter_context(worker(url, tmp_path, 0.2))
        watch = Watch(seen)
        Thread(target=watch.run, daemon=True).start()
        put = [f"1.{n}" for n in range(20)]
        patiently_put(queue, put)
        wait_until(lambda: watch.seen >= 5, 60)
        first = coordinator(cluster.address, "t.workers")
        for number in (first, (first + 1) % 3, (first + 2) % 3):
            put += go_on_without(cluster, number, queue, watch)
        watch.end()
        (tmp_path / "stop").touch()
        assert sorted(uid for uid, _ in feed(queue)) == sorted(put)
        assert queue.count() == {("on-demand", "completed"): len(put)}


def go_on_without(
    cluster: RunningCluster, number: int, queue: KafkaQueue, watch: Watch
) -> Sequence[str]:
    """Kill a broker, have twenty series put and settled without it, and start it again."""
    more = [f"2.{number}.{n}" for n in range(20)]
    goal = sum(queue.count().values()) + len(more)
    cluster.kill(number)
    patiently_put(queue, more)
    wait_until(lambda: watch.seen >= goal, LONGEST_STALL_S)
    assert probes(queue)["copies"].verdict == "doubtful"
    cluster.start(number)
    wait_until(lambda: is_whole(queue), 60)
    return more
