"""How long the embedded index takes to answer, on a made-up archive.

    python bench/search.py [--series 200000] [--repeat 20] [--keep FILE]

Prints one line of JSON: seconds to load, size, and for each kind of search its matches and the
50th and 95th percentile of milliseconds for exact counts and the first 50 series. `load` is that
of the machine while it ran: above `cores`, other programs took part of the time. 1,700,000 series
with 50 million annotations need 1.1 GB of disk and take some minutes to load.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np

from tomodex.indexes.duckdb import DuckDBIndex
from tomodex.indexes.duckdb.schema import (
    COMPLETE,
    INSERT_ANNOTATIONS,
    INSERT_SERIES,
    SEEN,
    SHOWN,
    insert_columns,
    number_labels,
    number_words,
)
from tomodex.indexes.duckdb.store import FileStore
from tomodex.search import SEARCHABLE, key_of, parse
from tomodex.terminology import load_terminology

CHUNK = 50_000

#: Millimetres for one point of the Body Part Regression score.
MM_PER_POINT = 9.0

#: Lower and upper end of usual scans, in points of that score, and how often they are made.
REGIONS = (
    ((55, 80), 0.26),  # chest
    ((5, 45), 0.16),  # abdomen and pelvis
    ((5, 80), 0.04),  # chest, abdomen and pelvis
    ((36, 56), 0.12),  # upper abdomen
    ((88, 108), 0.24),  # head
    ((78, 95), 0.08),  # neck
    ((0, 20), 0.10),  # pelvis
)

SEARCHES = {
    "structure": "sacrum",
    "complete": "sacrum complete",
    "structures": "liver and spleen and not prostate",
    "group": "lumbar vertebra complete and not rib",
    "attributes": "covers L1..L5 and PatientSex = F and PatientAge 40..60 and SliceThickness < 2",
    "text": "liver complete and Manufacturer = SIEMENS and ConvolutionKernel = B*",
    "volume": "liver volume > 1500 ml",
    "density": "liver complete mean 50..60 HU and spleen volume < 300 ml",
    "between": "left autochthon between heart and L1",
    "between groups": "kidney between thoracic vertebra and sacrum",
    "above": "pancreas above L2",
    "everything": "",
}

FACETS = {
    "facet structure": ("structure",),
    "facet all": ("structure", "complete", "Manufacturer", "PatientSex", "StudyYear", "AgeDecade"),
}


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--series", type=int, default=200_000)
    asked.add_argument("--repeat", type=int, default=20)
    asked.add_argument("--keep", type=Path, help="use this file, and make it if it is not there")
    asked.add_argument("--memory", default="1GB")
    given = asked.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = given.keep or Path(folder) / "index.duckdb"
        known = path.exists()
        index = DuckDBIndex(f"duckdb://{path.absolute()}?memory={given.memory}")
        load_s = 0.0 if known else _seconds(lambda: fill(path, given.series))
        print(json.dumps({"load_s": round(load_s, 1), **measure(index, path, given.repeat)}))


def measure(index: DuckDBIndex, path: Path, repeat: int) -> dict[str, object]:
    terminology = load_terminology()
    answers = {}
    for name, text in SEARCHES.items():
        query = parse(text, terminology)
        timing = _percentiles(lambda query=query: index.search(query), repeat)
        answers[name] = {"series": index.search(query).series, **timing}
    query = parse("liver", terminology)
    for name, fields in FACETS.items():
        answers[name] = _percentiles(lambda fields=fields: index.facets(query, fields), repeat)
    with FileStore(path, {}, 1).reading() as db:
        rows = db.execute("select count(*) from series union all select count(*) from annotation")
        series, annotations = (count for (count,) in rows.fetchall())
    return {
        "series": series,
        "annotations": annotations,
        "megabytes": round(path.stat().st_size / 1e6),
        "load": round(os.getloadavg()[0], 1),
        "cores": os.cpu_count(),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
        "searches_ms": answers,
    }


def fill(path: Path, series: int) -> None:
    """Load an archive straight into the tables, as `write` does with series it is given."""
    store = FileStore(path, {"memory_limit": "2GB", "threads": "2"}, 10)
    structures = [s for s in load_terminology().structures.values() if s.total_class is not None]
    names = [s.name for s in structures]
    spans = np.array([_span(name) for name in names], np.float32)
    random = np.random.default_rng(1)
    volumes = random.lognormal(4, 1.5, len(names)).astype(np.float32)
    volumes[names.index("liver")] = 1500
    for first in range(0, series, CHUNK):
        count = min(CHUNK, series - first)
        with store.writing() as db:
            numbers = number_labels(db, names)
            bits = np.array([numbers[name] for name in names], np.uint16)
            annotations, masks = _annotations(random, first, count, spans, volumes, bits)
            new = number_words(db, _series(random, first, count, masks))
            insert_columns(db, INSERT_SERIES, "new_series", new)
            insert_columns(db, INSERT_ANNOTATIONS, "new_annotation", annotations)
    store.tidy()


def _span(name: str) -> tuple[float, float]:
    level = load_terminology().order[name]
    return level.bottom_score * MM_PER_POINT, level.top_score * MM_PER_POINT


def _annotations(random, first, count, spans, volumes, bits):  # type: ignore[no-untyped-def]
    """The rows of `annotation` for some series, and the masks of `series`."""
    regions = np.array([region for region, _ in REGIONS], np.float32) * MM_PER_POINT
    chosen = regions[random.choice(len(REGIONS), count, p=[p for _, p in REGIONS])]
    ends = chosen + random.normal(0, 20, (count, 2)).astype(np.float32)
    scale = random.normal(1, 0.05, (count, 1)).astype(np.float32)
    jitter = random.normal(0, 8, (count, len(bits), 2)).astype(np.float32)
    bottom, top = (spans[:, end] * scale + jitter[..., end] for end in (0, 1))
    top = np.maximum(top, bottom + 2)
    low, high = np.maximum(bottom, ends[:, :1]), np.minimum(top, ends[:, 1:])
    shown = (high > low + 1) & (random.random(bottom.shape) > 0.03)
    whole = shown & (bottom >= ends[:, :1]) & (top <= ends[:, 1:])
    series, structure = np.nonzero(shown)
    size = volumes * random.lognormal(0, 0.25, bottom.shape) * (high - low) / (top - bottom)
    columns = {
        "structure": bits[structure],
        "series": (series + first).astype(np.uint32),
        "volume_ml": size[shown].astype(np.float32),
        "mean_hu": random.normal(50, 25, len(series)).astype(np.float32),
        "bottom_mm": low[shown],
        "top_mm": high[shown],
        "complete": whole[shown],
    }
    counts = shown.sum(axis=1)
    return (
        columns,
        {
            "structure_count": counts.astype(np.uint16),
            "seen": _blobs(columns, counts),
            **_masks(SHOWN, shown, bits),
            **_masks(COMPLETE, whole, bits),
        },
    )


def _blobs(columns, counts):  # type: ignore[no-untyped-def]
    """The column `seen` of `series`, from rows in the order of series."""
    rows = np.empty(len(columns["series"]), SEEN)
    for name in SEEN.names or ():
        rows[name] = columns[name]
    octets, ends = rows.tobytes(), np.cumsum(counts) * SEEN.itemsize
    starts = [0, *ends.tolist()]
    blobs = np.empty(len(counts), object)
    blobs[:] = [octets[start:end] for start, end in pairwise(starts)]
    return blobs


def _masks(columns, shown, bits):  # type: ignore[no-untyped-def]
    words = np.zeros((len(columns), len(shown)), np.uint64)
    for place, bit in enumerate(bits):
        words[bit // 64] |= shown[:, place].astype(np.uint64) << np.uint64(bit % 64)
    return dict(zip(columns, words, strict=True))


def _series(random, first, count, masks):  # type: ignore[no-untyped-def]
    """The rows of `series`: four of a study, eleven of a patient, on average."""
    uids = [f"1.2.826.0.1.3680043.8.498.{first + n:030d}" for n in range(count)]
    studies = (first + np.arange(count)) // 4
    days = np.datetime64("2010-01-01") + random.integers(0, 5800, count)
    known = {
        "Modality": np.full(count, "CT", object),
        "StudyDate": np.datetime_as_string(days).astype(object),
        "PatientAge": np.clip(random.normal(58, 18, count), 0, 99).round(),
        "PatientSex": random.choice(np.array(["F", "M"], object), count),
        "Manufacturer": random.choice(np.array(["SIEMENS", "Philips", "GE"], object), count),
        "ConvolutionKernel": random.choice(np.array(["B30f", "B70f", "STANDARD"], object), count),
        "SliceThickness": random.choice([0.75, 1.0, 1.5, 2.0, 3.0, 5.0], count),
        "size_bytes": random.integers(50, 1200, count) * 2.0 * 512 * 512,
        "plane": np.full(count, "axial", object),
        "segmented": np.full(count, "yes", object),
    }
    absent = {"text": np.full(count, "", object), "date": np.full(count, "", object)}
    return {
        "number": np.arange(first, first + count, dtype=np.uint32),
        "generation": np.zeros(count, np.uint32),
        "series_uid": np.array(uids, object),
        "study_uid": np.array([f"1.2.826.0.1.3680043.9.{s:030d}" for s in studies], object),
        "series_key": np.array([key_of(uid) for uid in uids], np.uint64),
        "study_key": studies.astype(np.uint64),
        "patient_key": _mixed((studies * 4 // 11).astype(np.uint64)),
        "study": (studies + 1).astype(np.uint32),
        "patient": (studies * 4 // 11 + 1).astype(np.uint32),
        "pseudonym": np.array([f"{p:032x}" for p in studies * 4 // 11], object),
        **masks,
        **{
            k: known.get(k, absent.get(kind, np.full(count, np.nan)))
            for k, kind in SEARCHABLE.items()
        },
    }


def _mixed(values):  # type: ignore[no-untyped-def]
    return (values + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)


def _percentiles(call: Callable[[], object], repeat: int) -> dict[str, float]:
    """Milliseconds by the clock, and of processor time, which other programs disturb less."""
    call()
    taken, processor = [], []
    for _ in range(repeat):
        started = time.process_time()
        taken.append(_seconds(call) * 1000)
        processor.append((time.process_time() - started) * 1000)
    p50, p95 = np.percentile(taken, [50, 95])
    return {
        "p50": round(p50, 1),
        "p95": round(p95, 1),
        "cpu_p50": round(float(np.median(processor)), 1),
    }


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
