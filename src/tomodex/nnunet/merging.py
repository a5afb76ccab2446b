"""What overlapping tiles say of each voxel, added up."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from tomodex.nnunet.architecture import Three

Features = npt.NDArray[np.float32]  #: (z, y, x, features)
Weights = npt.NDArray[np.float32]  #: (z, y, x)


class OpenSlices:
    """The sums for slices that a tile can still reach, and how much weight is in them."""

    def __init__(self, features: int, shape: Three, pool: ThreadPoolExecutor) -> None:
        self._sums = np.zeros((*shape, features), np.float32)
        self._weights = np.zeros(shape, np.float32)
        self._pool = pool

    def add(self, features: Features, weights: Weights, at: Three) -> None:
        """Add what a tile says, `weights` counting its voxels; `at` is its corner."""
        z, y, x = (slice(k, k + size) for k, size in zip(at, weights.shape, strict=True))
        self._weights[z, y, x] += weights
        # Slice by slice, as one fits into the cache of a core.
        list(self._pool.map(_add, self._sums[z, y, x], features, weights))

    def first(self, count: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Sums (voxels, features) and weights (voxels,) of the first `count` slices."""
        sums = self._sums[:count].reshape(-1, self._sums.shape[-1])
        return sums, self._weights[:count].ravel()

    def move(self, count: int) -> None:
        """Let go of the first `count` slices; those behind move up, and empty ones follow."""
        for slices in (self._sums, self._weights):
            kept = len(slices) - count
            # One after the other, as they overlap where they come from and go to.
            for k in range(kept):
                slices[k] = slices[k + count]
            slices[kept:] = 0


def sums_bytes(features: int, shape: Three) -> int:
    """What `OpenSlices` take."""
    return 4 * (features + 1) * shape[0] * shape[1] * shape[2]


def _add(sums: Features, features: Features, weights: Weights) -> None:
    """Of one slice."""
    sums += features * weights[..., None]
