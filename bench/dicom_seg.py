"""How long it takes to write masks: 117 structures of 400 x 512 x 512 voxels, as each form.

    python bench/dicom_seg.py

Prints one line of JSON. `carry_s` is the way from a grid of 3 mm to the grid of the series, once;
each form then has the seconds to make it and write it to disk, those of the processor, and its MB.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tomodex.formats.dicom_header import Subject
from tomodex.formats.dicom_seg import Kind, Origin, Packing, write_segs
from tomodex.formats.nifti import write_nifti
from tomodex.formats.nrrd import write_nrrd
from tomodex.geometry import find_geometry
from tomodex.instance import Frame, Instance
from tomodex.masks import Masks, masks_on_frames
from tomodex.resampling import resample
from tomodex.segmentation import Algorithm, Segmentation
from tomodex.terminology import load_terminology
from tomodex.volume import Volume

FORMS: tuple[tuple[Kind, Packing], ...] = (
    ("LABELMAP", "native"),
    ("LABELMAP", "rle"),
    ("LABELMAP", "deflated"),
    ("BINARY", "native"),
    ("BINARY", "deflated"),
)


def make_origin(slices: int, matrix: int) -> Origin:
    """A series of axial slices of 1 mm."""
    instances = [
        Instance(
            path=f"{k:05}",
            series_uid="1.2.3",
            study_uid="1.2",
            sop_uid=f"1.2.3.{k + 1}",
            sop_class="1.2.840.10008.5.1.4.1.1.2",
            modality="CT",
            transfer_syntax="1.2.840.10008.1.2.1",
            rows=matrix,
            columns=matrix,
            has_pixels=True,
            frames=(
                Frame(
                    position_mm=(-200.0, -200.0, float(k)),
                    orientation=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
                    pixel_spacing_mm=(0.78, 0.78),
                    rescale_slope=1.0,
                    rescale_intercept=0.0,
                ),
            ),
        )
        for k in range(slices)
    ]
    subject = Subject(study_uid="1.2", patient_id="bench")
    geometry = find_geometry(instances)
    return Origin(series_uid="1.2.3", subject=subject, instances=instances, geometry=geometry)


def draw(shape: tuple[int, int, int], structures: int) -> npt.NDArray[np.uint8]:
    """Ellipsoids of the size of organs, all over the image; later ones lie over earlier ones."""
    rng = np.random.default_rng(0)
    z, y, x = np.meshgrid(*map(np.arange, shape), indexing="ij", sparse=True)
    labels = np.zeros(shape, np.uint8)
    for label in range(1, structures + 1):
        centre = rng.uniform(0.1, 0.9, 3) * shape
        reach = rng.uniform((0.03, 0.02, 0.02), (0.2, 0.09, 0.09)) * shape
        inside = sum(
            ((axis - c) / r) ** 2 for axis, c, r in zip((z, y, x), centre, reach, strict=True)
        )
        labels[inside < 1] = label
    return labels


def segment(origin: Origin, structures: int) -> Segmentation:
    """What a model of 3 mm might have found."""
    empty = Volume(np.zeros(origin.geometry.shape, np.int16), origin.geometry.affine)
    grid = resample(empty, (3.0, 3.0, 3.0))
    names = sorted(
        name for name, s in load_terminology().structures.items() if s.total_class is not None
    )
    return Segmentation(
        volume=grid,
        layers=(draw(grid.shape, structures),),
        names=(dict(enumerate(names[:structures], start=1)),),
        algorithm=Algorithm(name="bench", version="1"),
    )


def timed(write: Callable[[], Path]) -> dict[str, float]:
    begin, cpu = time.perf_counter(), time.process_time()
    path = write()
    return {
        "s": round(time.perf_counter() - begin, 2),
        "cpu_s": round(time.process_time() - cpu, 2),
        "mb": round(path.stat().st_size / 1e6, 1),
    }


def write_forms(masks: Masks, origin: Origin, folder: Path) -> dict[str, object]:
    terminology = load_terminology()

    def seg(kind: Kind, packing: Packing) -> Path:
        path = folder / f"{kind}-{packing}.dcm"
        (ds,) = write_segs(masks, origin, terminology, kind, packing, datetime.now(UTC))
        ds.save_as(path, enforce_file_format=True)
        return path

    def nifti() -> Path:
        write_nifti(folder / "a.nii.gz", masks.layers[0], masks.affine)
        return folder / "a.nii.gz"

    def nrrd() -> Path:
        path = folder / "a.seg.nrrd"
        write_nrrd(path, masks.layers[0], masks.names[0], masks.affine, terminology)
        return path

    found: dict[str, object] = {
        f"{kind} {packing}": timed(lambda kind=kind, packing=packing: seg(kind, packing))  # type: ignore[misc]
        for kind, packing in FORMS
    }
    return {**found, "nifti": timed(nifti), "nrrd": timed(nrrd)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=400)
    parser.add_argument("--matrix", type=int, default=512)
    parser.add_argument("--structures", type=int, default=117)
    given = parser.parse_args()
    origin = make_origin(given.slices, given.matrix)
    segmentation = segment(origin, given.structures)
    begin, cpu = time.perf_counter(), time.process_time()
    masks = masks_on_frames(segmentation, origin.geometry)
    carry_s, carry_cpu_s = time.perf_counter() - begin, time.process_time() - cpu
    with tempfile.TemporaryDirectory() as folder:
        forms = write_forms(masks, origin, Path(folder))
    line = {
        "shape": origin.geometry.shape,
        "structures": len(masks.structures),
        "carry_s": round(carry_s, 2),
        "carry_cpu_s": round(carry_cpu_s, 2),
        **forms,
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "load": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
