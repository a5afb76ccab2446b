"""A volume on the grid that a model was trained on: axes along the patient, even spacing."""

from __future__ import annotations

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
    0.2 s, and no more memory than the result and a few of its slices.

    Raises:
        Unsuitable: the grid would have more than `max_voxels` ("too_large").
    """
    facing = face_patient(volume)
    shape = _zoomed_shape(facing, spacing_mm)
    _require_size(shape, max_voxels)
    lines = [_line(n, wanted) for n, wanted in zip(facing.voxels.shape, shape, strict=True)]
    voxels = np.empty(shape, np.int16)
    for k, plane in enumerate(_planes(facing.voxels, *lines)):
        voxels[k] = plane
    step = [line.step for line in lines]
    return Volume(voxels, facing.affine @ np.diag([*step, 1.0]), volume.modality)


def is_upright(volume: Volume) -> bool:
    """Are its axes square to each other, and near those of the patient?"""
    directions = face_patient(volume).affine[:3, :3]
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
    axes, reversed_axes = _orientation(volume.affine)
    to_old = np.zeros((4, 4))
    to_old[3, 3] = 1.0
    for new, old in enumerate(axes):
        to_old[old, new] = -1.0 if reversed_axes[new] else 1.0
        to_old[old, 3] = volume.voxels.shape[old] - 1 if reversed_axes[new] else 0
    turned = tuple(slice(None, None, -1 if back else 1) for back in reversed_axes)
    voxels = volume.voxels.transpose(axes)[turned]
    return Volume(voxels, volume.affine @ to_old, volume.modality)


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


def _zoomed_shape(volume: Volume, spacing_mm: tuple[float, float, float]) -> _Shape:
    # In single precision and multiplied in this order as upstream, whose spacing comes from a
    # NIfTI header: otherwise a tie would be rounded to another size.
    found = np.linalg.norm(volume.affine[:3, :3], axis=0).astype(np.float32).astype(np.float64)
    z, y, x = (
        max(1, round(n * float(mm / wanted)))
        for n, mm, wanted in zip(volume.voxels.shape, found, spacing_mm, strict=True)
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


def _planes(
    voxels: npt.NDArray[np.int16], z: _Line, y: _Line, x: _Line
) -> Iterator[npt.NDArray[np.int16]]:
    """The new slices, one after the other."""

    @lru_cache(maxsize=2)
    def corners(k: int) -> list[_Floats]:
        return _corners_of_plane(voxels[k], y, x)

    for k in range(len(z.before)):
        below, above = corners(int(z.before[k])), corners(int(z.after[k]))
        # Summed up in scipy's order: what is a whole number there must be one here, as what is a
        # little less is cut off.
        hu = np.zeros_like(below[0])
        for one, other in zip(below, above, strict=True):
            hu += one * z.share_before[k]
            hu += other * z.share_after[k]
        yield hu.astype(np.int16)


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
    ends = np.array(np.meshgrid(*[(0, n - 1) for n in volume.voxels.shape])).reshape(3, 8)
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
