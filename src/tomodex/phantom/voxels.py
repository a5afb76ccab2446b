"""A body seen by a scanner: labels and HU on any grid of voxels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
import numpy.typing as npt

from tomodex.phantom.anatomy import Body
from tomodex.phantom.plan import Paint
from tomodex.phantom.solids import Coordinates, Solid

#: What a 12 bit scanner with an intercept of -1024 can store.
LOWEST_HU, HIGHEST_HU = -1024, 3071
#: The body bends from side to side and back once in this length, mm.
SWAY_LENGTH_MM = 900.0
#: Voxels that are painted at a time: bounds the memory beside the result.
SLAB_VOXELS = 1_000_000

_AIR = Paint(solids=(), label=0, hu=-1000, texture_hu=2)

Affine = npt.NDArray[np.float64]
Labels = npt.NDArray[np.uint8]
HU = npt.NDArray[np.int16]
Box = npt.NDArray[np.int64]


def voxelize(
    body: Body, affine: Affine, shape: tuple[int, int, int], noise_hu: float = 12.0
) -> tuple[Labels, HU]:
    """Labels and HU of a body, each (slices, rows, columns), as found at the voxels' centres.

    `affine` (4, 4) takes (slice, row, column, 1) to LPS mm; any will do, tilted and oblique too.
    """
    labels, hu = np.empty(shape, np.uint8), np.empty(shape, np.int16)
    paints = (_AIR, *body.paints)
    parts = _parts(body, paints, affine, shape)
    random = np.random.default_rng([body.seed, 12])
    for first, last in _slabs(shape):
        painted = np.zeros((last - first, *shape[1:]), np.uint16)
        for number, solid, box in parts:
            _paint(painted, first, body, affine, number, solid, box)
        labels[first:last] = np.array([p.label for p in paints], np.uint8)[painted]
        hu[first:last] = _scan(painted, paints, noise_hu, random)
    return labels, hu


def _slabs(shape: tuple[int, int, int]) -> Iterator[tuple[int, int]]:
    """First slice and the one after the last of each slab."""
    thick = max(1, SLAB_VOXELS // max(1, shape[1] * shape[2]))
    for first in range(0, shape[0], thick):
        yield first, min(first + thick, shape[0])


def _parts(
    body: Body, paints: Sequence[Paint], affine: Affine, shape: tuple[int, int, int]
) -> list[tuple[int, Solid, Box]]:
    """Every solid with its paint's number and the box of voxels it may touch, in order."""
    inverse = np.linalg.inv(affine).astype(np.float64)
    parts = []
    for number, paint in enumerate(paints):
        for solid in paint.solids:
            box = _voxel_box(body, solid, inverse, shape)
            if (box[1] > box[0]).all():
                parts.append((number, solid, box))
    return parts


def _voxel_box(body: Body, solid: Solid, inverse: Affine, shape: tuple[int, int, int]) -> Box:
    """Voxels (first, after the last) by axis that hold the corners of a solid's box."""
    margin = np.abs([*body.sway_mm, 0.0])
    low, high = (np.asarray(corner) * body.scale for corner in solid.box())
    corners = np.array([(*c, 1.0) for c in product(*zip(low - margin, high + margin, strict=True))])
    indices = (corners @ inverse.T)[:, :3]
    box = np.stack([np.floor(indices.min(axis=0)), np.ceil(indices.max(axis=0)) + 1])
    clipped: Box = np.clip(box, 0, shape).astype(np.int64)
    return clipped


def _paint(
    painted: npt.NDArray[np.uint16],
    first: int,
    body: Body,
    affine: Affine,
    number: int,
    solid: Solid,
    box: Box,
) -> None:
    """Lay one solid over a slab that begins at slice `first`."""
    low, high = box.copy()
    low[0], high[0] = max(low[0], first), min(high[0], first + len(painted))
    if low[0] >= high[0]:
        return
    window = painted[low[0] - first : high[0] - first, low[1] : high[1], low[2] : high[2]]
    inside = solid.holds(*_positions(body, affine, low, high))
    np.copyto(window, np.uint16(number), where=inside)


def _positions(body: Body, affine: Affine, low: Box, high: Box) -> tuple[Coordinates, ...]:
    """Reference x, y, z of the voxels from `low` up to `high`; each varies only where it must."""
    indices = np.ogrid[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    x, y, z = (
        sum((row[m] * indices[m] for m in range(3) if row[m]), start=np.full((1, 1, 1), row[3]))
        for row in affine[:3]
    )
    bend = np.sin(z * (2 * np.pi / SWAY_LENGTH_MM))
    bent = x - body.sway_mm[0] * bend, y - body.sway_mm[1] * bend, z
    return tuple((p / s).astype(np.float32) for p, s in zip(bent, body.scale, strict=True))


def _scan(
    painted: npt.NDArray[np.uint16],
    paints: Sequence[Paint],
    noise_hu: float,
    random: np.random.Generator,
) -> HU:
    """Mean HU of what was painted, with its texture and the scanner's noise."""
    mean = np.array([p.hu for p in paints], np.float32)[painted]
    spread = np.hypot([p.texture_hu for p in paints], noise_hu).astype(np.float32)[painted]
    noise = random.standard_normal(painted.shape, np.float32)
    scanned: HU = np.clip(np.rint(mean + spread * noise), LOWEST_HU, HIGHEST_HU).astype(np.int16)
    return scanned
