"""The known answer of a phantom series, worked out the slow and obvious way.

One mask per structure and its voxels' positions, nothing shared with `tomodex.measurement`: the one
is there to check the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import permutations

import numpy as np
import numpy.typing as npt

from tomodex.instance import LPS
from tomodex.phantom.names import STRUCTURES
from tomodex.phantom.voxels import HU, Affine, Labels

_SIDES = (("right", "left"), ("anterior", "posterior"), ("inferior", "superior"))


@dataclass(frozen=True, slots=True, kw_only=True)
class StructureTruth:
    """Numbers for one structure; see `measurement.Measurement` for what they mean."""

    voxel_count: int
    volume_ml: float
    mean_hu: float
    sd_hu: float
    centroid_mm: LPS
    box_min_mm: LPS
    box_max_mm: LPS
    cut: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """All that must come out for one series."""

    name: str
    verdict: str  #: "wanted", or the code of the reason why not
    series_uid: str
    study_uid: str
    patient_id: str
    patient_sex: str
    patient_age: int
    study_date: str  #: YYYYMMDD
    slice_thickness_mm: float
    instance_count: int
    shape: tuple[int, int, int] | None  #: (slices, rows, columns); None where there is no volume
    affine: tuple[tuple[float, ...], ...] | None  #: (4, 4), (slice, row, column, 1) -> LPS mm
    segmentation_uid: str  #: SOP Instance UID of the DICOM SEG; "" where the archive holds none
    structures: Mapping[str, StructureTruth] = field(default_factory=dict)  #: by name


def find_structures(labels: Labels, hu: HU, affine: Affine) -> dict[str, StructureTruth]:
    """The truth of every structure that has at least one voxel."""
    found = {}
    for number, name in enumerate(STRUCTURES, start=1):
        mask = labels == number
        if mask.any():
            found[name] = _find_structure(mask, hu, affine)
    return found


def _find_structure(mask: npt.NDArray[np.bool_], hu: HU, affine: Affine) -> StructureTruth:
    # The same as np.argwhere, a few times faster.
    indices = np.stack(np.unravel_index(np.flatnonzero(mask), mask.shape), axis=1)
    centers = indices @ affine[:3, :3].T + affine[:3, 3]
    # A voxel reaches half a step beyond its centre along each axis of the grid, both ways.
    reach = np.abs(affine[:3, :3]).sum(axis=1) / 2
    values = hu[mask].astype(np.float64)
    return StructureTruth(
        voxel_count=len(indices),
        volume_ml=len(indices) * abs(float(np.linalg.det(affine[:3, :3]))) / 1000,
        mean_hu=float(values.mean()),
        sd_hu=float(values.std()),
        centroid_mm=_lps(centers.mean(axis=0)),
        box_min_mm=_lps(centers.min(axis=0) - reach),
        box_max_mm=_lps(centers.max(axis=0) + reach),
        cut=_cut(indices, mask.shape, affine),
    )


def _cut(indices: npt.NDArray[np.int64], shape: tuple[int, ...], affine: Affine) -> tuple[str, ...]:
    """Faces of the image that some voxel lies at, by the patient direction each is nearest to."""
    sides = []
    for axis, (patient_axis, forward) in enumerate(_patient_axes(affine)):
        low, high = _SIDES[patient_axis] if forward else _SIDES[patient_axis][::-1]
        sides += [low] * bool(indices[:, axis].min() == 0)
        sides += [high] * bool(indices[:, axis].max() == shape[axis] - 1)
    return tuple(sorted(sides))


def _patient_axes(affine: Affine) -> list[tuple[int, bool]]:
    """For each voxel axis the patient axis it runs along, each once, and whether it runs up it."""
    steps = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    best = max(permutations(range(3)), key=lambda p: sum(abs(steps[p[i], i]) for i in range(3)))
    return [(patient_axis, bool(steps[patient_axis, i] > 0)) for i, patient_axis in enumerate(best)]


def _lps(vector: npt.NDArray[np.float64]) -> LPS:
    return float(vector[0]), float(vector[1]), float(vector[2])
