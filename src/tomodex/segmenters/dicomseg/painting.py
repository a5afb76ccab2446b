"""Structures painted into as few label maps as their overlaps allow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tomodex.segmenters.dicomseg.placing import Placed

#: Label maps at most. Each takes a byte a voxel, 0.5 GB for 2000 slices; the tissue of a body, the
#: organs in it, their parts and a second opinion of them take four.
MAX_LAYERS = 4

#: Labels that a uint8 has besides background.
MAX_LABELS = 255

#: Gives what structures cover, labelled from 1 in the order of their names; anew with each call.
Paint = Callable[[], Iterable[Placed]]


@dataclass(slots=True, eq=False)
class _Layer:
    labels: npt.NDArray[np.uint8]  # (slices, rows, columns)
    names: dict[int, str] = field(default_factory=dict)


class Canvas:
    """Label maps on the grid of one volume; structures lie in the first that has room for them."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._layers: list[_Layer] = []

    @property
    def layers(self) -> tuple[npt.NDArray[np.uint8], ...]:
        return tuple(layer.labels for layer in self._layers)

    @property
    def names(self) -> tuple[Mapping[int, str], ...]:
        return tuple(layer.names for layer in self._layers)

    def add(self, names: Sequence[str], paint: Paint) -> bool:
        """Paint structures that do not overlap each other; say whether there was room for them.

        Those without a voxel get no name. If `paint` raises, nothing of it stays.
        """
        if any(_try(layer, names, paint) for layer in self._layers):
            return True
        if len(self._layers) == MAX_LAYERS:
            return False
        layer = _Layer(np.zeros(self._shape, np.uint8))
        fits = _try(layer, names, paint)
        if layer.names:
            self._layers.append(layer)
        return fits


def _try(layer: _Layer, names: Sequence[str], paint: Paint) -> bool:
    """Paint into one layer; if it fails or overlaps what is there, leave the layer as it was."""
    base = max(layer.names, default=0)
    if base + len(names) > MAX_LABELS:
        return False
    seen = np.zeros(MAX_LABELS + 1, np.bool_)
    done = False
    try:
        done = all(_paint_one(layer.labels, placed, base, seen) for placed in paint())
    finally:
        if not done:
            _wipe(layer.labels, base)
    if done:
        painted = {k: name for k, name in enumerate(names, start=1) if seen[k]}
        layer.names.update({base + k: name for k, name in painted.items()})
    return done


def _paint_one(
    labels: npt.NDArray[np.uint8], placed: Placed, base: int, seen: npt.NDArray[np.bool_]
) -> bool:
    """Paint some voxels with labels above `base`; False if one has a label up to it already."""
    there, filled = labels[placed.where], placed.labels > 0
    if (filled & (there > 0) & (there <= base)).any():
        return False
    labels[placed.where] = np.where(filled, placed.labels + np.uint8(base), there)
    seen[placed.labels] = True
    return True


def _wipe(labels: npt.NDArray[np.uint8], base: int) -> None:
    """Make background of all labels above `base`, slice by slice to save memory."""
    for of_slice in labels:
        of_slice[of_slice > base] = 0
