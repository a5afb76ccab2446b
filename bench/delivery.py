"""How fast results go from the feed to an index, a Kafka topic and a file.

    python bench/delivery.py [--results 5000]

Prints one line of JSON: results/s of each on the clock and by the CPU time of this process, its
largest batch in memory, and bytes of a result. Starts the OpenSearch and the Kafka of the tests
(`make test-servers` installs them). Series are made up, 31 structures on average.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.elasticsearch import many
from tests.servers.kafka import running_kafka
from tests.servers.opensearch import running_opensearch
from tests.servers.ports import free_port
from tests.servers.test_faults import make_topic

from tomodex.annotation import to_json
from tomodex.delivery import deliver
from tomodex.indexes import open_index
from tomodex.queues.sqlite import SqliteQueue, pack
from tomodex.sinks import Sink, open_sink


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast a consumer took all results."""

    per_s: int
    per_cpu_s: int  #: of ours; the servers' own is not in it


def fill(queue: SqliteQueue, count: int) -> int:
    """Put so many results into the feed; return how many bytes of JSON they are on average."""
    size = 0
    with queue._writing() as db:
        for one in many(count):
            size += len(to_json(one))
            queue._publish(db, one.series.series_uid, "default", pack(to_json(one)))
    return size // count


def pace(queue: SqliteQueue, consumer: str, sink: Sink, count: int) -> Pace:
    begin, cpu = time.perf_counter(), time.process_time()
    assert deliver(queue, consumer, sink) == count
    seconds, cpu_s = time.perf_counter() - begin, time.process_time() - cpu
    return Pace(per_s=round(count / seconds), per_cpu_s=round(count / cpu_s))


class Nowhere:
    """A sink that takes everything at once: what reading the feed costs."""

    def write(self, annotated: object) -> None:
        pass

    erase = write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=int, default=5000)
    count = parser.parse_args().results
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        search = stack.enter_context(running_opensearch(folder / "opensearch"))
        broker = stack.enter_context(running_kafka(folder / "kafka", free_port()))
        make_topic(broker, "series")
        queue = stack.enter_context(closing(SqliteQueue(f"sqlite://{folder}/tomodex.db")))
        size = fill(queue, count)
        sinks = {
            "nowhere": Nowhere,
            "opensearch": partial(open_index, f"{search}/tomodex"),
            "kafka": partial(open_sink, f"kafka://{broker}/series"),
            "ndjson": partial(open_sink, f"ndjson://{folder}/out.ndjson"),
        }
        found = {name: pace(queue, name, opened(), count) for name, opened in sinks.items()}
    print(
        json.dumps(
            {
                "results": count,
                "bytes": size,
                **{f"{name}_per_s": one.per_s for name, one in found.items()},
                **{f"{name}_per_cpu_s": one.per_cpu_s for name, one in found.items()},
                "largest_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                "load": round(os.getloadavg()[0], 1),
            }
        )
    )


if __name__ == "__main__":
    main()
