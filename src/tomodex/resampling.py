"""A volume on the grid that a model was trained on: axes along the patient, even spacing."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import prod

import numpy as np
import numpy.typing as npt

from tomodex.errors import Unsuitable
from tomodex.volume import Volume

#: Voxels of the largest grid. A body of 512 x 512 x 2000 voxels at 1.5 mm has 150 million.
MAX_VOXELS = 200_000_000

#: Axes further from square than this are straightened: 1 deg is 3.5 mm over a head.
_SHEAR_DEG = 1.0
#: So far may a grid be turned off the patient's axes and be taken as it is, as it was in training.
_OBLIQUE_DEG = 15.0
#: What lies around a scan that was turned upright, HU.
_AIR_HU = -1024

_Floats = npt.NDArray[np.float64]
_Shape = tuple[int, int, int]


def resample(
    volume: Volume, spacing_mm: tuple[float, float, float], max_voxels: int = MAX_VOXELS
) -> Volume:
    """The volume with about `spacing_mm` along (z, y, x), as TotalSegmentator 2.18 makes it.

    Axes are (inferior to superior, posterior to anterior, left to right), by exchange and reversal
    of the volume's own; a sheared or oblique grid stays so. Values are linear between voxels and
    cut off towards zero, the first and the last voxel of each axis stay where they are, so the
    spacing is not quite the one asked for; the affine says the true one. Equal, bit by bit, to
    scipy.ndimage.zoom(order=1, mode="nearest").astype(int). 336 x 512 x 512 voxels to 3 mm take
    0.2 s, and no more memory than the result and a few of its slices: axial slices are taken one
    after the other, as they are decoded.

    Raises:
        Unsuitable: the grid would have more than `max_voxels` ("too_large"), or the volume's
            pixels cannot be decoded.
    """
    facing = _face(volume)
    shape = _zoomed_shape(facing, spacing_mm)
    _require_size(shape, max_voxels)
    lines = [_line(n, wanted) for n, wanted in zip(facing.shape, shape, strict=True)]
    voxels = np.empty(shape, np.int16)
    for k, plane in _planes(_Slices(volume, facing), *lines):
        voxels[k] = plane
    step = [line.step for line in lines]
    return Volume(voxels, facing.affine @ np.diag([*step, 1.0]), volume.modality)


def grid_shape(volume: Volume, spacing_mm: tuple[float, float, float]) -> tuple[int, int, int]:
    """Voxels (z, y, x) that `resample` makes, and `straighten` about as many."""
    return _zoomed_shape(_face(volume), spacing_mm)


def is_upright(volume: Volume) -> bool:
    """Are its axes square to each other, and near those of the patient?"""
    directions = _face(volume).affine[:3, :3]
    directions = directions / np.linalg.norm(directions, axis=0)
    skew = np.abs(directions.T @ directions - np.eye(3)).max()
    # Its axes run along z, y and x, in this order.
    nearness = np.abs(directions[[2, 1, 0], range(3)]).min()
    return bool(
        skew <= np.sin(np.radians(_SHEAR_DEG)) and nearness >= np.cos(np.radians(_OBLIQUE_DEG))
    )


def straighten(
    volume: Volume, spacing_mm: tuple[float, float, float], max_voxels: int = MAX_VOXELS
) -> Volume:
    """The volume on a grid along the patient's axes, with exactly `spacing_mm` along (z, y, x).

    For a leaning gantry and oblique stacks: every voxel is read where it truly lies, linear
    between the eight around it. Axes are those of `resample`. What was scanned is continued by a
    voxel, so that the nearest voxel of whatever lies in the scan is filled; beyond is air.

    Raises:
        Unsuitable: the grid would have more than `max_voxels` ("too_large").
    """
    lowest, highest = _ends(volume)
    x, y, z = highest - lowest
    shape = tuple(
        int(np.ceil(length / step - 1e-6)) + 1
        for length, step in zip((z, y, x), spacing_mm, strict=True)
    )
    _require_size(shape, max_voxels)
    affine = np.zeros((4, 4))
    affine[[2, 1, 0], range(3)] = np.array(spacing_mm) * (1, -1, -1)
    affine[:, 3] = highest[0], highest[1], lowest[2], 1.0
    voxels = np.empty(shape, np.int16)
    # Half a new voxel, in old ones.
    reach = np.abs(np.linalg.solve(volume.affine, affine)[:3, :3]).sum(axis=1) / 2
    for k, places in enumerate(_places(shape, affine, volume.affine)):
        voxels[k] = _read(volume.voxels, places, reach)
    return Volume(voxels, affine, volume.modality)


def carry_labels(
    labels: npt.NDArray[np.uint8], grid: Volume, onto: Volume
) -> npt.NDArray[np.uint8]:
    """Labels that lie on `grid`, each voxel of `onto` with the nearest one."""
    carried = np.empty(onto.voxels.shape, np.uint8)
    last = np.array(labels.shape).reshape(3, 1, 1) - 1
    for k, places in enumerate(_places(onto.voxels.shape, onto.affine, grid.affine)):
        slices, rows, columns = np.clip(np.rint(places), 0, last).astype(np.intp)
        carried[k] = labels[slices, rows, columns]
    return carried


def face_patient(volume: Volume) -> Volume:
    """The same voxels, not copied, their axes in the order and direction of `resample`."""
    facing = _face(volume)
    voxels = volume.voxels.transpose(facing.axes)[facing.turned]
    return Volume(voxels, facing.affine, volume.modality)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Facing:
    """How the axes of a volume become (z, y, x)."""

    axes: tuple[int, ...]  #: for each new axis the old one
    turned: tuple[slice, ...]  #: what reverses new axes
    backwards: bool  #: the first new axis is reversed
    shape: _Shape  #: in the new order
    affine: _Floats  #: (4, 4), (z, y, x, 1) -> LPS position, mm


def _face(volume: Volume) -> _Facing:
    axes, reversed_axes = _orientation(volume.affine)
    to_old = np.zeros((4, 4))
    to_old[3, 3] = 1.0
    for new, old in enumerate(axes):
        to_old[old, new] = -1.0 if reversed_axes[new] else 1.0
        to_old[old, 3] = volume.shape[old] - 1 if reversed_axes[new] else 0
    z, y, x = (volume.shape[old] for old in axes)
    return _Facing(
        axes=axes,
        turned=tuple(slice(None, None, -1 if back else 1) for back in reversed_axes),
        backwards=reversed_axes[0],
        shape=(z, y, x),
        affine=volume.affine @ to_old,
    )


def _orientation(affine: _Floats) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """For the new axes z, y, x: which axis of the grid it is, and whether that is reversed.

    As nibabel.as_closest_canonical does, which TotalSegmentator calls with columns, rows, slices:
    of the rotation nearest to the affine, each axis takes the patient axis that it is nearest to,
    those that are nearest to any first.
    """
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    # To the right, to the front and upwards.
    directions = directions * np.array([[-1.0], [-1.0], [1.0]])
    left, _, right = np.linalg.svd(directions, full_matrices=False)
    rotation = left @ right
    axes, backwards = [0, 0, 0], [False, False, False]
    by_strength = np.argsort(-np.max(rotation[:, ::-1] ** 2, axis=0), kind="stable")
    for old in 2 - by_strength:
        patient = int(np.argmax(np.abs(rotation[:, old])))
        axes[2 - patient] = int(old)
        backwards[2 - patient] = bool(rotation[patient, old] < 0)
        rotation[patient] = 0
    return tuple(axes), tuple(backwards)


def _require_size(shape: tuple[int, ...], max_voxels: int) -> None:
    if prod(shape) > max_voxels:
        found = " x ".join(map(str, shape))
        raise Unsuitable("too_large", f"{found} voxels for the model are more than {max_voxels}")


# --- along the volume's own axes ----------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Line:
    """Between which voxels of an axis each new one lies; all but `step` are (new voxels,)."""

    before: npt.NDArray[np.intp]
    after: npt.NDArray[np.intp]
    share_before: _Floats
    share_after: _Floats
    step: float  #: old voxels from one new voxel to the next


def _zoomed_shape(facing: _Facing, spacing_mm: tuple[float, float, float]) -> _Shape:
    # In single precision and multiplied in this order as upstream, whose spacing comes from a
    # NIfTI header: otherwise a tie would be rounded to another size.
    found = np.linalg.norm(facing.affine[:3, :3], axis=0).astype(np.float32).astype(np.float64)
    z, y, x = (
        max(1, round(n * float(mm / wanted)))
        for n, mm, wanted in zip(facing.shape, found, spacing_mm, strict=True)
    )
    return z, y, x


def _line(old: int, new: int) -> _Line:
    step = (old - 1) / (new - 1) if new > 1 else 1.0
    # The last place may be a rounding error beyond the last voxel, and the last weight is what the
    # other leaves: both as in scipy, so that sums come out the same to the last bit.
    places = np.arange(new) * step
    before = np.floor(places).astype(np.intp)
    share_before = 1.0 - (places - before)
    return _Line(
        before=before,
        after=np.minimum(before + 1, old - 1),
        share_before=share_before,
        share_after=1.0 - share_before,
        # A voxel that is alone stands for all that was there, or shares its place.
        step=old / new if 1 in (old, new) else step,
    )


class _Slices:
    """Slices (rows, columns) of a volume that faces the patient, each asked for once, in order.

    Where the volume's own slices are what it is asked for, no other is held.
    """

    def __init__(self, volume: Volume, facing: _Facing) -> None:
        self.backwards = facing.backwards and facing.axes[0] == 0
        self._count = facing.shape[0]
        self._coming = enumerate(_turned_slices(volume, facing))

    def take(self, k: int) -> npt.NDArray[np.int16]:
        """Slice `k`; from then on only those that come after it, or before it if `backwards`."""
        wanted = self._count - 1 - k if self.backwards else k
        return next(plane for number, plane in self._coming if number == wanted)

    def finish(self) -> None:
        """Let the rest come, too: what cannot be decoded is told, needed or not."""
        deque(self._coming, maxlen=0)


def _turned_slices(volume: Volume, facing: _Facing) -> Iterator[npt.NDArray[np.int16]]:
    if facing.axes[0] != 0:
        return iter(face_patient(volume).voxels)
    crossed = facing.axes[1] == 2
    return ((own.T if crossed else own)[facing.turned[1:]] for own in volume.slices())


def _planes(
    slices: _Slices, z: _Line, y: _Line, x: _Line
) -> Iterator[tuple[int, npt.NDArray[np.int16]]]:
    """The new slices with their numbers, in the order in which the old ones come."""

    @lru_cache(maxsize=2)
    def corners(k: int) -> list[_Floats]:
        return _corners_of_plane(slices.take(k), y, x)

    way = -1 if slices.backwards else 1
    for new in range(len(z.before))[::way]:
        ends = int(z.before[new]), int(z.after[new])
        around = {k: corners(k) for k in sorted(set(ends))[::way]}
        # Summed up in scipy's order: what is a whole number there must be one here, as what is a
        # little less is cut off.
        hu = np.zeros((len(y.before), len(x.before)))
        for one, other in zip(around[ends[0]], around[ends[1]], strict=True):
            hu += one * z.share_before[new]
            hu += other * z.share_after[new]
        yield new, hu.astype(np.int16)
    slices.finish()


def _corners_of_plane(plane: npt.NDArray[np.int16], y: _Line, x: _Line) -> list[_Floats]:
    """The four voxels around each new one, weighted by their nearness."""
    columns = ((x.before, x.share_before), (x.after, x.share_after))
    rows = ((y.before, y.share_before), (y.after, y.share_after))
    of_rows = [plane[row].astype(np.float64) for row, _ in rows]
    return [
        values[:, column] * share_x * share_y[:, np.newaxis]
        for column, share_x in columns
        for values, (_, share_y) in zip(of_rows, rows, strict=True)
    ]


# --- along the patient's axes -------------------------------------------------------------------


def _ends(volume: Volume) -> tuple[_Floats, _Floats]:
    """(3,) each: lowest and highest LPS coordinates of the centres of its voxels, mm."""
    ends = np.array(np.meshgrid(*[(0, n - 1) for n in volume.shape])).reshape(3, 8)
    corners = volume.affine[:3, :3] @ ends + volume.affine[:3, 3:]
    return corners.min(axis=1), corners.max(axis=1)


def _places(shape: tuple[int, ...], affine: _Floats, other: _Floats) -> Iterator[_Floats]:
    """For each slice of a grid (3, rows, columns): where its voxels lie on the other grid."""
    across = np.linalg.solve(other, affine)
    rows, columns = np.mgrid[: shape[1], : shape[2]]
    within = (
        across[:3, 1, None, None] * rows
        + across[:3, 2, None, None] * columns
        + across[:3, 3, None, None]
    )
    for k in range(shape[0]):
        yield within + across[:3, 0, None, None] * k


def _read(voxels: npt.NDArray[np.int16], places: _Floats, reach: _Floats) -> npt.NDArray[np.int16]:
    """(rows, columns): HU at `places`, linear; air where none of (3,) `reach` voxels is."""
    last = np.array(voxels.shape).reshape(3, 1, 1) - 1
    slack = reach.reshape(3, 1, 1) + 1e-6
    inside = ((places >= -slack) & (places <= last + slack)).all(axis=0)
    nearest = np.clip(places, 0, last)
    before = np.floor(nearest).astype(np.intp)
    after = np.minimum(before + 1, last)
    share = nearest - before
    hu = np.zeros(places.shape[1:])
    for corner in np.ndindex(2, 2, 2):
        chosen = [(before, after)[c][axis] for axis, c in enumerate(corner)]
        weights = [(1 - share, share)[c][axis] for axis, c in enumerate(corner)]
        hu += voxels[chosen[0], chosen[1], chosen[2]] * prod(weights, start=np.float64(1))
    return np.where(inside, np.rint(hu), _AIR_HU).astype(np.int16)
