"""How long one pass over a label map takes, against a mask for each structure.

    python bench/measure.py --slices 600 --structures 117

Ellipsoids in noise, about a quarter to a third of the voxels labelled. The way with a mask per
structure is timed on a smaller volume and extrapolated by the number of voxels.
"""

from __future__ import annotations

import argparse
import json
import time
import tracemalloc
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tomodex.measurement import measure
from tomodex.segmentation import Algorithm, Segmentation
from tomodex.volume import Volume

AFFINE = np.array([[0, 0, 0.7, -180], [0, 0.75, 0, -190], [1, 0, 0, 900], [0, 0, 0, 1.0]])
#: A gantry tilt of 15 degrees.
TILTED = AFFINE + np.array([[0, 0, 0, 0], [0.26, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])


def draw(shape: tuple[int, int, int], structures: int) -> Segmentation:
    rng = np.random.default_rng(0)
    labels = np.zeros(shape, np.uint8)
    for label in range(1, structures + 1):
        radius = rng.uniform(0.03, 0.16, 3) * shape
        centre = rng.uniform(0.1, 0.9, 3) * shape
        low = np.maximum(centre - radius, 0).astype(int)
        high = np.minimum(centre + radius + 1, shape).astype(int)
        box = tuple(map(slice, low, high))
        z, y, x = np.ogrid[box]
        distance = sum(
            ((a - c) / r) ** 2 for a, c, r in zip((z, y, x), centre, radius, strict=True)
        )
        labels[box][distance <= 1] = label
    hu = np.empty(shape, np.int16)
    for values in hu:
        values[:] = rng.integers(-1024, 3072, shape[1:], dtype=np.int16)
    names = {label: f"structure {label}" for label in range(1, structures + 1)}
    return Segmentation(Volume(hu, AFFINE), (labels,), (names,), Algorithm(name="drawn"))


def measure_with_masks(segmentation: Segmentation) -> dict[str, tuple[float, ...]]:
    """The obvious way, with less to show for it: volume, mean, deviation and index box."""
    found = {}
    voxels = segmentation.volume.voxels
    for label, name in segmentation.names[0].items():
        mask: npt.NDArray[np.bool_] = segmentation.layers[0] == label
        if mask.any():
            values, where = voxels[mask], np.nonzero(mask)
            box = [float(end) for axis in where for end in (axis.min(), axis.max())]
            found[name] = (float(mask.sum()), float(values.mean()), float(values.std()), *box)
    return found


def tally_by_bincount(segmentation: Segmentation) -> None:
    """Counts and means alone, one `bincount` a slice: what the first prototype did."""
    for labels, values in zip(segmentation.layers[0], segmentation.volume.voxels, strict=True):
        np.bincount(labels.ravel(), minlength=256)
        np.bincount(labels.ravel(), weights=values.ravel(), minlength=256)


def best_of(times: int, call: Callable[[], object]) -> float:
    def once() -> float:
        started = time.perf_counter()
        call()
        return time.perf_counter() - started

    return min(once() for _ in range(times))


def peak_memory(call: Callable[[], object]) -> int:
    """Bytes that `call` held at most."""
    tracemalloc.start()
    call()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=600)
    parser.add_argument("--structures", type=int, default=117)
    parser.add_argument("--small-slices", type=int, default=60, help="for a mask per structure")
    parser.add_argument("--repeat", type=int, default=5)
    asked = parser.parse_args()

    small = draw((asked.small_slices, 512, 512), asked.structures)
    masks_s = best_of(1, lambda: measure_with_masks(small))
    large = draw((asked.slices, 512, 512), asked.structures)
    tilted = Segmentation(
        Volume(large.volume.voxels, TILTED), large.layers, large.names, large.algorithm
    )
    one_pass_s = best_of(asked.repeat, lambda: measure(large))
    print(
        json.dumps(
            {
                "bench": "measure",
                "voxels": large.volume.voxels.size,
                "structures": len(measure(large)),
                "labelled": round(float(np.mean(large.layers[0] > 0)), 3),
                "one_pass_s": round(one_pass_s, 3),
                "one_pass_tilted_s": round(best_of(asked.repeat, lambda: measure(tilted)), 3),
                "bincount_count_and_mean_only_s": round(
                    best_of(2, lambda: tally_by_bincount(large)), 3
                ),
                "mask_per_structure_extrapolated_s": round(
                    masks_s * asked.slices / asked.small_slices, 1
                ),
                "peak_extra_memory_mib": round(peak_memory(lambda: measure(large)) / 2**20, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
