"""How fast series are put, leased and settled while a million others wait.

    .venv/bin/python bench/task_queue.py                     # 1,000,000 waiting, 1 and 2 processes
    .venv/bin/python bench/task_queue.py --tasks 10000000    # 10 million: some 10 GB of disk

Every settled task stores a result of 30 structures. The work itself takes no time here, so this is
the most that any number of workers can get out of one file.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import resource
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.contracts.queue import annotated

from tomodex.queues import NewTask
from tomodex.queues.sqlite import LANES, SqliteQueue
from tomodex.series import Series

LEASE = timedelta(minutes=5)
CHUNK = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=8.0, help="for each number of processes")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--dir", type=Path, help="on the disk to be measured")
    given = parser.parse_args()
    with TemporaryDirectory(prefix="tomodex-bench-", dir=given.dir) as folder:
        file = Path(folder) / "tomodex.db"
        url = f"sqlite://{file}"
        figures: dict[str, object] = {"waiting": given.tasks, **fill(url, given.tasks)}
        for processes in given.processes:
            figures |= measure(url, processes, given.seconds)
        figures |= ask(url)
        figures["file_mb"] = round(sum(f.stat().st_size for f in file.parent.iterdir()) / 1e6)
    print(json.dumps(figures))


def fill(url: str, tasks: int) -> dict[str, float]:
    """Put the tasks as discovery does, then put some of them again."""
    queue = SqliteQueue(url)
    seconds = 0.0
    coming = series_of(tasks)
    while chunk := list(islice(coming, CHUNK)):
        started = time.perf_counter()
        queue.put(chunk)
        seconds += time.perf_counter() - started
    known = list(series_of(min(tasks, CHUNK)))
    started = time.perf_counter()
    queue.put(known)
    again = time.perf_counter() - started
    queue.close()
    return {"put_per_s": round(tasks / seconds), "put_known_per_s": round(len(known) / again)}


def series_of(tasks: int) -> Iterator[NewTask]:
    """Series of twenty years in no order, most of them legacy."""
    dice = random.Random(1)
    for n in range(tasks):
        uid = f"1.2.826.0.1.3680043.8.498.{dice.getrandbits(100)}"
        date = f"{dice.randint(2005, 2025)}-{dice.randint(1, 12):02}-{dice.randint(1, 28):02}"
        yield NewTask(
            series=Series(
                series_uid=uid,
                study_uid=f"{uid}.1",
                patient=f"{dice.getrandbits(128):032x}",
                modality="CT",
                sop_classes=("1.2.840.10008.5.1.4.1.1.2",),
                instance_count=dice.randint(40, 900),
                fingerprint=f"{n:016x}",
                attributes={
                    "StudyDate": date,
                    "PatientAge": dice.randint(1, 95),
                    "PatientSex": dice.choice("FM"),
                    "Manufacturer": "SIEMENS",
                    "ManufacturerModelName": "SOMATOM Force",
                    "BodyPartExamined": "ABDOMEN",
                    "ConvolutionKernel": "Br40d",
                    "SliceThickness": 1.5,
                    "KVP": 120,
                },
            ),
            source="folder:///archive",
            lane=LANES[-1] if n % 50 else LANES[n // 50 % 3],
        )


def measure(url: str, processes: int, seconds: float) -> dict[str, int]:
    """Leases and settles per second of all processes together, and what one costs."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes) as pool:
        start = time.time() + 2.0  # all of them are up by then
        settled = pool.starmap(work, [(url, start, seconds)] * processes)
    tasks, cpu_s = map(sum, zip(*settled, strict=True))
    return {
        f"lease_settle_per_s_{processes}": round(tasks / seconds),
        f"cpu_us_per_task_{processes}": round(cpu_s / tasks * 1e6),
    }


def work(url: str, start: float, seconds: float) -> tuple[int, float]:
    """How many tasks one process has settled, and the CPU seconds it took."""
    queue = SqliteQueue(url)
    settled = 0
    result = annotated(next(series_of(1)).series, structures=30)
    time.sleep(max(0.0, start - time.time()))
    used = resource.getrusage(resource.RUSAGE_SELF)
    before = used.ru_utime + used.ru_stime
    while time.time() < start + seconds and (task := queue.lease("bench", LEASE)):
        settled += queue.settle(task, result)
    used = resource.getrusage(resource.RUSAGE_SELF)
    queue.close()
    return settled, used.ru_utime + used.ru_stime - before


def ask(url: str) -> dict[str, float]:
    """What an administrator waits for, and the memory it all took at most."""
    queue = SqliteQueue(url)
    started = time.perf_counter()
    queue.count()
    counted = time.perf_counter()
    results = queue.results(0, 2000)
    read = time.perf_counter() - counted
    queue.close()
    return {
        "count_ms": round((counted - started) * 1000, 2),
        "results_per_s": round(len(results) / read),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


if __name__ == "__main__":
    main()
