"""How many series a second a PACS is listed with that answers at most 500 to one question.

Prints one line of JSON. The PACS is an SCP of ours in a process of its own, with studies in memory
as a hospital makes them: up to 300 a day, most of them on working days and at noon. Both sides
are pynetdicom and share the cores, so that half of the time is the PACS's.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.pacs import Pacs, hospital

from tomodex.sources import open_source


def main() -> None:
    """List everything once, print what it took and whether each series was found once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=3_000)
    parser.add_argument("--busiest", type=int, default=300, help="studies of a day at most")
    parser.add_argument("--limit", type=int, default=500, help="answers to one question at most")
    parser.add_argument("--options", default="", help="of the URL, such as relational=yes")
    options = parser.parse_args()
    ours, theirs = get_context("spawn").Pipe()
    arguments = (theirs, options.series, options.busiest, options.limit)
    pacs = get_context("spawn").Process(target=be_pacs, args=arguments)
    pacs.start()
    url, expected, studies = ours.recv()
    with tempfile.TemporaryDirectory(prefix="tomodex-bench-") as state:
        source = open_source(f"{url}?{options.options}", pseudonymize=str, state=Path(state))
        begin_s, cpu_s = time.perf_counter(), time.process_time()
        found = [listing.series.series_uid for listing in source.find()]
        seconds, cpu_s = time.perf_counter() - begin_s, time.process_time() - cpu_s
    ours.send("stop")
    requests: Mapping[str, int] = ours.recv()
    pacs.join()
    print(
        json.dumps(
            {
                "bench": "dimse_find",
                "series": len(expected),
                "studies": studies,
                "limit": options.limit,
                "options": options.options,
                "each_found_once": sorted(found) == sorted(expected),
                "queries": sum(requests.values()),
                **{
                    name.lower().replace("-", "_").replace(" ", "_"): n
                    for name, n in requests.items()
                },
                "series_per_s": round(len(found) / seconds, 1),
                "our_cpu_ms_per_series": round(1000 * cpu_s / len(found), 2),
                "seconds": round(seconds, 1),
                "cores": len(os.sched_getaffinity(0)),
                "load_1min": round(os.getloadavg()[0], 1),
            }
        )
    )


def be_pacs(pipe: Connection, series: int, busiest: int, limit: int) -> None:
    """Answer until told to stop, then say what was asked."""
    pacs = Pacs(hospital(series, busiest=busiest), limit=limit)
    expected = [one.uid for study in pacs.studies for one in study.series]
    with pacs.running():
        pipe.send((pacs.url, expected, len(pacs.studies)))
        pipe.recv()
        pipe.send(dict(pacs.requests))


if __name__ == "__main__":
    main()
