"""Where the slices of a series lie in the patient, from their headers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt

from tomodex.errors import Unsuitable
from tomodex.instance import Frame, Instance

Plane = Literal["axial", "coronal", "sagittal"]

_PLANES: tuple[Plane, ...] = ("sagittal", "coronal", "axial")

#: A coordinate further from the origin than this is no place in a scanner.
_FARTHEST_MM = 10_000.0
#: Pixel spacings outside this are no image of a patient.
_SPACING_MM = (0.01, 20.0)
#: Direction cosines are written with two digits at worst: (0.87, 0.5) has length 1.003.
_UNIT_TOLERANCE = 0.01
#: Row and column must be square to each other within 0.11 deg: three digits are off by 0.0017.
_SQUARE_TOLERANCE = 0.002
#: Images of another acquisition that may stray across the seam between two: a step-and-shoot scan
#: of a tilted gantry does so. Whole acquisitions between each other stray without end.
_STRAYS_PER_SEAM = 2

_Array = npt.NDArray[np.float64]
_Slice = tuple[int, int]  # (index into the instances, frame)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Geometry:
    """An even grid of slices: what a volume will be once its pixels are decoded."""

    slices: tuple[tuple[int, int], ...]  #: (index into the instances, frame), along the normal
    shape: tuple[int, int, int]  #: (slices, rows, columns) of the grid
    affine: npt.NDArray[np.float64]  #: (4, 4), (slice, row, column, 1) -> LPS position, mm
    plane: Plane  #: the patient axis that the slice normal is nearest to
    oblique_deg: float  #: between the slice normal and that axis
    tilt_deg: float  #: between the slice normal and the way from slice to slice: gantry tilt;
    #: never negative: which way the gantry leant is in the affine
    places: npt.NDArray[np.float64] | None = None  #: (len(slices),) where the slices lie on the
    #: grid's first axis, in grid steps; None: slice k lies at k, nothing needs resampling
    duplicates: int = 0  #: frames left out because the same instance is there twice


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerances:
    """How far headers may stray from an even grid of parallel slices."""

    #: Between slices. Cosines that are off by 0.001 turn a slice by 0.08 deg, which moves a corner
    #: 400 mm away by 0.6 mm, a usual pixel.
    orientation_deg: float = 0.1
    #: Pixel spacings may differ by this share: 0.4 mm over 400 mm.
    spacing_share: float = 0.001
    #: Slices nearer than this are at one position.
    same_place_mm: float = 0.01
    #: Off an even grid and still even: positions written with one decimal are wrong by 0.05 mm,
    #: and so are the two ends that the grid is laid through.
    even_mm: float = 0.1
    #: The same as a share of the gap, whichever is more.
    even_share: float = 0.02
    #: A gap may differ from the usual one by this share and the stack be resampled; beyond, more
    #: than a tenth of a gap would be invented on average. Not measured yet in a real archive.
    uneven_share: float = 0.2
    #: Sideways off the straight line through the stack: half a pixel of a small field of view.
    drift_mm: float = 0.2


DEFAULT_TOLERANCES = Tolerances()


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Raster:
    """What all slices of a stack share."""

    rows: int
    columns: int
    along_row: _Array  #: (3,), unit length, the way the column index grows
    along_column: _Array  #: (3,), unit length, the way the row index grows
    spacing_mm: _Array  #: (2,), between rows, between columns

    @property
    def normal(self) -> _Array:
        """(3,), unit length: row direction x column direction."""
        across = np.cross(self.along_row, self.along_column)
        return across / np.linalg.norm(across)


def find_geometry(
    instances: Sequence[Instance], tolerances: Tolerances = DEFAULT_TOLERANCES
) -> Geometry:
    """The grid that the frames of `instances` make, whatever their order, names and numbers.

    Raises:
        Unsuitable: they make none, with the reason no_instances, no_pixels, single_slice,
            no_geometry, mixed_size, mixed_orientation, repeated_position, 4d, missing_slice or
            uneven_spacing.
    """
    found, duplicates = _distinct_slices(instances)
    raster = _raster(instances, found, tolerances)
    scattered = _positions(_frames(instances, found))
    order = np.argsort(scattered @ raster.normal, kind="stable")
    slices, positions = [found[k] for k in order], scattered[order]

    depths = positions @ raster.normal
    _require_single_positions(depths, instances, slices, tolerances)
    _require_one_scan(depths, instances, slices, tolerances)
    places = _places(depths, tolerances)
    _require_straight(positions, depths, tolerances)

    affine = _affine(raster, positions)
    axis = int(np.argmax(np.abs(raster.normal)))
    return Geometry(
        slices=tuple(slices),
        shape=(len(slices), raster.rows, raster.columns),
        affine=affine,
        plane=_PLANES[axis],
        oblique_deg=_angle_deg(np.abs(raster.normal), np.eye(3)[axis]),
        tilt_deg=_angle_deg(raster.normal, affine[:3, 0]),
        places=places,
        duplicates=duplicates,
    )


def _distinct_slices(instances: Sequence[Instance]) -> tuple[list[_Slice], int]:
    """Every frame with pixels once, and how many were there twice.

    Of instances with one UID and one position the first by path stays, so that the same files give
    the same volume in any order. A UID that returns at another position is no duplicate: some
    anonymisers give all slices the same.
    """
    _require_images(instances)
    kept: dict[object, _Slice] = {}
    total = 0
    for i in sorted(range(len(instances)), key=lambda i: instances[i].path):
        for k, frame in enumerate(instances[i].frames):
            uid = instances[i].sop_uid
            kept.setdefault((uid, k, frame.position_mm) if uid else (i, k), (i, k))
            total += 1
    if len(kept) == 1:
        raise Unsuitable("single_slice", "one slice makes no volume")
    return list(kept.values()), total - len(kept)


def _require_images(instances: Sequence[Instance]) -> None:
    if not instances:
        raise Unsuitable("no_instances", "no instance")
    empty = sum(not instance.has_pixels for instance in instances)
    if empty:
        raise Unsuitable("no_pixels", f"{empty} of {len(instances)} instances have no pixel data")
    for instance in instances:
        if not len(instance.frames) == instance.number_of_frames > 0:
            raise Unsuitable(
                "no_geometry",
                f"an instance of {instance.number_of_frames} frames says where"
                f" {len(instance.frames)} of them lie",
            )


def _frames(instances: Sequence[Instance], slices: Sequence[_Slice]) -> list[Frame]:
    return [instances[i].frames[k] for i, k in slices]


# --- what all slices share --------------------------------------------------------------------


def _raster(
    instances: Sequence[Instance], slices: Sequence[_Slice], tolerances: Tolerances
) -> _Raster:
    sizes = sorted({(instances[i].rows, instances[i].columns) for i, _ in slices})
    if min(sizes[0]) < 1:
        raise Unsuitable("no_geometry", "an instance has no rows or no columns")
    if len(sizes) > 1:
        raise Unsuitable("mixed_size", f"slices differ in rows x columns: {_listed(sizes)}")
    frames = _frames(instances, slices)
    spacing_mm = _spacing(frames, tolerances)
    along_row, along_column = _directions(frames, tolerances)
    return _Raster(
        rows=sizes[0][0],
        columns=sizes[0][1],
        along_row=along_row,
        along_column=along_column,
        spacing_mm=spacing_mm,
    )


def _spacing(frames: Sequence[Frame], tolerances: Tolerances) -> _Array:
    """(2,), mm between rows and between columns."""
    values = _stacked([f.pixel_spacing_mm for f in frames], 2, "pixel spacing")
    lowest, highest = _SPACING_MM
    if values.min() < lowest or values.max() > highest:
        raise Unsuitable("no_geometry", f"pixel spacing is outside {lowest} to {highest} mm")
    usual = np.median(values, axis=0)
    if (np.abs(values - usual) > tolerances.spacing_share * usual).any():
        raise Unsuitable(
            "mixed_size",
            f"pixel spacing runs from {values.min():.4f} to {values.max():.4f} mm",
        )
    return usual


def _directions(frames: Sequence[Frame], tolerances: Tolerances) -> tuple[_Array, _Array]:
    """Unit vectors (3,) along a row and along a column, shared by all frames."""
    cosines = _stacked([f.orientation for f in frames], 6, "orientation").reshape(-1, 2, 3)
    lengths = np.linalg.norm(cosines, axis=2, keepdims=True)
    if (np.abs(lengths - 1) > _UNIT_TOLERANCE).any():
        raise Unsuitable("no_geometry", "direction cosines are not of unit length")
    units = cosines / lengths
    _require_square(units, _UNIT_TOLERANCE)
    usual = np.median(units, axis=0)
    # Twice the half chord is the angle, also where the cosine is too flat to tell.
    apart = np.degrees(np.linalg.norm(units - usual, axis=2).max())
    if apart > tolerances.orientation_deg:
        raise Unsuitable(
            "mixed_orientation", f"slices are turned by up to {_turned(units):.1f} deg"
        )
    shared = usual / np.linalg.norm(usual, axis=1, keepdims=True)
    # Noise of single slices is gone here, so that what is left is meant, or rounded.
    _require_square(shared[None], _SQUARE_TOLERANCE)
    along_row, along_column = shared
    return along_row, along_column


def _require_square(units: _Array, tolerance: float) -> None:
    """Raises Unsuitable unless rows and columns, (frames, 2, 3), are at right angles."""
    if (np.abs((units[:, 0] * units[:, 1]).sum(axis=1)) > tolerance).any():
        raise Unsuitable("no_geometry", "rows and columns are not at right angles")


def _turned(units: _Array) -> float:
    """Largest angle, deg, between the directions of the first frame and those of another."""
    return float(np.degrees(np.arccos(np.clip((units * units[0]).sum(axis=2), -1, 1))).max())


def _positions(frames: Sequence[Frame]) -> _Array:
    """(frames, 3), mm."""
    values = _stacked([f.position_mm for f in frames], 3, "position")
    if np.abs(values).max() > _FARTHEST_MM:
        raise Unsuitable("no_geometry", f"a slice lies more than {_FARTHEST_MM:.0f} mm away")
    return values


def _stacked(values: Sequence[tuple[float, ...] | None], size: int, name: str) -> _Array:
    """(frames, size); the values of all frames, each known and finite."""
    known = [value for value in values if value is not None and len(value) == size]
    if len(known) < len(values):
        missing = len(values) - len(known)
        raise Unsuitable("no_geometry", f"{missing} of {len(values)} slices have no {name}")
    array = np.array(known, dtype=np.float64)
    if not np.isfinite(array).all():
        raise Unsuitable("no_geometry", f"a {name} is not a finite number")
    return array


# --- where the slices lie ---------------------------------------------------------------------


def _require_single_positions(
    depths: _Array,
    instances: Sequence[Instance],
    slices: Sequence[_Slice],
    tolerances: Tolerances,
) -> None:
    """Raises Unsuitable where slices share a position, as 4d where time explains it."""
    position = np.concatenate([[0], np.cumsum(np.diff(depths) > tolerances.same_place_mm)])
    count = int(position[-1]) + 1
    if count == len(slices):
        return
    if count > 1 and any(_explains(labels, position) for labels in _times(instances, slices)):
        times_over = len(slices) // count
        raise Unsuitable("4d", f"{times_over} images over time at each of {count} positions")
    raise Unsuitable("repeated_position", f"{len(slices)} images lie at {count} positions")


def _require_one_scan(
    depths: _Array,
    instances: Sequence[Instance],
    slices: Sequence[_Slice],
    tolerances: Tolerances,
) -> None:
    """Raises Unsuitable where even scans lie between each other's slices.

    Arterial and venous phase under one UID rarely share a position, and may even make an even grid.
    """
    for labels in _times(instances, slices):
        scans = [depths[np.array(labels) == label] for label in dict.fromkeys(labels)]
        seams = sum(one != other for one, other in pairwise(labels))
        strayed = seams > (1 + _STRAYS_PER_SEAM) * (len(scans) - 1)
        if strayed and all(_is_even(scan, tolerances) for scan in scans):
            raise Unsuitable("4d", f"slices of {len(scans)} scans lie between each other")


def _is_even(depths: _Array, tolerances: Tolerances) -> bool:
    """Three slices or more, all with about the same gap."""
    gaps = np.diff(depths)
    return len(gaps) > 1 and float(np.ptp(gaps)) <= tolerances.uneven_share * float(gaps.min())


def _times(instances: Sequence[Instance], slices: Sequence[_Slice]) -> tuple[list[str], list[str]]:
    """What tells scans of one place apart, slice by slice: phases, acquisitions."""
    phases = [instances[i].frames[k].time_point for i, k in slices]
    return phases, [str(instances[i].acquisition_number) for i, _ in slices]


def _explains(labels: Sequence[str], position: npt.NDArray[np.intp]) -> bool:
    """Every position has every label exactly once."""
    pairs = {(int(p), label) for p, label in zip(position, labels, strict=True)}
    return len(pairs) == len(labels) == (int(position[-1]) + 1) * len(set(labels))


def _places(depths: _Array, tolerances: Tolerances) -> _Array | None:
    """None for an even stack; else where each slice lies on the even grid, in grid steps.

    Raises:
        Unsuitable: the gaps are too uneven to be resampled.
    """
    last = len(depths) - 1
    step = (depths[-1] - depths[0]) / last
    grid: _Array = (depths - depths[0]) / step
    slack = min(tolerances.even_mm / step, tolerances.uneven_share)
    if np.abs(grid - np.arange(len(depths))).max() <= max(slack, tolerances.even_share):
        return None
    gaps = np.diff(depths)
    usual = float(np.sort(gaps)[(len(gaps) - 1) // 2])
    if (np.abs(gaps - usual) > tolerances.uneven_share * usual).any():
        raise _uneven(gaps, usual, tolerances)
    grid[-1] = last
    return grid


def _uneven(gaps: _Array, usual: float, tolerances: Tolerances) -> Unsuitable:
    """Slices are missing where all that stands out is a near multiple of the usual gap."""
    odd = gaps[np.abs(gaps - usual) > tolerances.uneven_share * usual] / usual
    if (odd > 1.5).all() and (np.abs(odd - odd.round()) <= tolerances.uneven_share).all():
        missing = int((odd.round() - 1).sum())
        sentence = f"slices are missing ({missing}): gaps of up to {gaps.max():.2f} mm"
        return Unsuitable("missing_slice", f"{sentence}, usually {usual:.2f} mm")
    return Unsuitable(
        "uneven_spacing",
        f"slice gaps run from {gaps.min():.2f} to {gaps.max():.2f} mm, usually {usual:.2f} mm",
    )


def _require_straight(positions: _Array, depths: _Array, tolerances: Tolerances) -> None:
    """Raises Unsuitable where slices are shifted sideways in a way that no tilt explains."""
    share = (depths - depths[0]) / (depths[-1] - depths[0])
    line = positions[0] + share[:, None] * (positions[-1] - positions[0])
    drift = float(np.linalg.norm(positions - line, axis=1).max())
    if drift > tolerances.drift_mm:
        raise Unsuitable(
            "uneven_spacing", f"slices are shifted sideways by {drift:.1f} mm, and not as by a tilt"
        )


def _affine(raster: _Raster, positions: _Array) -> _Array:
    """(4, 4); the first column is the way from slice to slice, sheared where the gantry leant."""
    affine = np.eye(4)
    affine[:3, 0] = (positions[-1] - positions[0]) / (len(positions) - 1)
    affine[:3, 1] = raster.along_column * raster.spacing_mm[0]
    affine[:3, 2] = raster.along_row * raster.spacing_mm[1]
    affine[:3, 3] = positions[0]
    return affine


def _angle_deg(one: _Array, other: _Array) -> float:
    """Between two vectors (3,), 0 to 180 deg; exact also where it is tiny."""
    across = np.linalg.norm(np.cross(one, other))
    return float(np.degrees(np.arctan2(across, one @ other)))


def _listed(sizes: Sequence[tuple[int, int]]) -> str:
    """The first few sizes for a person."""
    shown = ", ".join(f"{rows} x {columns}" for rows, columns in sizes[:4])
    return shown + (", ..." if len(sizes) > 4 else "")
