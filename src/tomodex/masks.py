"""Masks: the labels of a segmentation on the grid that the series itself has."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tomodex.errors import Unsuitable
from tomodex.geometry import Geometry
from tomodex.segmentation import Algorithm, Segmentation

Labels = npt.NDArray[np.uint8]
_Floats = npt.NDArray[np.float64]

#: Steps of one grid along an axis of the other are none below this: 0.5 voxels over 5,000.
_NO_STEP = 1e-4


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Masks:
    """A label for every voxel of a series, in as many layers as structures overlap."""

    layers: tuple[Labels, ...]  #: each (slices, rows, columns), 0 is background
    names: tuple[Mapping[int, str], ...]  #: for each layer, label -> structure
    affine: _Floats  #: (4, 4), (slice, row, column, 1) -> LPS position, mm
    algorithm: Algorithm

    @property
    def structures(self) -> tuple[str, ...]:
        """Names of all structures that have a voxel."""
        return tuple(name for names in self.names for name in names.values())


def masks_on_frames(
    segmentation: Segmentation, geometry: Geometry, wanted: Collection[str] = ()
) -> Masks:
    """Masks of the frames as they were acquired: slice k lies where frame k truly lies.

    Every voxel has the label of the voxel of the model's grid that is nearest to it. A structure
    that is not `wanted` is background; () wants all. From a grid of 3 mm to 400 x 512 x 512
    voxels takes 0.5 s of one core (`bench/dicom_seg.py`).

    Raises:
        Unsuitable: nothing wanted was found (no_structures).
    """
    places = geometry.places if geometry.places is not None else np.arange(geometry.shape[0])
    return _carry(segmentation, geometry, np.asarray(places, np.float64), wanted)


def masks_on_grid(
    segmentation: Segmentation, geometry: Geometry, wanted: Collection[str] = ()
) -> Masks:
    """The same on an even grid, for formats that know no other; uneven slices are evened out."""
    return _carry(segmentation, geometry, np.arange(geometry.shape[0], dtype=np.float64), wanted)


def _carry(
    segmentation: Segmentation, geometry: Geometry, places: _Floats, wanted: Collection[str]
) -> Masks:
    carried, tables = [], []
    for labels, names in zip(segmentation.layers, segmentation.names, strict=True):
        kept = {label: name for label, name in names.items() if not wanted or name in wanted}
        layer = carry(_only(labels, kept), segmentation.volume.affine, geometry, places)
        present = _present(layer)
        if seen := {label: name for label, name in sorted(kept.items()) if label in present}:
            carried.append(layer)
            tables.append(seen)
    if not carried:
        raise Unsuitable("no_structures", "none of the structures that are wanted was found")
    return Masks(
        layers=tuple(carried),
        names=tuple(tables),
        affine=geometry.affine,
        algorithm=segmentation.algorithm,
    )


def _only(labels: Labels, names: Mapping[int, str]) -> Labels:
    """The labels that have a name; the others become background."""
    if _present(labels) <= {0, *names}:
        return labels
    table = np.zeros(256, np.uint8)
    table[list(names)] = list(names)
    return table[labels]


def _present(labels: Labels) -> frozenset[int]:
    """The labels that there are; slice by slice, as counting takes eight bytes a voxel."""
    counts = sum(np.bincount(one.ravel(), minlength=256) for one in labels)
    return frozenset(np.flatnonzero(counts).tolist())


def carry(labels: Labels, affine: _Floats, geometry: Geometry, places: _Floats) -> Labels:
    """(len(places), rows, columns): for each voxel of a series the label that lies nearest.

    `affine` is that of the labels; slice k of the result lies at place `places[k]` of `geometry`,
    in its steps. Half-way the higher index counts, as in scipy.ndimage.zoom. What lies beyond the
    labels' grid by more than a voxel is background.
    """
    across = np.asarray(np.linalg.solve(affine, geometry.affine)[:3], np.float64)
    shape = (len(places), *geometry.shape[1:])
    steps = [places, np.arange(shape[1], dtype=np.float64), np.arange(shape[2], dtype=np.float64)]
    if _is_straight(across[:, :3]):
        return _carry_along_axes(labels, across, steps)
    return _carry_anywhere(labels, across, steps)


def _is_straight(across: _Floats) -> bool:
    """Does each axis of one grid run along one axis of the other?"""
    return bool(((np.abs(across) > _NO_STEP).sum(axis=0) == 1).all()) and bool(
        ((np.abs(across) > _NO_STEP).sum(axis=1) == 1).all()
    )


def _carry_along_axes(labels: Labels, across: _Floats, steps: list[_Floats]) -> Labels:
    """Axis by axis, as what is nearest along one does not depend on the others."""
    axes = np.abs(across[:, :3]).argmax(axis=0)  # of the labels, for each axis of the series
    turned = labels.transpose(axes)
    inside = []
    for new, old in enumerate(axes):
        nearest, is_inside = _nearest(across[old, new] * steps[new] + across[old, 3], labels, old)
        turned = turned.take(nearest, axis=new)
        inside.append(is_inside)
    for new, is_inside in enumerate(inside):
        if not is_inside.all():
            turned[(slice(None),) * new + (~is_inside,)] = 0
    return np.ascontiguousarray(turned)


def _carry_anywhere(labels: Labels, across: _Floats, steps: list[_Floats]) -> Labels:
    """Voxel by voxel, a slice at a time: where gantry or grid is turned."""
    places, rows, columns = steps
    carried = np.empty((len(places), len(rows), len(columns)), np.uint8)
    within = [
        across[axis, 1] * rows[:, None] + across[axis, 2] * columns[None, :] + across[axis, 3]
        for axis in range(3)
    ]
    for k, place in enumerate(places):
        found = [_nearest(within[a] + across[a, 0] * place, labels, a) for a in range(3)]
        (z, y, x), insides = zip(*found, strict=True)
        carried[k] = labels[z, y, x] * np.logical_and.reduce(insides)
    return carried


def _nearest(
    where: _Floats, labels: Labels, axis: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """The index nearest to each place along an axis, and whether the place is on the grid."""
    last = labels.shape[axis] - 1
    # The first and the last voxel stand for what lies around them, where steps were rounded.
    inside = (where >= -1.0) & (where <= last + 1.0)
    # What is half-way but for a rounding error is half-way.
    return np.clip(np.floor(where + 0.5 + 1e-9), 0, last).astype(np.intp), inside
