"""How fast the queue in Kafka is: put, lease and settle by some workers, and reading the log.

    python bench/kafka_queue.py [--broker 127.0.0.1:9092] [--tasks 1000] [--states 100000]

Without a broker one is started, as the tests do it (`tests/servers/install.sh`). Prints one line of
JSON; numbers of states that are read anew are of records as `put` makes them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.contracts.queue import annotated, new
from tests.servers.kafka import running_kafka
from tests.servers.ports import free_port

from tomodex.queues import open_queue
from tomodex.queues.kafka.queue import KafkaQueue

HOUR = timedelta(hours=1)

#: Structures of a result, as the median of a chest CT.
STRUCTURES = 30


#: Until the group has shared out the partitions among all who have come.
SETTLE_S = 10.0


def be_worker(url: str, folder: str, began: Any, done: Any) -> None:
    """Lease and settle until all is `done`; `began` is waited at by all."""
    with closing(open_queue(url, Path(folder))) as queue:
        end = time.monotonic() + SETTLE_S
        while time.monotonic() < end:
            queue.lease("w", HOUR, ["folder:///archive"])  # takes nothing, but joins
            time.sleep(0.2)
        began.wait()
        while not done.is_set():
            if (task := queue.lease(f"w{os.getpid()}", HOUR)) is None:
                time.sleep(0.1)
            else:
                queue.settle(task, annotated(task.series, structures=STRUCTURES))


def settle_with(url: str, folder: Path, workers: int, tasks: int) -> float:
    """Results per second of so many workers, from the first to the last."""
    with closing(KafkaQueue(url, folder)) as queue:
        queue.put([new(f"{workers}.{n}") for n in range(tasks)])
    context = multiprocessing.get_context("spawn")
    began, done = context.Barrier(workers + 1), context.Event()
    processes = [
        context.Process(target=be_worker, args=(url, str(folder), began, done))
        for _ in range(workers)
    ]
    for process in processes:
        process.start()
    began.wait()
    begin = time.monotonic()
    with closing(KafkaQueue(url, folder)) as queue:
        while any(status in ("ready", "in-progress") for _, status in queue.count()):
            time.sleep(0.05)
    seconds = time.monotonic() - begin
    done.set()
    for process in processes:
        process.join()
    return tasks / seconds


def put_many(url: str, folder: Path, tasks: int) -> float:
    """New tasks per second, a thousand at a time."""
    with closing(KafkaQueue(url, folder)) as queue:
        begin = time.monotonic()
        for first in range(0, tasks, 1000):
            some = [new(f"9.{n}", "backfill") for n in range(first, min(first + 1000, tasks))]
            queue.put([replace(one, source="s3://archive") for one in some])
        return tasks / (time.monotonic() - begin)


def read_anew(url: str, folder: Path) -> tuple[int, float]:
    """Records of the log, and seconds until a new machine has them."""
    begin = time.monotonic()
    with closing(KafkaQueue(url, folder)) as queue:
        queue.count()
        seconds = time.monotonic() - begin
        return queue._view.next_offset(), seconds


@contextmanager
def broker_at(address: str, folder: Path) -> Iterator[str]:
    if address:
        yield address
    else:
        with running_kafka(folder / "kafka", free_port()) as started:
            yield started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--broker", default="")
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--states", type=int, default=20_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, broker_at(given.broker, Path(name)) as broker:
        folder = Path(name)
        url = f"kafka://{broker}/bench{uuid4().hex[:8]}?copies=1&partitions=8"
        KafkaQueue.create(url)
        (folder / "a").mkdir()
        (folder / "b").mkdir()
        found: dict[str, float] = {"load": os.getloadavg()[0]}
        for workers in (1, 4):
            rate = settle_with(url, folder / "a", workers, given.tasks)
            found[f"settled_per_second_{workers}"] = round(rate, 1)
        found["put_per_second"] = round(put_many(url, folder / "a", given.states))
        records, seconds = read_anew(url, folder / "b")
        found |= {"records": records, "read_anew_s": round(seconds, 1)}
        found["read_per_second"] = round(records / seconds)
    print(json.dumps({"bench": "kafka_queue", **found}))


if __name__ == "__main__":
    main()
