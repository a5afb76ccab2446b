"""What runs a network on a patch of an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt


class Runtime(Protocol):
    """Keeps a network ready. One patch at a time: it is not for several threads."""

    description: Mapping[str, str]  #: what may change the labels: runtime, version, precision

    def features(self, patch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(*patch, features) of a normalised (channels, *patch), valid until the next call."""

    def labels(
        self, sums: npt.NDArray[np.float32], weights: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.uint8]:
        """The label (voxels,) with the largest logit.

        `sums` (voxels, features) are features times weights, and `weights` (voxels,) their sum.
        """
