"""How fast a back-fill lists an archive into the queue, and what of it is searchable at once.

    .venv/bin/python bench/backfill.py                        # 50,000 series of 250 days
    .venv/bin/python bench/backfill.py --series 1000000       # some 15 minutes

The archive answers at once, so this is the most that our side takes: the real one adds its own time
for each of its answers. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1]))

from tomodex import sources
from tomodex.backfill import list_plan, plan_backfill, plans_of, start, status_of
from tomodex.delivery import deliver
from tomodex.search import parse
from tomodex.series import Listing, Series
from tomodex.settings import Settings
from tomodex.terminology import load_terminology
from tomodex.wiring import index_of, queue_of

FIRST = date(2015, 1, 1)
URL = "bench://archive"


class Archive:
    """Answers for a day with the series of that day, made up as they are asked for."""

    per_day = 0

    def __init__(self, url: str, **context: object) -> None:
        self.url = url

    def find(self, progress: object = None, window: object = None) -> Iterator[Listing]:
        day = window.first
        dice = random.Random(day.toordinal())
        for _ in range(self.per_day):
            uid = f"1.2.826.0.1.3680043.8.498.{dice.getrandbits(100)}"
            yield Listing(
                series=Series(
                    series_uid=uid,
                    study_uid=f"{uid[:-3]}.1",
                    patient=f"{dice.getrandbits(128):032x}",
                    modality="CT",
                    instance_count=dice.randint(40, 900),
                    fingerprint=f"{dice.getrandbits(64):016x}",
                    attributes={
                        "StudyDate": day.isoformat(),
                        "Modality": "CT",
                        "PatientSex": dice.choice("FM"),
                        "PatientAge": dice.randint(1, 95),
                        "BodyPartExamined": "ABDOMEN",
                    },
                )
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--series", type=int, default=50_000)
    parser.add_argument("--per-day", type=int, default=200)
    parser.add_argument("--dir", type=Path, help="on the disk to be measured")
    given = parser.parse_args()
    Archive.per_day = given.per_day
    sources.ADAPTERS["bench"] = "__main__:Archive"
    with TemporaryDirectory(prefix="tomodex-bench-", dir=given.dir) as folder:
        settings = Settings(data=Path(folder) / "data", sources={"pacs": URL})
        print(json.dumps(measure(settings, -(-given.series // given.per_day))))


def measure(settings: Settings, days: int) -> dict[str, float]:
    plan_backfill(settings, "pacs", FIRST, FIRST + timedelta(days=days - 1))
    (plan,) = start(settings, None)
    cpu = time.process_time()
    first = seconds_of(lambda: list_plan(settings, plan, lambda: False, lambda done, total: None))
    cpu = time.process_time() - cpu
    queue, index = queue_of(settings), index_of(settings)
    delivery = seconds_of(lambda: deliver(queue, "index", index))
    query = parse("segmented = waiting and PatientSex = F", load_terminology())
    search = seconds_of(lambda: index.search(query))
    (plan,) = plans_of(settings, None)
    status = seconds_of(lambda: status_of(settings, plan))
    series = sum(queue.count().values())
    return {
        "days": days,
        "series": series,
        "listed_per_s": round(series / first),
        "listing_cpu_us_per_series": round(cpu / series * 1e6),
        "day_ms": round(first / days * 1000, 1),
        "delivered_per_s": round(series / delivery),
        "search_ms": round(search * 1000, 1),
        "status_ms": round(status * 1000, 1),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def seconds_of(do: Callable[[], object]) -> float:
    begin = time.perf_counter()
    do()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
