"""Whatever is killed when: nothing is lost, nothing is doubled, and the index is what was settled.

Real processes put, work and deliver on one SQLite file, and are killed with SIGKILL at random.
`TOMODEX_KILLS=200` makes it 200 kills in 10,000 tasks, which takes some minutes.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path

import apsw

from tests.contracts.queue import annotated, new
from tomodex.annotation import AnnotatedSeries, from_json, to_json
from tomodex.delivery import deliver
from tomodex.errors import Unavailable
from tomodex.indexes import open_index
from tomodex.queues import Queue, Task, open_queue
from tomodex.queues.sqlite import SqliteQueue
from tomodex.search import Query
from tomodex.worker import nothing_left, work

KILLS = int(os.environ.get("TOMODEX_KILLS", "30"))
TASKS_PER_KILL = 50 if "TOMODEX_KILLS" in os.environ else 25
PUT_AT_ONCE = 20

#: A stalled worker comes back when its task is somebody else's.
STALL_EVERY = 8

#: Short, so that the task of a killed worker soon goes to the next one.
LEASE = timedelta(seconds=0.6)

Role = Callable[[], None]


class Shelf:
    """A sink with a file for each series."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)

    def write(self, annotated: Sequence[AnnotatedSeries]) -> None:
        for one in annotated:
            half = self._folder / "half"
            half.write_bytes(to_json(one))
            half.rename(self._folder / f"{one.series.series_uid}.json")

    def erase(self, series_uids: Sequence[str]) -> None:
        for uid in series_uids:
            (self._folder / f"{uid}.json").unlink(missing_ok=True)

    def close(self) -> None:
        pass

    def held(self) -> dict[str, AnnotatedSeries]:
        return {p.stem: from_json(p.read_bytes()) for p in self._folder.glob("*.json")}


def find_structures(task: Task) -> AnnotatedSeries:
    """A result that says for which version of the series it was made."""
    time.sleep(random.uniform(0, 0.002))
    return annotated(task.series, structures=2 if task.series.fingerprint == "b" else 1)


def be_worker(url: str) -> None:
    with closing(open_queue(url)) as queue:
        work(queue, find_structures, worker=f"{os.getpid()}", stop=lambda: False, lease=LEASE,
             idle_s=0.02)  # fmt: skip


def be_deliverer(url: str, index_url: str, shelf: Path) -> None:
    sinks = {"index": open_index(index_url), "shelf": Shelf(shelf)}
    with closing(open_queue(url)) as queue:
        while True:
            for name, sink in sinks.items():
                # A killed one may hold the index for a moment longer.
                try:
                    deliver(queue, name, sink, batch=40)
                except Unavailable:
                    time.sleep(0.02)
            time.sleep(0.01)


def put_all(url: str, uids: Sequence[str]) -> None:
    with closing(open_queue(url)) as queue:
        for first in range(0, len(uids), PUT_AT_ONCE):
            queue.put([new(uid) for uid in uids[first : first + PUT_AT_ONCE]])
            time.sleep(0.01)


def change_some(url: str, changed: Sequence[str], gone: Sequence[str]) -> None:
    with closing(open_queue(url)) as queue:
        for uid in gone:
            queue.withdraw(uid)
        for first in range(0, len(changed), PUT_AT_ONCE):
            queue.put([new(uid, fingerprint="b") for uid in changed[first : first + PUT_AT_ONCE]])
            time.sleep(0.01)


class Storm:
    """Keeps processes running, and kills or stalls one of them every so many settled tasks."""

    def __init__(self, queue: Queue, workers: int, tasks_per_kill: int) -> None:
        self._queue = queue
        self._workers = workers
        self._tasks_per_kill = tasks_per_kill
        self._stalled: list[threading.Timer] = []
        self.kills = 0

    def blow(self, once: Role, workers: Role, deliverer: Role) -> None:
        """Until `once` has come to its end and nothing is left to work on."""
        roles = [*[workers] * self._workers, deliverer, once]
        running = [start(role) for role in roles]
        next_kill = last_sequence(self._queue) + self._tasks_per_kill
        while running[-1].exitcode != 0 or not nothing_left(self._queue):
            time.sleep(random.uniform(0, 0.02))
            if last_sequence(self._queue) >= next_kill:
                self._strike(running)
                next_kill += self._tasks_per_kill
            for place, process in enumerate(running):
                if process.exitcode:
                    assert process.exitcode == -signal.SIGKILL, "a process ended by itself"
                    running[place] = start(roles[place])
        for timer in self._stalled:
            timer.join()
        time.sleep(0.3)  # for what the stalled ones have to say now
        for process in running:
            process.kill()
            process.join()

    def _strike(self, running: Sequence[multiprocessing.Process]) -> None:
        alive = [process for process in running if process.is_alive()]
        self.kills += 1
        if self.kills % STALL_EVERY == 0:
            worker = random.choice(running[: self._workers])
            send(worker.pid, signal.SIGSTOP)
            # By then somebody else has its task.
            later_s = 2.5 * LEASE.total_seconds()
            self._stalled.append(threading.Timer(later_s, send, (worker.pid, signal.SIGCONT)))
            self._stalled[-1].start()
        else:
            random.choice(alive).kill()


def send(process: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, number)


def start(role: Role) -> multiprocessing.Process:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.test_faults", "tomodex.indexes.duckdb"])
    process = context.Process(target=role, daemon=True)
    process.start()
    return process


def last_sequence(queue: Queue) -> int:
    """How many results were ever published: a task that is settled twice counts twice."""
    return queue._db.execute("select coalesce(max(seq), 0) from sqlite_sequence").get


def test_nothing_is_lost_or_doubled_whatever_is_killed_when(tmp_path):
    file, shelf = tmp_path / "tomodex.db", tmp_path / "shelf"
    url, index_url = f"sqlite://{file}?attempts=10000", f"duckdb://{tmp_path}/index.duckdb"
    uids = [f"1.2.{n}" for n in range(KILLS * TASKS_PER_KILL * 3 // 4)]
    changed, gone, same = uids[::3], uids[1::30], set(uids[1::3] + uids[2::3]) - set(uids[1::30])
    deliverer = partial(be_deliverer, url, index_url, shelf)
    with closing(open_queue(url)) as queue:
        storm, worker = Storm(queue, 2, TASKS_PER_KILL), partial(be_worker, url)
        storm.blow(partial(put_all, url, uids), worker, deliverer)
        assert queue.count() == {("on-demand", "completed"): len(uids)}
        assert last_sequence(queue) == len(uids)
        storm.blow(partial(change_some, url, changed, gone), worker, deliverer)
        assert queue.count() == {("on-demand", "completed"): len(uids) - len(gone)}
        assert last_sequence(queue) == len(uids) + len(changed) + len(gone)
        assert storm.kills >= KILLS - 2
        with closing(open_index(index_url)) as index:
            deliver(queue, "index", index)
            deliver(queue, "shelf", Shelf(shelf))
            hits = index.search(Query(text="", term=None), limit=len(uids)).hits
        truth = {r.series_uid: r.annotated for r in queue.results(0, 2 * len(uids)) if r.annotated}
    assert {uid: len(a.annotations) for uid, a in truth.items()} == {
        **dict.fromkeys(changed, 2),
        **dict.fromkeys(same, 1),
    }
    assert Shelf(shelf).held() == truth
    assert {hit.series_uid: hit.structure_count for hit in hits} == {
        uid: len(found.annotations) for uid, found in truth.items()
    }
    with closing(apsw.Connection(str(file))) as db:
        assert db.pragma("integrity_check") == "ok"


def die_at(url: str, statement: int) -> None:
    """Work on a task, but be killed right before that statement."""
    queue = SqliteQueue(url)
    ahead = iter(range(statement, -1, -1))

    def count_down(cursor: apsw.Cursor, sql: str, facts: object) -> bool:
        if next(ahead) == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return True

    queue._db.exec_trace = count_down
    task = queue.lease("w", LEASE)
    queue.settle(task, find_structures(task))
    queue._db.exec_trace = None


def test_a_worker_may_be_killed_before_any_statement(tmp_path):
    url = f"sqlite://{tmp_path}/tomodex.db?attempts=1000&fair=0"
    killed = 0
    with closing(SqliteQueue(url)) as queue:
        while True:
            queue.put([new(f"1.{killed}")])
            process = start(partial(die_at, url, killed))
            process.join()
            queue.bury("w")
            if process.exitcode == 0:
                break
            killed += 1
        while task := queue.lease("w", LEASE):
            assert queue.settle(task, find_structures(task))
        assert killed > 10
        assert queue.count() == {("on-demand", "completed"): killed + 1}
        assert last_sequence(queue) == killed + 1
