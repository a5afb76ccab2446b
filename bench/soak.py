"""What memory a worker takes after many series, and for a very long one.

Annotates 200 phantom series of different shapes one after the other in one process, with a small
network in TotalSegmentator's format, and prints one line of JSON: the memory that the process alone
has after the first 20 series, after all, and how much it grew between, by a line through all.

    .venv/bin/python bench/soak.py --series 200

With `--long 2000` it also segments a series of 2,000 slices of 512 x 512 in a process of its own,
with `--long-weights` if given, and prints the highest memory that it ever had.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from time import perf_counter

import numpy as np

ROOT = Path(__file__).parents[1]
REAL = Path(os.environ.get("TOMODEX_REAL_DATA", ROOT / "../shared/data"))
#: (slices, rows, columns) and mm between them: short, long, wide, thin, thick.
SHAPES = (
    ((20, 128, 128), (5.0, 2.5, 2.5)),
    ((160, 128, 128), (1.0, 1.5, 1.5)),
    ((40, 256, 256), (5.0, 1.6, 1.6)),
    ((12, 64, 300), (3.0, 3.0, 1.0)),
    ((90, 200, 180), (2.0, 2.0, 2.0)),
)
WARM = 20


def write_phantoms(folder: Path) -> None:
    """One series for each shape: a body of noise, with a table below it."""
    from pydicom.uid import generate_uid

    from engine import save_slice

    dice = np.random.default_rng(0)
    for number, (shape, spacing) in enumerate(SHAPES):
        into = folder / str(number)
        into.mkdir()
        uids = generate_uid(), generate_uid()
        rows, columns = np.ogrid[-1 : 1 : shape[1] * 1j, -1 : 1 : shape[2] * 1j]
        body = rows**2 + columns**2 < 0.6
        for k in range(shape[0]):
            hu = np.where(body, dice.normal(40, 60, shape[1:]), -1000)
            hu[-6:-3] = 200
            save_slice(into / f"IM{k:05d}", hu, k * spacing[0], list(spacing[1:]), uids)


def annotate_all(folder: Path, url: str, count: int) -> dict:
    """Memory after each series, MB, and seconds for all."""
    from tomodex.bounds import memory_bytes
    from tomodex.instance import read_instance
    from tomodex.pipeline import Tools, annotate_series
    from tomodex.segmenters import open_segmenter
    from tomodex.selection import load_rules
    from tomodex.sources import open_source
    from tomodex.terminology import load_terminology

    def nobody(name: str) -> str:
        return "nobody"

    source = open_source(f"folder://{folder}", pseudonymize=nobody, state=folder.parent)
    tools = Tools(
        source=source,
        read=partial(read_instance, pseudonymize=nobody),
        rules=load_rules(None),
        segmenters=(open_segmenter(url),),
        terminology=load_terminology(),
    )
    listed = [listing.series for listing in source.find()]
    begin, taken, structures = perf_counter(), [], 0
    for series in islice(cycle(listed), count):
        structures += len(annotate_series(series, tools, "soak").annotations)
        taken.append(memory_bytes() / 2**20)
    warm = taken[min(WARM, count - 2) :]
    slope = np.polyfit(np.arange(len(warm)), warm, 1)[0]
    return {
        "series": count,
        "structures": structures,
        "seconds": round(perf_counter() - begin, 1),
        "warm_mb": round(float(np.mean(warm[:10]))),
        "end_mb": round(float(np.mean(warm[-10:]))),
        "growth_kb_a_series": round(float(slope) * 1024, 1),
    }


def segment_long(folder: Path, url: str) -> dict:
    from tomodex.geometry import find_geometry
    from tomodex.instance import read_instance
    from tomodex.measurement import measure
    from tomodex.segmenters import open_segmenter
    from tomodex.volume import open_volume

    segmenter = open_segmenter(url)
    begin = perf_counter()
    instances = [read_instance(path, lambda name: "x") for path in sorted(folder.iterdir())]
    segmentation = segmenter.segment(open_volume(instances, find_geometry(instances)), ())
    found = measure(segmentation)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "slices": len(instances),
        "structures": len(found),
        "seconds": round(perf_counter() - begin, 1),
        "peak_mb": round(peak_mb),
    }


def run_long(slices: int, weights: Path, mode: str, scratch: Path) -> dict:
    from engine import write_series

    folder = scratch / "long"
    folder.mkdir()
    write_series(REAL / "nifti_ref/ts-nifti-multiorgan/example_ct.nii.gz", slices, folder)
    url = f"totalsegmentator:?mode={mode}&weights={weights}&cache={scratch / 'cache'}"
    command = [sys.executable, __file__, "--one", str(folder), url]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, default=REAL / "weights/tiny")
    parser.add_argument("--series", type=int, default=200)
    parser.add_argument("--long", type=int, default=0, help="slices of the long series")
    parser.add_argument("--long-weights", type=Path)
    parser.add_argument("--mode", default="exact", help="of the long series")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(segment_long(Path(asked.one[0]), asked.one[1])))
        return
    if not asked.weights.is_dir():
        print(json.dumps({"bench": "soak", "left_out": f"no {asked.weights}"}))
        return
    results: dict = {"bench": "soak"}
    with tempfile.TemporaryDirectory() as made:
        scratch = Path(made)
        if asked.series:
            (scratch / "archive").mkdir()
            write_phantoms(scratch / "archive")
            url = f"totalsegmentator:?weights={asked.weights}&cache={scratch / 'cache'}"
            results |= annotate_all(scratch / "archive", url, asked.series)
        if asked.long:
            weights = asked.long_weights or asked.weights
            results["long"] = run_long(asked.long, weights, asked.mode, scratch)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
