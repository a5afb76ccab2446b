"""Where a network looks: overlapping tiles of one size that cover an image.

All of it is as nnU-Net does it (`sliding_window_prediction.py`), for the labels to be the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
import numpy.typing as npt

#: Width of the Gaussian as a share of the tile, and its height.
_SIGMA, _PEAK = 1 / 8, 10.0


def plan_starts(size: int, tile: int, step: float) -> tuple[int, ...]:
    """Where tiles start along one axis: evenly spread, at most `step` tiles apart.

    An image that is smaller than the tile lies in its middle, so the one tile starts before it,
    at a negative place.
    """
    if size <= tile:
        return (-((tile - size) // 2),)
    count = ceil((size - tile) / (tile * step)) + 1
    between = (size - tile) / (count - 1)
    return tuple(round(between * i) for i in range(count))


def gaussian(tile: Sequence[int]) -> npt.NDArray[np.float32]:
    """What each voxel of a tile counts: much in the middle, little at the border, never nothing.

    nnU-Net keeps it in half precision, in which the corners are 0 and then take the smallest
    value that is not.
    """
    along = [_bell(size) for size in tile]
    bell = along[0][:, None, None] * along[1][None, :, None] * along[2][None, None, :]
    half = (bell * (_PEAK / bell.max())).astype(np.float16)
    half[half == 0] = half[half != 0].min()
    weights: npt.NDArray[np.float32] = half.astype(np.float32)
    return weights


def _bell(size: int) -> npt.NDArray[np.float64]:
    """A Gaussian around the middle voxel; scipy cuts it at 4 sigma, which is the border."""
    from_middle = np.arange(size) - size // 2
    bell: npt.NDArray[np.float64] = np.exp(-0.5 * (from_middle / (size * _SIGMA)) ** 2)
    return bell
