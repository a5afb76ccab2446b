"""An index on Elasticsearch or OpenSearch: how fast it takes series, how large it is, how fast it
answers.

    python bench/elasticsearch.py opensearch+http://127.0.0.1:9200 [--series 20000] [--repeat 20]

Without a URL it starts the OpenSearch of the tests (`make test-servers` installs it). Prints one
line of JSON. Series are made up: a scan region each, 31 of 117 structures on average.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from opensearchpy import OpenSearch

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.contracts import index as contract
from tests.servers.opensearch import NEWER, running_opensearch

from tomodex.annotation import AnnotatedSeries
from tomodex.indexes.elasticsearch import ElasticsearchIndex
from tomodex.search import Query, parse
from tomodex.terminology import load_terminology

BATCH = 500

SEARCHES = (
    "sacrum",
    "sacrum complete",
    "liver and spleen and not prostate",
    "PatientSex = F and PatientAge 40..60 and SliceThickness <= 1.5",
    "liver volume > 1500 ml",
    "heart above sacrum",
    "left autochthon between heart and L1",
    "kidney between any T9..T12 and any L1..L4",
    "kidney between thoracic vertebra and lumbar vertebra",
    "vertebra between rib and rib",
    "left autochthon between vertebra and rib",
)
FACETS = ("structure", "complete", "PatientSex", "AgeDecade", "Manufacturer", "StudyYear")


def bodies() -> dict[str, tuple[float, float]]:
    """Where each of TotalSegmentator's 117 structures begins and ends, by the order tables, mm."""
    terms = load_terminology()
    return {
        name: (8 * level.bottom_score - 10, 8 * level.top_score + 10)
        for name, level in terms.order.items()
        if name in terms.structures and terms.structures[name].total_class is not None
    }


def many(count: int) -> Iterator[AnnotatedSeries]:
    """Series of a scan region each, with 31 structures on average, three to a patient."""
    dice = random.Random(5)
    with patch.object(contract, "BODY", bodies()):
        base = [contract._series(number, dice) for number in range(3000)]
    # Not everything is found that is there: 47 become 31.
    base = [
        replace(one, annotations=tuple(a for a in one.annotations if dice.random() < 0.66))
        for one in base
    ]
    for n in range(count):
        one = base[n % len(base)]
        uids = {"series_uid": f"1.2.{n}.1", "study_uid": f"1.2.{n}", "patient": f"{n // 3:032x}"}
        yield replace(one, series=replace(one.series, **uids))


def milliseconds(repeat: int, ask: Callable[[], object]) -> dict[str, float]:
    """Time of a question, after it was asked once."""
    ask()
    taken = []
    for _ in range(repeat):
        begin = time.perf_counter()
        ask()
        taken.append(time.perf_counter() - begin)
    p50, p95 = np.percentile(np.array(taken) * 1000, [50, 95])
    return {"p50": round(float(p50), 1), "p95": round(float(p95), 1)}


def size_of(client: OpenSearch, name: str) -> int:
    """Bytes of an index on disk, once merged.

    The second merge drops what the first has to keep for replicas that may be behind.
    """
    for _ in range(2):
        client.indices.flush(index=name, force=True)
        client.indices.forcemerge(index=name, max_num_segments=1)
        time.sleep(2)
        client.indices.refresh(index=name)
        client.delete(index=name, id="1.2.0.1", ignore=404)
    stats = client.indices.stats(index=name)["_all"]["primaries"]
    return int(stats["store"]["size_in_bytes"])


def filled(index: ElasticsearchIndex, count: int) -> float:
    """Seconds in which a new index takes so many series, as a rebuild does."""
    series, place = many(count), 0
    index.renew()
    begin = time.monotonic()
    while batch := list(islice(series, BATCH)):
        index.write_entries({place + n: one for n, one in enumerate(batch, 1)})
        place += len(batch)
    index.complete()
    return time.monotonic() - begin


def measured(url: str, count: int, repeat: int) -> dict[str, Any]:
    index = ElasticsearchIndex(f"{url}/bench?timeout_s=600")
    index.clear()
    seconds = filled(index, count)
    with index._server.asked() as client:
        version = client.info()["version"]["number"]
        size = size_of(client, "bench")
    terms = load_terminology()
    asked = {text: parse(text, terms) for text in SEARCHES}
    answers = {
        text: milliseconds(repeat, lambda query=query: index.search(query, limit=50))
        for text, query in asked.items()
    }
    answers["six facets"] = milliseconds(repeat, lambda: index.facets(asked["sacrum"], FACETS))
    begin = time.monotonic()
    rows = sum(map(len, index.rows(Query(text="", term=None), ["StudyDate", "PatientAge"])))
    rows_per_s = rows / (time.monotonic() - begin)
    with index._server.asked() as client:
        heap = client.nodes.stats(metric="jvm")["nodes"]
    found = {text: index.search(query).series for text, query in asked.items()}
    index.close()
    return {
        "server": version,
        "series": count,
        "series_per_s": round(count / seconds),
        "bytes_per_series": round(size / count),
        "gb_for_1_7_million": round(size / count * 1.7e6 / 1e9, 1),
        "gb_for_30_million": round(size / count * 30e6 / 1e9, 1),
        "rows_per_s": round(rows_per_s),
        "heap_mb": round(sum(n["jvm"]["mem"]["heap_used_in_bytes"] for n in heap.values()) / 1e6),
        "found": found,
        "ms": answers,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", nargs="?", default="")
    parser.add_argument("--series", type=int, default=20_000)
    parser.add_argument("--repeat", type=int, default=20)
    given = parser.parse_args()
    with ExitStack() as stack:
        url = given.url
        if not url:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            url = stack.enter_context(running_opensearch(Path(folder) / "node", NEWER))
        print(json.dumps(measured(url, given.series, given.repeat)))


if __name__ == "__main__":
    main()
