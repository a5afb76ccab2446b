"""An index on a cluster of which a node is killed: people search on, and no result is lost."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from threading import Event

import pytest

from tests.contracts.index import QUERIES, _series, asked
from tests.servers.search_cluster import SearchCluster, running_cluster
from tomodex.delivery import deliver_batch
from tomodex.errors import Unavailable
from tomodex.indexes.duckdb import DuckDBIndex
from tomodex.indexes.elasticsearch import ElasticsearchIndex
from tomodex.queues import NewTask
from tomodex.queues.sqlite import SqliteQueue
from tomodex.search import FIELDS

pytestmark = pytest.mark.server

#: Results in the feed; half of them are delivered when the node is killed.
RESULTS = 1000

#: Seconds for which nothing may succeed, on a machine that does much else: a new leader is elected,
#: and new first copies are named.
LONGEST_GAP_S = 120


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SearchCluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as nodes:
        yield nodes


@pytest.fixture
def queue() -> Iterator[SqliteQueue]:
    """The feed, in which each tenth result was withdrawn later."""
    dice = random.Random(29)
    with closing(SqliteQueue("sqlite:")) as queue:
        for number in range(RESULTS):
            one = _series(number, dice)
            queue.put([NewTask(series=one.series, source="folder:")])
            task = queue.lease("worker", timedelta(minutes=5))
            assert task is not None
            assert queue.settle(task, one)
            if number % 10 == 9:
                queue.withdraw(one.series.series_uid)
        yield queue


class Pulse:
    """When something succeeded, and for how long nothing did."""

    def __init__(self) -> None:
        self.times = [time.monotonic()]
        self.failures = 0

    def try_it(self, do: Callable[[], int]) -> int | None:
        """What it comes to; None where the server says: later."""
        try:
            done = do()
        except Unavailable:
            self.failures += 1
            time.sleep(0.1)
            return None
        self.times.append(time.monotonic())
        return done

    def longest_gap_s(self) -> float:
        ends = [*self.times[1:], time.monotonic()]
        return max(end - begin for begin, end in zip(self.times, ends, strict=True))


def test_when_a_node_is_killed_people_search_on_and_nothing_is_lost(
    cluster: SearchCluster, queue: SqliteQueue, tmp_path: Path
) -> None:
    options = "shards=3&replicas=1&timeout_s=20"
    index = ElasticsearchIndex(f"{cluster.url}/tomodex?{options}")
    searched = ElasticsearchIndex(f"{cluster.url}/tomodex?{options}")
    written, found, ended = Pulse(), Pulse(), Event()

    def search() -> None:
        while not ended.is_set():
            found.try_it(lambda: searched.search(asked("kidney between T12 and L4")).series)

    index.clear()
    cluster.wait_for("green")
    with ThreadPoolExecutor(1) as people:
        searching = people.submit(search)
        delivered, killed = 0, ""
        while (done := written.try_it(lambda: deliver_batch(queue, "index", index, 50))) != 0:
            delivered += done or 0
            if not killed and delivered > RESULTS / 2:
                killed = cluster.kill_the_elected()
        ended.set()
        searching.result()
    assert killed
    gaps = {"write_gap_s": written.longest_gap_s(), "search_gap_s": found.longest_gap_s()}
    assert max(gaps.values()) < LONGEST_GAP_S, gaps
    with index._server.asked() as client:
        client.indices.refresh(index="tomodex")
    _is_as_the_feed_says(index, queue, tmp_path)
    index.close()
    searched.close()


def _is_as_the_feed_says(index: ElasticsearchIndex, queue: SqliteQueue, folder: Path) -> None:
    """Both have the same series, and count studies and patients alike over all nodes."""
    with closing(DuckDBIndex(f"duckdb://{folder / 'index.duckdb'}")) as embedded:
        while deliver_batch(queue, "embedded", embedded, 500):
            pass
        one, other = (
            {hit.series_uid for hits in either.rows(asked("")) for hit in hits}
            for either in (index, embedded)
        )
        assert one == other
        assert len(one) == RESULTS * 9 // 10
        for text in ["", *QUERIES[::6]]:
            assert index.search(asked(text)) == embedded.search(asked(text)), text
            assert index.crowd(asked(text)) == embedded.crowd(asked(text)), text
        assert index.cells(asked("liver"), FIELDS) == embedded.cells(asked("liver"), FIELDS)
