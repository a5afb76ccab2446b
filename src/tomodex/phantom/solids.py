"""Simple solids in patient coordinates, of which the phantom's anatomy is built.

Each says which positions it holds and the box it lies in. Positions come as three arrays x, y, z
(LPS, mm) that broadcast against each other: on an upright grid x varies along one axis only, and
most of the work is done on vectors instead of on volumes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tomodex.instance import LPS

Coordinates = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Corner = npt.NDArray[np.float64]

UPRIGHT: tuple[LPS, LPS, LPS] = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


class Solid(Protocol):
    """A part of the patient's space."""

    def box(self) -> tuple[Corner, Corner]:
        """Its lowest and its highest LPS coordinates, or a little beyond."""

    def holds(self, x: Coordinates, y: Coordinates, z: Coordinates) -> Mask:
        """Which of these positions lie inside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ellipsoid:
    """An ellipsoid; with a higher power, a box with rounded edges."""

    center: LPS
    radii: LPS  #: along each of the axes
    axes: tuple[LPS, LPS, LPS] = UPRIGHT  #: unit vectors at right angles
    power: float = 2.0  #: 2 is an ellipsoid, infinity a box

    def box(self) -> tuple[Corner, Corner]:
        along = np.asarray(self.axes) * np.asarray(self.radii)[:, None]
        reach = np.abs(along).sum(axis=0)
        if self.power == 2:
            reach = np.sqrt((along**2).sum(axis=0))
        return self.center - reach, self.center + reach

    def holds(self, x: Coordinates, y: Coordinates, z: Coordinates) -> Mask:
        away = [p - np.float32(c) for p, c in zip((x, y, z), self.center, strict=True)]
        terms = [
            np.abs(_along(away, axis) / np.float32(radius)) ** np.float32(self.power)
            for axis, radius in zip(self.axes, self.radii, strict=True)
        ]
        inside: Mask = terms[2] + terms[1] + terms[0] <= 1
        return inside


def _along(away: Sequence[Coordinates], axis: LPS) -> Coordinates:
    """How far along an axis; what the axis is square to is left out, to keep arrays small."""
    parts = [np.float32(a) * p for a, p in zip(axis, away, strict=True) if a]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


@dataclass(frozen=True, slots=True, kw_only=True)
class Capsule:
    """A rod with round ends, thinner to one of them, and wider one way than another."""

    ends: tuple[LPS, LPS]
    radii: tuple[float, float]  #: at either end
    squash: LPS = (1.0, 1.0, 1.0)  #: how many radii it is thick along x, y, z

    def box(self) -> tuple[Corner, Corner]:
        reach = np.asarray(self.squash)[None] * np.asarray(self.radii)[:, None]
        ends = np.asarray(self.ends)
        return (ends - reach).min(axis=0), (ends + reach).max(axis=0)

    def holds(self, x: Coordinates, y: Coordinates, z: Coordinates) -> Mask:
        first, last = (np.asarray(end) / self.squash for end in self.ends)
        way = (last - first).astype(np.float32)
        away = [
            p / np.float32(s) - np.float32(o)
            for p, s, o in zip((x, y, z), self.squash, first, strict=True)
        ]
        share = np.zeros((1, 1, 1), np.float32)
        if way.any():
            share = np.clip(_along(away, tuple(way / (way @ way))), 0, 1)
        rest = [p - share * w if w else p for p, w in zip(away, way, strict=True)]
        thin, thick = self.radii
        inside: Mask = (
            rest[2] ** 2 + rest[1] ** 2 + rest[0] ** 2
            <= (np.float32(thin) + share * np.float32(thick - thin)) ** 2
        )
        return inside


def tube(
    points: Sequence[LPS], radii: Sequence[float], squash: LPS = (1.0, 1.0, 1.0)
) -> tuple[Capsule, ...]:
    """Capsules end to end along a line of points, with a radius at each."""
    pairs = zip(points, points[1:], radii, radii[1:], strict=False)
    return tuple(Capsule(ends=(a, b), radii=(r, s), squash=squash) for a, b, r, s in pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Axial ellipses on top of each other, such as the outline of a trunk."""

    levels: tuple[tuple[float, ...], ...]  #: (z, half width, half depth, centre x, centre y), up
    power: float = 2.0  #: higher is boxier

    def box(self) -> tuple[Corner, Corner]:
        z, wide, deep, x, y = np.asarray(self.levels).T
        low = np.array([(x - wide).min(), (y - deep).min(), z[0]])
        return low, np.array([(x + wide).max(), (y + deep).max(), z[-1]])

    def holds(self, x: Coordinates, y: Coordinates, z: Coordinates) -> Mask:
        levels = np.asarray(self.levels).T
        wide, deep, middle_x, middle_y = (
            np.interp(z, levels[0], column).astype(np.float32) for column in levels[1:]
        )
        across = np.abs((x - middle_x) / wide) ** np.float32(self.power)
        through = np.abs((y - middle_y) / deep) ** np.float32(self.power)
        between = (z >= levels[0][0]) & (z <= levels[0][-1])
        inside: Mask = (across + through <= 1) & between
        return inside

    def grown(self, mm: float) -> Stack:
        """The same with that much more on every side but top and bottom."""
        levels = tuple((z, w + mm, d + mm, x, y) for z, w, d, x, y in self.levels)
        return Stack(levels=levels, power=self.power)


@dataclass(frozen=True, slots=True, kw_only=True)
class Beyond:
    """The part of a solid on one side of a plane, such as a lobe above its fissure."""

    solid: Solid
    normal: LPS  #: points to the side that is kept
    offset_mm: float  #: of the plane: normal . position = offset

    def box(self) -> tuple[Corner, Corner]:
        return self.solid.box()

    def holds(self, x: Coordinates, y: Coordinates, z: Coordinates) -> Mask:
        kept: Mask = _along((x, y, z), self.normal) >= np.float32(self.offset_mm)
        return self.solid.holds(x, y, z) & kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Within:
    """The part of a solid that another holds too, such as the liver below the diaphragm."""

    solid: Solid
    other: Solid

    def box(self) -> tuple[Corner, Corner]:
        (low, high), (low_other, high_other) = self.solid.box(), self.other.box()
        return np.maximum(low, low_other), np.minimum(high, high_other)

    def holds(self, x: Coordinates, y: Coordinates, z: Coordinates) -> Mask:
        return self.solid.holds(x, y, z) & self.other.holds(x, y, z)


def plate_axes(along: LPS, up: LPS) -> tuple[LPS, LPS, LPS]:
    """Axes for a flat ellipsoid: `along` it, then up (made square to it), then through it."""
    first = np.asarray(along) / np.linalg.norm(along)
    second = np.asarray(up) - first * (first @ np.asarray(up))
    second = second / np.linalg.norm(second)
    third = np.cross(first, second)
    return _lps(first), _lps(second), _lps(third)


def _lps(vector: npt.NDArray[np.float64]) -> LPS:
    return float(vector[0]), float(vector[1]), float(vector[2])
