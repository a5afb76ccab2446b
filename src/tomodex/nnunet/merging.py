"""What overlapping tiles say of each voxel, added up in the memory of this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tomodex.nnunet.architecture import Three
from tomodex.nnunet.runtime import Labels, TileWeights, open_size
from tomodex.nnunet.scaled import ScaledImage, overlap

Features = npt.NDArray[np.float32]  #: (z, y, x, features)


class Network(Protocol):
    """A network that is run on one patch after the other."""

    def features(self, patch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(*patch, features) of a normalised (channels, *patch), valid until the next call."""

    def labels(
        self, sums: npt.NDArray[np.float32], weights: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.uint8]:
        """The label (voxels,) with the largest logit.

        `sums` (voxels, features) are features times weights, and `weights` (voxels,) their sum.
        """


@contextmanager
def open_slices_here(
    network: Network, image: ScaledImage, weights: TileWeights, features: int, threads: int
) -> Iterator[SlicesHere]:
    """Slices whose sums are kept by numpy and added up in so many threads."""
    with ThreadPoolExecutor(threads) as pool:
        yield SlicesHere(network, image, weights, features, pool)


class SlicesHere:
    """The sums for slices that a tile can still reach, and how much weight is in them."""

    def __init__(
        self,
        network: Network,
        image: ScaledImage,
        weights: TileWeights,
        features: int,
        pool: ThreadPoolExecutor,
    ) -> None:
        self._network, self._image, self._tile_weights, self._pool = network, image, weights, pool
        z, y, x = weights.shape
        self._tile = (z, y, x)
        size = open_size(image.size, self._tile)
        self._sums = np.zeros((*size, features), np.float32)
        self._weights = np.zeros(size, np.float32)
        self._first = 0

    def add(self, corners: Sequence[Three]) -> Iterator[int]:
        """Tile by tile."""
        for corner in corners:
            self._add(corner)
            yield 1

    def close(self, count: int) -> Labels:
        """The labels of the first slices; those behind move up, and empty ones follow."""
        sums = self._sums[:count].reshape(-1, self._sums.shape[-1])
        labels = self._network.labels(sums, self._weights[:count].ravel())
        self._move(count)
        return labels.reshape(count, *self._weights.shape[1:])

    def _add(self, corner: Three) -> None:
        (z, y, x), inner = overlap(corner, self._tile, self._image.size)
        features = self._network.features(self._image.cut(corner, self._tile))[inner]
        weights = self._tile_weights[inner]
        z = slice(z.start - self._first, z.stop - self._first)
        self._weights[z, y, x] += weights
        # Slice by slice, as one fits into the cache of a core.
        list(self._pool.map(_add, self._sums[z, y, x], features, weights))

    def _move(self, count: int) -> None:
        self._first += count
        for slices in (self._sums, self._weights):
            kept = len(slices) - count
            # One after the other, as they overlap where they come from and go to.
            for k in range(kept):
                slices[k] = slices[k + count]
            slices[kept:] = 0


def _add(sums: Features, features: Features, weights: npt.NDArray[np.float32]) -> None:
    """Of one slice."""
    sums += features * weights[..., None]
