"""How fast a queue is copied: a file with so many series, all with results, into another queue.

python bench/queue_copy.py --series 10000
python bench/queue_copy.py --series 10000 --to kafka://127.0.0.1:9092/copied?copies=1
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path

from tests.contracts.queue import annotated, new

from tomodex.copying import copy_queue
from tomodex.queues import create_queue, open_queue

HOUR = timedelta(hours=1)
BATCH = 1_000


def fill(url: str, series: int, structures: int) -> None:
    """Make a queue with so many results."""
    with closing(open_queue(url)) as queue:
        for first in range(0, series, BATCH):
            queue.put([new(f"1.2.{n}") for n in range(first, min(series, first + BATCH))])
        while task := queue.lease("w", HOUR):
            queue.settle(task, annotated(task.series, structures=structures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=10_000)
    parser.add_argument("--structures", type=int, default=30)
    parser.add_argument("--to", default="", help="an empty queue; another file if not given")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        origin = f"sqlite://{folder}/old.db"
        fill(origin, asked.series, asked.structures)
        to = asked.to or f"sqlite://{folder}/new.db"
        create_queue(to)
        with (
            closing(open_queue(origin)) as source,
            closing(open_queue(to, Path(folder))) as target,
        ):
            begin = time.monotonic()
            sizes = copy_queue(source, target, origin, (), lambda part: lambda done, total: None)
            seconds = time.monotonic() - begin
            equal = source.count() == target.count() and source.audit() == target.audit()
    answer = {
        "series": asked.series,
        "structures": asked.structures,
        "to": to.partition(":")[0],
        "seconds": round(seconds, 1),
        "series_per_s": round(asked.series / seconds),
        "rows": sum(sizes.values()),
        "equal": equal,
    }
    json.dump(answer, sys.stdout)
    print()


if __name__ == "__main__":
    main()
