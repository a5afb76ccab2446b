"""FHIR: transactions made and checked on one core, and all results as NDJSON.

    python bench/fhir.py [--series 100000] [--structures 40]

Prints one line of JSON: bundles of --structures structures made and written as JSON a second, the
same with the check that a sink makes before it sends them, and the time, the peak memory and the
bytes of a bulk export.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import orjson

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.annotated import ONE

from tomodex.annotation import AnnotatedSeries, annotate
from tomodex.formats.fhir import Naming, indexed_series, transaction
from tomodex.formats.fhir.bulk import write_bulk
from tomodex.formats.fhir.checking import check_transaction
from tomodex.terminology import load_terminology


def series(count: int, structures: int) -> Iterator[AnnotatedSeries]:
    """So many series of 40 structures each, two to a study, three to a patient."""
    terms = load_terminology()
    names = [one.name for one in terms.structures.values() if one.total_class is not None]
    shown = dict.fromkeys(names[:structures], ONE.annotations[0].measurement)
    annotations = annotate(shown, terms)
    for n in range(count):
        one = replace(
            ONE.series,
            series_uid=f"1.2.3.{n}",
            study_uid=f"1.2.{n // 2}",
            patient=f"{n // 3:032x}",
        )
        yield replace(ONE, series=one, annotations=annotations)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=100_000)
    parser.add_argument("--structures", type=int, default=40)
    asked = parser.parse_args()
    some, begin = list(series(2000, asked.structures)), time.process_time()
    size = sum(len(orjson.dumps(transaction(one, [indexed_series(one)], Naming()))) for one in some)
    bundles_per_s = len(some) / (time.process_time() - begin)
    begin = time.process_time()
    for one in some:
        bundle = transaction(one, [indexed_series(one)], Naming())
        check_transaction(bundle, Naming())
        orjson.dumps(bundle)
    checked_per_s = len(some) / (time.process_time() - begin)
    before_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with tempfile.TemporaryDirectory() as folder:
        begin = time.monotonic()
        write_bulk(
            series(asked.series, asked.structures),
            Path(folder),
            Naming(),
            shards=-(-asked.series // 20_000),
            transaction_time="2026-11-23T00:00:00Z",
        )
        seconds = time.monotonic() - begin
        written = sum(file.stat().st_size for file in Path(folder).glob("*.gz"))
    print(
        json.dumps(
            {
                "bundles_per_s_and_core": round(bundles_per_s),
                "checked_bundles_per_s_and_core": round(checked_per_s),
                "bundle_bytes": round(size / len(some)),
                "bulk_series": asked.series,
                "bulk_s": round(seconds, 1),
                "bulk_gzip_mb": round(written / 1e6, 1),
                "peak_mib_before": round(before_mib),
                "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            }
        )
    )


if __name__ == "__main__":
    main()
