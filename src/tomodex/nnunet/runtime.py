"""What runs a network on an image, tile by tile, and adds up what the tiles say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tomodex.nnunet.architecture import Three
from tomodex.nnunet.scaled import ScaledImage

Labels = npt.NDArray[np.uint8]  #: (z, y, x), 0 is background
TileWeights = npt.NDArray[np.float32]  #: of the voxels of a tile, (z, y, x)


class OpenSlices(Protocol):
    """The slices that tiles can still reach, with all that was said of them.

    They begin with the first slice of the image and move on as they are closed.
    """

    def add(self, corners: Sequence[Three]) -> Iterator[int]:
        """Add what the network says of tiles; yields how many more are done, as they are done.

        All begin at the same slice: the first open one, or before the image if it is the first.
        """

    def close(self, count: int) -> Labels:
        """The labels (count, rows, columns) of the first `count` open slices, which are let go."""


class Runtime(Protocol):
    """Keeps a network ready. One image at a time: it is not for several threads."""

    #: What may change the labels: runtime, version, precision.
    description: Mapping[str, str]

    def open_slices(
        self, image: ScaledImage, weights: TileWeights, features: int
    ) -> AbstractContextManager[OpenSlices]:
        """Room for the sums of so many features a voxel, each tile counting by `weights`."""


def open_size(image: Three, tile: Three) -> Three:
    """How many slices, rows and columns are open at once: what one row of tiles reaches."""
    return min(image[0], tile[0]), image[1], image[2]


def sums_bytes(features: int, size: Three) -> int:
    """What the sums of features and weights take, in single precision."""
    return 4 * (features + 1) * size[0] * size[1] * size[2]
