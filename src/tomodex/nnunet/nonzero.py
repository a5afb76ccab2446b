"""Where an image is not 0: nnU-Net takes the rest for "nothing was scanned here"."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.float32]  #: (channels, z, y, x)
Mask = npt.NDArray[np.bool_]  #: (z, y, x)
Box = tuple[slice, slice, slice]


def find_nonzero_box(image: Image) -> Box:
    """The smallest box around all that is not 0 in some channel; all of it if everything is 0."""
    z = np.array([image[:, k].any() for k in range(image.shape[1])])
    plane = np.zeros(image.shape[2:], np.bool_)
    for channel, k in np.ndindex(image.shape[:2]):
        plane |= image[channel, k] != 0
    return _extent(z), _extent(np.any(plane, axis=1)), _extent(np.any(plane, axis=0))


def find_nonzero(image: Image) -> Mask:
    """What is not 0 in some channel, and the holes in it."""
    outside = np.zeros(image.shape[1:], np.bool_)
    empty = np.ones(image.shape[1:], np.bool_)
    for channel in image:
        empty &= channel == 0
    return ~_flood(outside, empty)


def _extent(there: npt.NDArray[np.bool_]) -> slice:
    places = np.flatnonzero(np.asarray(there))
    return slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, len(there))


def _flood(wet: Mask, empty: Mask) -> Mask:
    """What of `empty` can be reached from the border of the image, face by face."""
    for axis in range(3):
        for end in (0, -1):
            face = np.moveaxis(wet, axis, 0)[end]
            face |= np.moveaxis(empty, axis, 0)[end]
    before = -1
    while before != (before := int(np.count_nonzero(wet))):
        for axis in range(3):
            _sweep(np.moveaxis(wet, axis, 0), np.moveaxis(empty, axis, 0))
            _sweep(np.moveaxis(wet, axis, 0)[::-1], np.moveaxis(empty, axis, 0)[::-1])
    return wet


def _sweep(wet: Mask, empty: Mask) -> None:
    """Carry what is wet along the first axis, through all that is empty."""
    for k in range(1, len(wet)):
        wet[k] |= wet[k - 1] & empty[k]
