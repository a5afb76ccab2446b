"""All results as Parquet: how long, how large, and how much memory.

    python bench/parquet.py [--series 50000] [--structures 30]

Prints one line of JSON. The results feed is made in memory, so this is the writing alone; reading
results from the queue is in bench/task_queue.py.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.annotated import ONE

from tomodex.annotation import annotate
from tomodex.queues import Result
from tomodex.tabulating import export_parquet
from tomodex.terminology import load_terminology


class Feed:
    """So many results, one for each series."""

    def __init__(self, series: int, structures: int) -> None:
        terms = load_terminology()
        names = [one.name for one in terms.structures.values() if one.total_class is not None]
        self._annotations = annotate(
            dict.fromkeys(names[:structures], ONE.annotations[0].measurement), terms
        )
        self._series = series

    def count(self) -> Mapping[tuple[str, str], int]:
        return {("backfill", "completed"): self._series}

    def results(self, after: int, limit: int) -> Sequence[Result]:
        last = min(after + limit, self._series)
        return [self._result(number) for number in range(after + 1, last + 1)]

    def _result(self, number: int) -> Result:
        uid = f"1.2.840.113619.2.55.3.{number * 7919 % 1_000_003}.{number}"
        series = replace(
            ONE.series,
            series_uid=uid,
            study_uid=f"1.2.840.113619.2.55.{number // 2}",
            patient=f"{number // 3:032x}",
            attributes={"StudyDate": f"20{number % 25:02}-01-{number % 28 + 1:02}", "KVP": 120.0},
        )
        annotations = tuple(
            replace(a, measurement=replace(a.measurement, volume_ml=number * 0.37 + n))
            for n, a in enumerate(self._annotations)
        )
        annotated = replace(ONE, series=series, annotations=annotations)
        return Result(sequence=number, series_uid=uid, annotated=annotated)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=50_000)
    parser.add_argument("--structures", type=int, default=30)
    asked = parser.parse_args()
    before_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    feed = Feed(asked.series, asked.structures)
    with tempfile.TemporaryDirectory() as folder:
        begin = time.monotonic()
        written = export_parquet(feed, Path(folder), load_terminology(), lambda done, total: None)
        seconds = time.monotonic() - begin
    sizes = {table.name: table for table in written.tables}
    print(
        json.dumps(
            {
                "series": asked.series,
                "annotations": sizes["annotations"].rows,
                "seconds": round(seconds, 1),
                "series_per_s": round(asked.series / seconds),
                "series_mb": round(sizes["series"].bytes / 1e6, 1),
                "annotations_mb": round(sizes["annotations"].bytes / 1e6, 1),
                "peak_mib_before": round(before_mib),
                "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            }
        )
    )


if __name__ == "__main__":
    main()
