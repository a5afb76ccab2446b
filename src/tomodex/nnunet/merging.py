"""What overlapping tiles say of each voxel, added up."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from tomodex.nnunet.architecture import Three

Features = npt.NDArray[np.float32]  #: (features, z, y, x)

#: Slices that are added at once: they fit into the cache of a core.
_SLICES = 4


class OpenSlices:
    """The sums for slices that a tile can still reach.

    Behind the features is how much weight there is; the bias of the last layer counts by it.
    """

    def __init__(self, features: int, shape: Three, pool: ThreadPoolExecutor) -> None:
        self._sums = np.zeros((features + 1, *shape), np.float32)
        self._pool = pool

    def add(self, features: Features, weights: npt.NDArray[np.float32], at: Three) -> None:
        """Add what a tile says, `weights` (z, y, x) counting its voxels; `at` is its corner."""
        z, y, x = (slice(k, k + size) for k, size in zip(at, weights.shape, strict=True))
        place = self._sums[:, z, y, x]
        place[-1] += weights
        list(self._pool.map(_add, place[:-1], features, [weights] * len(features)))

    def first(self, count: int) -> npt.NDArray[np.float32]:
        """The sums (features + 1, voxels) of the first `count` slices."""
        rows, columns = self._sums.shape[2:]
        return self._sums.reshape(len(self._sums), -1)[:, : count * rows * columns]

    def move(self, count: int) -> None:
        """Let go of the first `count` slices; those behind move up, and empty ones follow."""
        kept = self._sums.shape[1] - count
        for sums in self._sums:
            # One slice after the other, as source and target overlap.
            for k in range(kept):
                sums[k] = sums[k + count]
            sums[max(kept, 0) :] = 0


def sums_bytes(features: int, shape: Three) -> int:
    """What `OpenSlices` take."""
    return 4 * (features + 1) * shape[0] * shape[1] * shape[2]


def _add(sums: Features, features: Features, weights: npt.NDArray[np.float32]) -> None:
    for start in range(0, len(weights), _SLICES):
        some = slice(start, start + _SLICES)
        sums[some] += features[some] * weights[some]
