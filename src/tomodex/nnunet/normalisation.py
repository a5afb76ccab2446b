"""How the values of an image are made what a network was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, sqrt
from typing import Literal

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.float32]  #: (z, y, x) of one channel
Mask = npt.NDArray[np.bool_]  #: (z, y, x)

Scheme = Literal[
    "CTNormalization",
    "ZScoreNormalization",
    "NoNormalization",
    "RescaleTo01Normalization",
    "RGBTo01Normalization",
]
#: nnU-Net's names of what can be done here.
SCHEMES: Mapping[str, Scheme] = {
    "CTNormalization": "CTNormalization",
    "ZScoreNormalization": "ZScoreNormalization",
    "NoNormalization": "NoNormalization",
    "RescaleTo01Normalization": "RescaleTo01Normalization",
    "RGBTo01Normalization": "RGBTo01Normalization",
}
#: nnU-Net divides by nothing smaller.
_SMALLEST = 1e-8


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalisation:
    """A scheme, with what it knows from training (CTNormalization alone)."""

    scheme: Scheme
    masked: bool = False  #: only inside what is not 0; the rest becomes 0
    low: float = -inf  #: HU below are raised to it
    high: float = inf  #: HU above are lowered to it
    mean: float = 0.0
    std: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """Every value becomes (value cut to low and high, less shift) / scale."""

    low: float = -inf
    high: float = inf
    shift: float = 0.0
    scale: float = 1.0

    def apply(self, values: Image) -> Image:
        """A new array, in single precision as nnU-Net does it."""
        scaled = np.clip(values, np.float32(self.low), np.float32(self.high))
        scaled -= np.float32(self.shift)
        scaled /= np.float32(self.scale)
        return scaled


def fit_scaling(normalisation: Normalisation, image: Image, mask: Mask | None) -> Scaling:
    """What `normalisation` does to every value of `image`.

    Where there is a `mask`, a z-score counts only what is inside of it.
    """
    match normalisation.scheme:
        case "CTNormalization":
            return Scaling(
                low=normalisation.low,
                high=normalisation.high,
                shift=normalisation.mean,
                scale=max(normalisation.std, _SMALLEST),
            )
        case "ZScoreNormalization":
            mean, std = _moments(image, mask)
            return Scaling(shift=mean, scale=max(std, _SMALLEST))
        case "RescaleTo01Normalization":
            lowest = float(image.min())
            return Scaling(shift=lowest, scale=max(float(image.max()) - lowest, _SMALLEST))
        case "RGBTo01Normalization":
            return Scaling(scale=255.0)
        case "NoNormalization":
            return Scaling()


def _moments(image: Image, mask: Mask | None) -> tuple[float, float]:
    """Mean and standard deviation, slice by slice: no copy of the image is made."""
    slices = [image[k] if mask is None else image[k][mask[k]] for k in range(len(image))]
    count = max(sum(plane.size for plane in slices), 1)
    mean = sum(float(plane.sum(dtype=np.float64)) for plane in slices) / count
    squares = sum(float(np.square(plane - mean, dtype=np.float64).sum()) for plane in slices)
    return mean, sqrt(squares / count)
