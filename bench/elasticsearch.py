"""An index on Elasticsearch or OpenSearch: how fast it takes series, how large it is, how fast it
answers.

    python bench/elasticsearch.py opensearch+http://127.0.0.1:9200 [--series 20000] [--repeat 20]

Without a URL it starts the OpenSearch of the tests (`make test-servers` installs it). Prints one
line of JSON. Series are those of the index contract, a scan region each, with up to 27 structures.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.contracts.index import archive
from tests.servers.opensearch import running_opensearch

from tomodex.annotation import AnnotatedSeries
from tomodex.indexes.elasticsearch import ElasticsearchIndex
from tomodex.search import parse
from tomodex.terminology import load_terminology

BATCH = 500

SEARCHES = (
    "sacrum",
    "sacrum complete",
    "liver and spleen and not prostate",
    "PatientSex = F and PatientAge 40..60 and SliceThickness <= 1.5",
    "liver volume > 1500 ml",
    "heart above liver",
    "left autochthon between heart and L1",
    "kidney between thoracic vertebra and lumbar vertebra",
)
FACETS = ("structure", "complete", "PatientSex", "AgeDecade", "Manufacturer", "StudyYear")


def many(count: int) -> list[AnnotatedSeries]:
    """The contract's series under new UIDs, three to a patient."""
    base = archive()
    return [
        replace(
            one := base[n % len(base)],
            series=replace(
                one.series, series_uid=f"1.2.{n}.1", study_uid=f"1.2.{n}", patient=f"{n // 3:032x}"
            ),
        )
        for n in range(count)
    ]


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


def measured(url: str, count: int, repeat: int) -> dict[str, Any]:
    index = ElasticsearchIndex(f"{url}/bench?timeout_s=300")
    index.clear()
    series, terms = iter(many(count)), load_terminology()
    begin = time.monotonic()
    while batch := list(islice(series, BATCH)):
        index.write(batch)
    seconds = time.monotonic() - begin
    with index._server.asked() as client:
        client.indices.forcemerge(index="bench", max_num_segments=1)
        client.indices.refresh(index="bench")
        size = client.indices.stats(index="bench")["_all"]["primaries"]["store"]["size_in_bytes"]
        heap = client.nodes.stats(metric="jvm")["nodes"]
    asked = {text: parse(text, terms) for text in SEARCHES}
    answers = {
        text: milliseconds(repeat, lambda query=query: index.search(query, limit=50))
        for text, query in asked.items()
    }
    answers["six facets"] = milliseconds(repeat, lambda: index.facets(asked["sacrum"], FACETS))
    found = index.search(asked["sacrum"]).series
    index.close()
    return {
        "series": count,
        "series_per_s": round(count / seconds),
        "bytes_per_series": round(size / count),
        "gb_for_1_7_million": round(size / count * 1.7e6 / 1e9, 2),
        "heap_mb": round(sum(n["jvm"]["mem"]["heap_used_in_bytes"] for n in heap.values()) / 1e6),
        "sacrum": found,
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
            url = stack.enter_context(running_opensearch(Path(folder) / "node"))
        print(json.dumps(measured(url, given.series, given.repeat)))


if __name__ == "__main__":
    main()
