"""FHIR: transactions made and checked on one core, and all results as NDJSON.

    python bench/fhir.py [--series 100000] [--structures 40]

Prints one line of JSON: bundles of --structures structures made and written as JSON in a second of
CPU time, the same with the check that a sink makes before it sends them, and the time, the peak
memory and the bytes of a bulk export (that the series are drawn is part of its time).
"""

from __future__ import annotations

import argparse
import json
import math
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import orjson

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.annotated import ONE

from tomodex.annotation import AnnotatedSeries, annotate, from_json, to_json
from tomodex.formats.fhir import Naming, indexed_series, transaction
from tomodex.formats.fhir.bulk import write_bulk
from tomodex.formats.fhir.checking import check_transaction
from tomodex.measurement import Measurement
from tomodex.terminology import load_terminology


def series(count: int, structures: int) -> Iterator[AnnotatedSeries]:
    """So many series, two to a study, three to a patient, whose numbers all differ."""
    terms = load_terminology()
    names = [one.name for one in terms.structures.values() if one.total_class is not None]
    drawn = random.Random(6)
    for n in range(count):
        one = replace(
            ONE.series,
            series_uid=f"1.2.3.{n}",
            study_uid=f"1.2.{n // 2}",
            patient=f"{n // 3:032x}",
        )
        shown = {name: measured(drawn) for name in names[:structures]}
        yield replace(ONE, series=one, annotations=annotate(shown, terms))


def measured(drawn: random.Random) -> Measurement:
    """Numbers that no other structure has, so that none is known from before."""
    return replace(
        ONE.annotations[0].measurement,
        volume_ml=drawn.uniform(0.5, 2000),
        mean_hu=drawn.uniform(-900, 900),
        cut=drawn.choice([(), (), ("inferior",), ("inferior", "superior")]),
    )


def per_second(made: Callable[[AnnotatedSeries], int], some: Sequence[AnnotatedSeries]) -> int:
    """How many a second of CPU time; the best of five, as other processes cost caches."""
    best = math.inf
    for _ in range(5):
        begin = time.process_time()
        for one in some:
            made(one)
        best = min(best, time.process_time() - begin)
    return round(len(some) / best)


def written(one: AnnotatedSeries) -> int:
    """The bytes of a transaction, made and not checked."""
    return len(orjson.dumps(transaction(one, [indexed_series(one)], Naming())))


def checked(one: AnnotatedSeries) -> int:
    """The same, checked before."""
    bundle = transaction(one, [indexed_series(one)], Naming())
    check_transaction(bundle, Naming())
    return len(orjson.dumps(bundle))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=100_000)
    parser.add_argument("--structures", type=int, default=40)
    asked = parser.parse_args()
    # As they come out of the queue: what is equal there is not the same object.
    some = [from_json(to_json(one)) for one in series(1000, asked.structures)]
    per_s, checked_per_s = per_second(written, some), per_second(checked, some)
    bundle_bytes = written(some.pop())
    some.clear()
    before_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with tempfile.TemporaryDirectory() as folder:
        begin, begin_cpu = time.monotonic(), time.process_time()
        write_bulk(
            series(asked.series, asked.structures),
            Path(folder),
            Naming(),
            shards=-(-asked.series // 20_000),
            transaction_time="2026-11-23T00:00:00Z",
        )
        seconds, cpu_s = time.monotonic() - begin, time.process_time() - begin_cpu
        size = sum(file.stat().st_size for file in Path(folder).glob("*.gz"))
    print(
        json.dumps(
            {
                "bundles_per_s_and_core": per_s,
                "checked_bundles_per_s_and_core": checked_per_s,
                "bundle_bytes": bundle_bytes,
                "bulk_series": asked.series,
                "bulk_s": round(seconds, 1),
                "bulk_cpu_s": round(cpu_s, 1),
                "bulk_gzip_mb": round(size / 1e6, 1),
                "peak_mib_before": round(before_mib),
                "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            }
        )
    )


if __name__ == "__main__":
    main()
