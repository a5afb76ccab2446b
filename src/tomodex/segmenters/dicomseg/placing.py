"""Where the pixels of a SEG's frames fall on the grid of a volume, by geometry alone.

A frame that coincides with a slice of the volume is copied. Any other gives its values to all
voxels whose centres lie nearer to it than to the next frame: nearest neighbour, in any direction.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from tomodex.errors import Unsuitable
from tomodex.segmenters.dicomseg.seg import Affine, Seg, SegFrame
from tomodex.volume import Volume

#: A frame coincides with a slice if no pixel is off by more, in voxels; as much may the distance
#: of two frames exceed that of two slices.
COINCIDES_WITHIN = 0.01

#: Frames at positions that differ by less lie in one plane, mm: some writers round to 2 decimals.
ONE_PLANE_MM = 0.01

#: Gaps up to this many times the usual one are gaps between neighbours; where one is larger,
#: frames are left out because they are empty.
_NEIGHBOURS = 1.5

#: A voxel half-way between two frames belongs to one of them, whatever rounding says: both ends
#: of a frame's reach are moved by this share of it.
_TIE = 1e-3

#: So many voxels are compared with a frame at a time; their indices and places take 60 MB.
_CHUNK = 2**20

#: Voxels that the frames of one SEG may be compared with, as a multiple of the volume's: more is
#: not meant. Frames that do not overlap take 1 for each structure that fills the image.
_MAX_WORK = 200

Labels = npt.NDArray[np.uint8]
_Ints = npt.NDArray[np.int64]
_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """Labels for some voxels of a volume."""

    where: tuple[Any, ...]  #: index of (slices, rows, columns)
    labels: Labels  #: of the shape that `where` selects; 0 says nothing


class Placer:
    """Puts the frames of one SEG onto the grid of one volume."""

    def __init__(self, seg: Seg, volume: Volume) -> None:
        self._affine = volume.affine
        self._shape = volume.shape
        self._work_left = _MAX_WORK * prod(volume.shape)
        planes = np.stack([frame.affine for frame in seg.frames])
        slices_mm = np.abs(planes[:, :3, 0] @ volume.affine[:3, 0])
        corners = _find_corners(planes, seg, volume)
        all_coincide = not np.isnan(corners).any()
        apart_mm = _find_spacing(seg, planes)
        # Where nobody says how far frames are apart, those that lie on slices are slices, with
        # empty ones left out between them. One that stands for several slices is no copy of one.
        says = any(frame.between_mm for frame in seg.frames)
        if apart_mm and (says or not all_coincide):
            corners[apart_mm > slices_mm * (1 + COINCIDES_WITHIN)] = np.nan
        self._corners = corners
        usual = apart_mm or seg.frames[0].thickness_mm or float(slices_mm[0])
        self._reaches = _find_reaches(planes, usual)

    def place(self, frame: SegFrame, labels: Labels) -> Iterator[Placed]:
        """What the (rows, columns) labels of a frame give to the volume; background gives nothing.

        Raises:
            Unsuitable: frames reach over more than can be meant (too_large).
        """
        inside = (_span(labels, axis=1), _span(labels, axis=0))
        if not len(inside[0]):
            return iter(())
        corner = self._corners[frame.index]
        if np.isnan(corner[0]):
            return self._resample(frame, labels, inside)
        return self._copy(corner.astype(np.int64), labels, inside)

    def _copy(self, corner: _Ints, labels: Labels, inside: tuple[range, range]) -> Iterator[Placed]:
        k, row, column = corner.tolist()
        slices, height, width = self._shape
        rows = range(max(inside[0].start + row, 0), min(inside[0].stop + row, height))
        columns = range(max(inside[1].start + column, 0), min(inside[1].stop + column, width))
        if 0 <= k < slices and rows and columns:
            part = labels[
                rows.start - row : rows.stop - row,
                columns.start - column : columns.stop - column,
            ]
            where = (k, slice(rows.start, rows.stop), slice(columns.start, columns.stop))
            yield Placed(where, part)

    def _resample(
        self, frame: SegFrame, labels: Labels, inside: tuple[range, range]
    ) -> Iterator[Placed]:
        # (slice, row, column, 1) of the volume -> (mm along the normal, row, column, 1)
        to_frame = np.linalg.inv(frame.affine) @ self._affine
        reach = self._reaches[frame.index]
        box = _find_box(np.linalg.inv(self._affine) @ frame.affine, reach, inside, self._shape)
        for voxels in self._find_near(to_frame[0], reach, box):
            mm, row, column = to_frame[:3, :3] @ voxels + to_frame[:3, 3:]
            row, column = np.floor(row + 0.5), np.floor(column + 0.5)
            near = (reach[0] <= mm) & (mm < reach[1])
            near &= (inside[0].start <= row) & (row < inside[0].stop)
            near &= (inside[1].start <= column) & (column < inside[1].stop)
            found = labels[row[near].astype(np.int64), column[near].astype(np.int64)]
            yield Placed(tuple(voxels[:, near][:, found > 0]), found[found > 0])

    def _find_near(
        self, distance: _Floats, reach: _Floats, box: tuple[range, range, range]
    ) -> Iterator[_Ints]:
        """(3, voxels) a time: all of `box` that lie within reach, and few others.

        `distance`, (4,), makes mm along the normal of a frame from (slice, row, column, 1).
        """
        lines = np.stack(np.meshgrid(box[0], box[1], indexing="ij")).reshape(2, -1)
        offset = distance[:2] @ lines + distance[3]
        first, count = _find_stretches(offset, distance[2], reach, box[2])
        self._work_left -= count.size + int(count.sum())
        if self._work_left < 0:
            raise Unsuitable("too_large", "its frames reach over more than can be meant")
        for some in _split(count):
            n = count[some]
            along = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
            yield np.vstack([np.repeat(lines[:, some], n, 1), along + np.repeat(first[some], n)])


def _span(labels: Labels, axis: int) -> range:
    """From the first line along `axis` that is not empty to the last."""
    where = np.flatnonzero(labels.any(axis=axis))
    return range(int(where[0]), int(where[-1]) + 1) if len(where) else range(0)


# --- frames and slices --------------------------------------------------------------------------


def _find_corners(planes: Affine, seg: Seg, volume: Volume) -> _Floats:
    """(frames, 3): the voxel that the first pixel of each frame is; NaN where it is none.

    `planes`, (frames, 4, 4), are the affines of the frames. A frame is judged by its corners, in
    between it cannot be farther off.
    """
    ends = ((0, i, j) for i in (0, seg.rows - 1) for j in (0, seg.columns - 1))
    pixels = np.array([[*end, 1] for end in ends], np.float64)
    # (frames, corners, 3), in voxels
    lie_at = (np.linalg.inv(volume.affine) @ planes @ pixels.T)[:, :3].transpose(0, 2, 1)
    first = np.round(lie_at[:, 0])
    off = np.abs(lie_at - (first[:, np.newaxis] + pixels[:, :3])).max(axis=(1, 2))
    first[off > COINCIDES_WITHIN] = np.nan
    return first


def _find_spacing(seg: Seg, planes: Affine) -> float | None:
    """How far frames are apart where none is left out, mm; None where nothing tells.

    What the header says may be too much (then it is mostly a slice thickness), and so may what the
    positions say (frames that are left out), but neither is too little.
    """
    said = [frame.between_mm for frame in seg.frames if frame.between_mm]
    gaps = np.diff(np.sort(_along_normal(planes))) if _are_parallel(planes) else np.zeros(0)
    found = gaps[gaps > ONE_PLANE_MM].tolist()
    return min(said + found, default=None)


def _find_reaches(planes: Affine, usual_mm: float) -> _Floats:
    """(frames, 2): from where to where along its normal each frame counts, mm.

    Half-way to its neighbours, and half of the usual distance where it has none.
    """
    gaps = np.full((len(planes), 2), usual_mm)
    if _are_parallel(planes):
        along = _along_normal(planes)
        ordered = np.sort(along)
        before = np.searchsorted(ordered, along - ONE_PLANE_MM, side="right") - 1
        after = np.searchsorted(ordered, along + ONE_PLANE_MM, side="left")
        has_before, has_after = before >= 0, after < len(ordered)
        gaps[has_before, 0] = (along - ordered[before])[has_before]
        gaps[has_after, 1] = (ordered[after % len(ordered)] - along)[has_after]
        gaps[gaps > _NEIGHBOURS * usual_mm] = usual_mm
    return gaps / 2 * (-1, 1) - _TIE * usual_mm


def _are_parallel(planes: Affine) -> bool:
    return bool(np.allclose(planes[:, :3, 0], planes[0, :3, 0], rtol=0.0, atol=1e-3))


def _along_normal(planes: Affine) -> _Floats:
    """(frames,), mm along the normal of the first."""
    return np.asarray(planes[:, :3, 3] @ planes[0, :3, 0])


# --- voxels near a frame ------------------------------------------------------------------------


def _find_box(
    to_volume: Affine,
    reach: _Floats,
    inside: tuple[range, range],
    shape: tuple[int, ...],
) -> tuple[range, range, range]:
    """Slices, rows and columns of the volume that the filled part of a frame can reach.

    `to_volume` makes (slice, row, column, 1) from (mm along the normal, row, column, 1).
    """
    ends = [tuple(reach), *((axis.start - 0.5, axis.stop - 0.5) for axis in inside)]
    corners = np.array(np.meshgrid(*ends)).reshape(3, 8)
    voxels = to_volume[:3, :3] @ corners + to_volume[:3, 3:]
    low = np.clip(np.floor(voxels.min(axis=1)), 0, shape).astype(int).tolist()
    high = np.clip(np.ceil(voxels.max(axis=1)) + 1, 0, shape).astype(int).tolist()
    return range(low[0], high[0]), range(low[1], high[1]), range(low[2], high[2])


def _find_stretches(
    offset: _Floats, step: float, reach: _Floats, columns: range
) -> tuple[_Ints, _Ints]:
    """For each line of voxels its first column within reach, and how many follow or are it.

    A line has the distance `offset` + `step` x column. A column too many at either end does not
    matter, one too few does.
    """
    if abs(step) * len(columns) < _TIE * (reach[1] - reach[0]):
        # As good as parallel: all or nothing.
        middle = offset + step * (columns.start + len(columns) / 2)
        within = (reach[0] * 2 <= middle) & (middle < reach[1] * 2)
        return np.full(len(offset), columns.start), np.where(within, len(columns), 0)
    ends = (reach[:, np.newaxis] - offset) / step
    low = np.clip(np.floor(ends.min(axis=0)), columns.start, columns.stop)
    high = np.clip(np.ceil(ends.max(axis=0)) + 1, columns.start, columns.stop)
    return low.astype(np.int64), (high - low).astype(np.int64)


def _split(count: _Ints) -> Iterator[slice]:
    """Lines in parts of at most `_CHUNK` voxels; a single line has less by far."""
    ends = np.cumsum(count)
    start = 0
    while start < len(count):
        done = ends[start - 1] if start else 0
        stop = int(np.searchsorted(ends, done + _CHUNK, side="right"))
        yield slice(start, max(stop, start + 1))
        start = max(stop, start + 1)
