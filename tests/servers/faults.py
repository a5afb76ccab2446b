"""A storm: workers and delivery killed at random, servers restarted, and what is true afterwards.

Four workers and two processes that deliver, on two machines as far as the queue can tell, work on
a full back-fill while new series of the day come in. What the results feed says in the end must be
what the index and the topic have, document by document.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from confluent_kafka import Consumer, TopicPartition

from tests.contracts.queue import annotated, new
from tomodex import delivery
from tomodex.annotation import AnnotatedSeries, from_json
from tomodex.delivery import Deliverer, lag_of
from tomodex.errors import Unavailable
from tomodex.indexes import open_index
from tomodex.indexes.elasticsearch import ElasticsearchIndex
from tomodex.indexes.elasticsearch.sorting import sort_of
from tomodex.queues import Lane, NewTask, Queue, Task, open_queue
from tomodex.search import NEWEST
from tomodex.sinks import Sink, open_sink
from tomodex.worker import nothing_left, rest, work

_T = TypeVar("_T")

WORKERS = 4
DELIVERERS = 2

#: Short, so that the task of a killed worker soon goes to the next one.
LEASE = timedelta(seconds=2)

#: What a series takes a worker, seconds.
WORK_S = (0.005, 0.03)

#: A stalled worker comes back when its task is somebody else's.
STALL_EVERY = 8

#: Series of the day that are put at once, and how often.
DAILY_AT_ONCE = 4
DAILY_EVERY_S = 0.4

#: Nothing takes longer than this, however busy the machine is.
PATIENCE_S = 600.0

Role = Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where everything is."""

    queue: str  #: URL
    index: str  #: URL of an OpenSearch index
    topic: str  #: URL of a Kafka topic
    machines: tuple[Path, ...]  #: data folders

    def opened(self, machine: int) -> Queue:
        """The queue, as it is opened on one of the machines."""
        return open_queue(self.queue, self.machines[machine])

    @property
    def sinks(self) -> Mapping[str, Callable[[], Sink]]:
        """What results are delivered to."""
        return {
            self.index: partial(open_index, self.index),
            self.topic: partial(open_sink, self.topic),
        }


@dataclass(slots=True)
class Server:
    """A real server that can be killed and started again on what it has on disk."""

    start: Callable[[], Any]  #: makes a context, as `running_kafka` does
    _running: ExitStack = field(default_factory=ExitStack)

    def begin(self) -> str:
        """Its address."""
        address: str = self._running.enter_context(self.start())
        return address

    def restart(self) -> None:
        """As by kill -9."""
        self._running.close()
        self.begin()

    def end(self) -> None:
        self._running.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the storm has shown."""

    tasks: int  #: that were put, changed series twice
    kills: int
    restarts: int
    published: int  #: entries that ever were in the feed
    waited_s: Mapping[Lane, tuple[float, float]]  #: median and 95th percentile until settled
    seconds: float


# What the processes do


def find_structures(task: Task) -> AnnotatedSeries:
    """A result that says for which version of the series it was made, and when."""
    time.sleep(random.uniform(*WORK_S))
    made = annotated(task.series, structures=2 if task.series.fingerprint == "b" else 1)
    now = datetime.now(UTC).isoformat()
    return replace(made, provenance=replace(made.provenance, finished=now))


def be_worker(site: Site, number: int) -> None:
    with closing(patiently(lambda: site.opened(number % len(site.machines)))) as queue:
        work(queue, find_structures, worker=f"{os.getpid()}", stop=lambda: False, lease=LEASE,
             idle_s=0.05)  # fmt: skip


def be_deliverer(site: Site, number: int) -> None:
    """Deliver to all, a thread each; so there are two for each consumer."""
    delivery.LONGEST_REST_S = 4.0
    delivery.IDLE_S = 0.2
    opened_queue = partial(site.opened, number % len(site.machines))
    threads = [
        threading.Thread(
            target=Deliverer(opened_queue, consumer, opened_sink).keep_on, args=(lambda: False,)
        )
        for consumer, opened_sink in site.sinks.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def patiently(ask: Callable[[], _T]) -> _T:
    """What is answered as soon as somebody answers."""
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            return ask()
        except Unavailable:
            assert time.monotonic() < end, "nobody answers"
            time.sleep(0.2)


def alone(role: Role) -> None:
    """Do this without a word on stderr, where each broken connection would be told."""
    logging.disable()
    role()


def start(role: Role) -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.servers.faults", "tomodex.indexes.elasticsearch"])
    process = context.Process(target=alone, args=(role,), daemon=True)
    process.start()
    return process


def send(process: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, number)


# The storm


class Storm:
    """Keeps processes running, and kills or stalls one of them every so many settled tasks."""

    def __init__(self, site: Site, tasks_per_kill: int) -> None:
        self._site = site
        self._tasks_per_kill = tasks_per_kill
        self._roles = [partial(be_worker, site, n) for n in range(WORKERS)]
        self._roles += [partial(be_deliverer, site, n) for n in range(DELIVERERS)]
        self._running = [start(role) for role in self._roles]
        self._stalled: list[threading.Timer] = []
        self.kills = 0

    def blow(self, queue: Queue, strokes: Sequence[Callable[[], None]]) -> None:
        """Until nothing is left to work on; `strokes` are spread over the work that there is."""
        left = waiting(queue)
        first = last = settled(queue)
        ahead = [threading.Thread(target=stroke, daemon=True) for stroke in strokes]
        begun: list[threading.Thread] = []
        end = time.monotonic() + PATIENCE_S
        while ahead or any(one.is_alive() for one in begun) or not self._is_done(queue):
            assert time.monotonic() < end, f"not done: {patiently(queue.count)}"
            time.sleep(random.uniform(0.02, 0.1))
            now = settled(queue)
            if now >= last + self._tasks_per_kill:
                self._strike()
                last += self._tasks_per_kill
            done = (now - first) / max(1, left)
            if ahead and done > 1 - len(ahead) / (len(strokes) + 1):
                begun.append(ahead.pop(0))
                begun[-1].start()
            self._revive()

    def _is_done(self, queue: Queue) -> bool:
        return patiently(partial(nothing_left, queue))

    def calm(self) -> None:
        """Let the stalled ones say what they have to say; kill nobody from now on."""
        for timer in self._stalled:
            timer.join()
        time.sleep(0.5)
        self._revive()

    def end(self) -> None:
        for timer in self._stalled:
            timer.cancel()
        for process in self._running:
            process.kill()
            process.join()

    def _strike(self) -> None:
        self.kills += 1
        if self.kills % STALL_EVERY == 0:
            worker = random.choice(self._running[:WORKERS])
            send(worker.pid, signal.SIGSTOP)
            # By then somebody else has its task.
            later_s = 2.5 * LEASE.total_seconds()
            self._stalled.append(threading.Timer(later_s, send, (worker.pid, signal.SIGCONT)))
            self._stalled[-1].start()
        else:
            random.choice(self._running).kill()

    def _revive(self) -> None:
        for place, process in enumerate(self._running):
            if process.exitcode is not None:
                assert process.exitcode == -signal.SIGKILL, f"{place} ended by itself"
                self._running[place] = start(self._roles[place])


def settled(queue: Queue) -> int:
    """How many tasks nobody has to work on any more."""
    counts = patiently(queue.count)
    return sum(n for (_, status), n in counts.items() if status not in ("ready", "in-progress"))


def waiting(queue: Queue) -> int:
    counts = patiently(queue.count)
    return sum(n for (_, status), n in counts.items() if status in ("ready", "in-progress"))


class Daily:
    """Series of the day, that come in while the archive's past is worked off."""

    def __init__(self, queue: Queue, uids: Sequence[str]) -> None:
        self._queue = queue
        self._uids = iter(uids)
        self.put_s: dict[str, float] = {}
        self._thread = threading.Thread(target=self._run)

    def begin(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        while some := list(islice(self._uids, DAILY_AT_ONCE)):
            put(self._queue, [new(uid, "daily") for uid in some], self.put_s)
            rest(DAILY_EVERY_S, lambda: False)


def put(queue: Queue, tasks: Sequence[NewTask], put_s: dict[str, float]) -> None:
    """Put these, and remember when."""
    for task in tasks:
        put_s[task.series.series_uid] = time.time()
    patiently(lambda: queue.put(tasks))


def brave(
    site: Site, servers: Sequence[Server], *, past: int, today: int, tasks_per_kill: int
) -> Outcome:
    """Have so many series of the past and of today indexed in a storm, and see that all is well."""
    begin = time.monotonic()
    uids = [f"1.2.{n}" for n in range(past)]
    todays = [f"1.3.{n}" for n in range(today)]
    changed, gone = (uids + todays)[::3], (uids + todays)[1::30]
    with closing(site.opened(0)) as queue, closing(site.opened(0)) as others:
        put_s: dict[str, float] = {}
        for first in range(0, past, 200):
            put(queue, [new(uid, "backfill") for uid in uids[first : first + 200]], put_s)
        storm, daily = Storm(site, tasks_per_kill), Daily(others, todays)
        try:
            daily.begin()
            storm.blow(queue, [server.restart for server in servers])
            daily.end()
            storm.blow(queue, [])
            waited_s = waits(queue, put_s | daily.put_s)
            for uid in gone:
                patiently(partial(queue.withdraw, uid))
            put(queue, [new(uid, "reindex", fingerprint="b") for uid in changed], {})
            storm.blow(queue, [])
            storm.calm()
            storm.blow(queue, [])
            all_delivered(queue, site)
        finally:
            storm.end()
        outcome = Outcome(
            tasks=past + today + len(changed),
            kills=storm.kills,
            restarts=len(servers),
            published=published(site, queue),
            waited_s=waited_s,
            seconds=round(time.monotonic() - begin, 1),
        )
        same = set(uids + todays) - set(changed) - set(gone)
        require_all_well(site, queue, outcome, {1: same, 2: set(changed)}, gone)
    return outcome


def waits(queue: Queue, put_s: Mapping[str, float]) -> Mapping[Lane, tuple[float, float]]:
    """How long series of a lane waited until they were settled."""
    found: dict[Lane, list[float]] = {"daily": [], "backfill": []}
    for uid, result in feed(queue).items():
        assert result is not None
        made = datetime.fromisoformat(result.provenance.finished).timestamp()
        lane: Lane = "daily" if uid.startswith("1.3.") else "backfill"
        found[lane].append(made - put_s[uid])
    return {lane: (quantile(waited, 0.5), quantile(waited, 0.95)) for lane, waited in found.items()}


def quantile(values: Sequence[float], part: float) -> float:
    return round(sorted(values)[min(len(values) - 1, int(part * len(values)))], 2)


def all_delivered(queue: Queue, site: Site) -> None:
    """Return when index and topic have been brought everything."""
    end = time.monotonic() + PATIENCE_S
    while any(patiently(partial(lag_of, queue, consumer)).behind for consumer in site.sinks):
        assert time.monotonic() < end, "not delivered"
        time.sleep(0.2)


# What is true afterwards


def require_all_well(
    site: Site,
    queue: Queue,
    outcome: Outcome,
    structures: Mapping[int, set[str]],
    gone: Sequence[str],
) -> None:
    """Every task settled once, and index and topic the same as the feed."""
    there = set().union(*structures.values())
    counts = patiently(queue.count)
    assert {status for _, status in counts} == {"completed"}
    assert sum(counts.values()) == len(there)
    # A task that is settled twice has published twice.
    expected = outcome.tasks + len(gone)
    assert outcome.published == expected, f"{outcome.published} and not {expected} were published"
    truth = {uid: found for uid, found in feed(queue).items() if found is not None}
    assert set(truth) == there
    for count, uids in structures.items():
        assert {len(truth[uid].annotations) for uid in uids} == {count}
    require_same_index(site, truth)
    require_same_topic(site, truth, gone)
    assert [queue.asides(consumer) for consumer in site.sinks] == [[], []]


def feed(queue: Queue) -> dict[str, AnnotatedSeries | None]:
    """The last word on each series."""
    found: dict[str, AnnotatedSeries | None] = {}
    last = 0
    while results := patiently(partial(queue.results, last, 500)):
        found |= {result.series_uid: result.annotated for result in results}
        last = results[-1].sequence
    return found


def require_same_index(site: Site, truth: Mapping[str, AnnotatedSeries]) -> None:
    with closing(open_index(f"{site.index}-afresh")) as afresh:
        afresh.write(list(truth.values()))
    held, expected = documents(site.index), documents(f"{site.index}-afresh")
    assert set(held) == set(expected)
    other = {
        uid: [(name, held[uid].get(name), value) for name, value in made.items()
              if held[uid].get(name) != value]
        for uid, made in expected.items() if held[uid] != made
    }  # fmt: skip
    assert not other, f"{len(other)} differ, such as {next(iter(other.items()))}"


def documents(url: str) -> Mapping[str, Any]:
    """All that an index in OpenSearch holds, by series."""
    with closing(open_index(url)) as index:
        assert isinstance(index, ElasticsearchIndex)
        with index._server.asked() as client:
            client.indices.refresh(index=index._alias)
        every_one = index._walk({"match_all": {}}, True, sort_of(NEWEST))  # type: ignore[arg-type]
        return {document["series_uid"]: document for some in every_one for document in some}


def require_same_topic(
    site: Site, truth: Mapping[str, AnnotatedSeries], gone: Sequence[str]
) -> None:
    last_words = {key: value for key, value in messages(site.topic)}
    assert {uid for uid, value in last_words.items() if value is None} <= set(gone)
    held = {uid: from_json(value) for uid, value in last_words.items() if value is not None}
    assert held == truth


def messages(url: str) -> Iterator[tuple[str, bytes | None]]:
    """What a topic holds that was committed, those of a key in their order."""
    broker, _, topic = url.removeprefix("kafka://").partition("?")[0].partition("/")
    given = {"bootstrap.servers": broker, "group.id": uuid4().hex, "enable.partition.eof": True}
    consumer = Consumer({**given, "isolation.level": "read_committed"})
    partitions = consumer.list_topics(topic, 30).topics[topic].partitions
    consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
    ended = 0
    while ended < len(partitions):
        message = consumer.poll(30)
        assert message is not None, f"{topic} cannot be read"
        if message.error() is not None:
            ended += 1
        else:
            yield (message.key() or b"").decode(), message.value()
    consumer.close()


def published(site: Site, queue: Queue) -> int:
    """How many results and withdrawals were ever put into the feed."""
    if site.queue.startswith("sqlite:"):
        return queue.newest()
    entries = messages(f"{site.queue.partition('?')[0]}.results")
    # A withdrawal is said of the series, without a configuration; and once more of each result of
    # it, for those who read the topic without us.
    return sum(1 for key, value in entries if value is not None or not json.loads(key)[1])
