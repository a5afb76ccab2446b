"""Workers of a queue in Kafka, each in a process of its own, for tests that kill them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from multiprocessing.context import SpawnProcess
from pathlib import Path

from tests.contracts.queue import annotated
from tomodex.annotation import AnnotatedSeries
from tomodex.queues import Task, open_queue
from tomodex.worker import work

LEASE = timedelta(seconds=30)


def be_worker(url: str, folder: Path, seconds: float) -> None:
    """Work until `stop` lies in the folder; say in there what was begun."""

    def annotate(task: Task) -> AnnotatedSeries:
        name = f"begun-{task.series.series_uid}-{os.getpid()}-{task.attempt}"
        (folder / name).touch()
        time.sleep(seconds)
        return annotated(task.series)

    with closing(open_queue(url, folder)) as queue:
        work(queue, annotate, worker=f"w{os.getpid()}", stop=(folder / "stop").exists,
             lease=LEASE, idle_s=0.1)  # fmt: skip


@contextmanager
def worker(url: str, folder: Path, seconds: float = 0.0) -> Iterator[SpawnProcess]:
    """One of them; it is killed in the end if it is still there."""
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=be_worker, args=(url, folder, seconds), daemon=True)
    process.start()
    try:
        yield process
    finally:
        if process.exitcode is None:
            kill(process)


def kill(process: SpawnProcess) -> None:
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()


def begun(folder: Path) -> list[str]:
    """Series that were begun, once for each time."""
    return sorted(path.name.split("-")[1] for path in folder.glob("begun-*"))


def wait_until(true: object, seconds: float) -> None:
    """Fails if it does not come true in time."""
    end = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.05)
