"""How many CT series an hour a GPU labels, and how far it is from what it could.

Measures what the GPU computes and moves at most (a product of matrices, a copy), how long tiles of
TotalSegmentator's 3 mm model take by batch size, beside the least that they could by FLOP and bytes
counted from the architecture, and how many series of 336 slices of 512 x 512 are indexed an hour,
from uncompressed DICOM on disk to measurements, by so many workers at once. Prints one line of
JSON. Needs torch and weights in TotalSegmentator's format; where there is no GPU it says so, or
with `--cpu` runs all of it on CPU tensors.

    .venv-engine/bin/python bench/gpu.py --batch 1 2 4 8 --workers 1 2 4 8
    .venv-engine/bin/python bench/gpu.py --cpu
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

import numpy as np

from engine import REAL, write_series
from tomodex.nnunet.architecture import Three
from tomodex.nnunet.cost import count_costs, least_seconds
from tomodex.nnunet.engine import load_engine
from tomodex.segmenters.totalsegmentator import TotalSegmentator, options
from tomodex.segmenters.totalsegmentator.models import find_model, find_results

WIDTHS = {"f32": 4, "f16": 2, "bf16": 2}


# --- the machine --------------------------------------------------------------------------------


def seconds_of(work, times: int) -> float:
    """Of one run, on average, after one that does not count."""
    import torch

    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    work()
    wait()
    begin = perf_counter()
    for _ in range(times):
        work()
    wait()
    return (perf_counter() - begin) / times


def measure_limits(device: str, precision: str) -> tuple[float, float]:
    """FLOP and bytes a second, as large products of matrices and large copies reach them."""
    import torch

    kind = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[precision]
    size, times = (8192, 20) if device == "cuda" else (2048, 3)
    one = torch.ones((size, size), dtype=kind, device=device)
    product_s = seconds_of(lambda: one @ one, times)
    source = torch.ones(size * size, device=device)
    target = torch.empty_like(source)
    copy_s = seconds_of(lambda: target.copy_(source), times)
    return 2 * size**3 / product_s, 2 * source.nbytes / copy_s


# --- tiles --------------------------------------------------------------------------------------


def time_tiles(asked: argparse.Namespace, folder: Path, device: str, cache: Path) -> dict:
    """Milliseconds of one tile in batches of so many, and the share of the limit."""
    import torch

    place = "cuda" if device == "cuda" else "torch-cpu"
    engine = load_engine(folder, device=place, precision=asked.precision, cache=cache)
    flop_s, bytes_s = measure_limits(device, asked.precision)
    costs = count_costs(engine.model.architecture, engine.model.patch)
    least = least_seconds(costs, flop_s, bytes_s, WIDTHS[asked.precision])
    found = {
        "device": engine.runtime.description["device"],
        "torch": torch.__version__,
        "precision": asked.precision,
        "kernels": asked.kernels,
        "tile_gflop": round(sum(c.flop for c in costs) / 1e9, 1),
        "tile_gb": round(sum(c.numbers for c in costs) * WIDTHS[asked.precision] / 1e9, 2),
        "limit_tflop_s": round(flop_s / 1e12, 2),
        "limit_gb_s": round(bytes_s / 1e9),
        "least_ms": round(1000 * least, 2),
    }
    for batch in asked.batch:
        taken = time_batch(asked, folder, place, cache, batch, engine.model.patch)
        found[f"tile_ms_batch_{batch}"] = round(1000 * taken, 2)
        found[f"share_of_limit_batch_{batch}"] = round(least / taken, 3)
    if device == "cuda":
        found["peak_mb"] = torch.cuda.max_memory_allocated() // 2**20
    return found


def time_batch(
    asked: argparse.Namespace, folder: Path, place: str, cache: Path, batch: int, patch: Three
) -> float:
    """Seconds of a tile with all that is done for it, in an image of one row of `batch` tiles."""
    engine = load_engine(
        folder,
        device=place,
        precision=asked.precision,
        step=1.0,
        cache=cache,
        batch=batch,
        kernels=asked.kernels,
    )
    z, y, x = patch
    image = np.random.default_rng(0).normal(0, 300, (1, z, y, x * batch)).astype(np.float32)
    times = 10 if place == "cuda" else 1
    return seconds_of(lambda: engine.segment(image), times) / batch


# --- series -------------------------------------------------------------------------------------


def series_an_hour(asked: argparse.Namespace, device: str, folder: Path, cache: Path) -> dict:
    found = {}
    for workers in asked.workers:
        context = multiprocessing.get_context("spawn")
        together = context.Barrier(workers + 1)
        job = (asked, device, folder, cache, together)
        processes = [context.Process(target=index_some, args=job) for _ in range(workers)]
        for process in processes:
            process.start()
        together.wait()
        begin = perf_counter()
        for process in processes:
            process.join()
        failed = [process.exitcode for process in processes if process.exitcode]
        if failed:
            raise SystemExit(f"{len(failed)} of {workers} workers failed")
        done = workers * asked.series
        found[f"series_an_hour_workers_{workers}"] = round(done / (perf_counter() - begin) * 3600)
    return found


def index_some(asked: argparse.Namespace, device: str, folder: Path, cache: Path, together) -> None:
    """In a process of its own: one series that does not count, then some that do."""
    if device == "cpu":
        options.find_device = lambda wish: "torch-cpu"
    wanted = f"device=cuda&precision={asked.precision}&kernels={asked.kernels}&mode={asked.mode}"
    url = f"totalsegmentator:?{wanted}&weights={asked.weights}&cache={cache}"
    segmenter = TotalSegmentator(url)
    if device == "cuda":
        index(segmenter, folder)
    together.wait()
    for _ in range(asked.series):
        index(segmenter, folder)


def index(segmenter: TotalSegmentator, folder: Path) -> None:
    from tomodex.geometry import find_geometry
    from tomodex.instance import read_instance
    from tomodex.measurement import measure
    from tomodex.volume import load_volume

    instances = [read_instance(path, lambda name: "x") for path in sorted(folder.iterdir())]
    measure(segmenter.segment(load_volume(instances, find_geometry(instances)), ()))


# --- all of it ----------------------------------------------------------------------------------


def why_not(asked: argparse.Namespace) -> str:
    """What is missing; empty if nothing is."""
    if find_spec("torch") is None:
        return "torch is not installed"
    if not (asked.ct.is_file() and asked.weights.is_dir()):
        return f"no {asked.ct} or {asked.weights}"
    import torch

    return "" if asked.cpu or torch.cuda.is_available() else "torch sees no GPU"


def main() -> None:
    example = REAL / "nifti_ref/ts-nifti-multiorgan/example_ct.nii.gz"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ct", type=Path, default=example)
    parser.add_argument("--weights", type=Path, default=REAL / "weights/standin_297")
    parser.add_argument("--cpu", action="store_true", help="on CPU tensors")
    parser.add_argument("--precision", choices=WIDTHS, help="f16, or f32 with --cpu")
    parser.add_argument("--kernels", choices=["eager", "compiled"], default="eager")
    parser.add_argument("--mode", default="fast")
    parser.add_argument("--batch", type=int, nargs="+", help="1 2 4, or 1 with --cpu")
    parser.add_argument("--workers", type=int, nargs="+", help="1 2 4, or 1 with --cpu")
    parser.add_argument("--slices", type=int, default=336)
    parser.add_argument("--series", type=int, help="of each worker; 5, or 1 with --cpu")
    asked = parser.parse_args()
    asked.precision = asked.precision or ("f32" if asked.cpu else "f16")
    asked.batch = asked.batch or ([1] if asked.cpu else [1, 2, 4])
    asked.workers = asked.workers or ([1] if asked.cpu else [1, 2, 4])
    asked.series = asked.series or (1 if asked.cpu else 5)
    results = {"bench": "gpu", "cores": len(os.sched_getaffinity(0))}
    if left_out := why_not(asked):
        print(json.dumps(results | {"left_out": left_out}))
        return
    device = "cpu" if asked.cpu else "cuda"
    model = find_model(297, find_results(asked.weights))
    with tempfile.TemporaryDirectory() as scratch:
        series, cache = Path(scratch, "series"), Path(scratch, "cache")
        series.mkdir()
        write_series(asked.ct, asked.slices, series)
        results |= time_tiles(asked, model, device, cache)
        results |= series_an_hour(asked, device, series, cache)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
