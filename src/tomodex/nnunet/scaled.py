"""An image as a network takes it: normalised, in tiles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tomodex.nnunet.architecture import Three
from tomodex.nnunet.nonzero import Box, Mask
from tomodex.nnunet.normalisation import Scaling

Image = npt.NDArray[np.float32]  #: (channels, z, y, x)


@dataclass(frozen=True, slots=True, eq=False)
class ScaledImage:
    """An image that is scaled only where it is cut: no copy is kept."""

    image: Image  #: in the network's axes, not normalised
    scalings: tuple[Scaling, ...]  #: of each channel
    masks: tuple[Mask | None, ...]  #: of each channel; outside of it everything becomes 0

    @property
    def size(self) -> Three:
        """Voxels along (z, y, x)."""
        slices, rows, columns = self.image.shape[1:]
        return slices, rows, columns

    def cut(self, corner: Three, tile: Three) -> Image:
        """The tile at `corner`, normalised, with 0 where it lies beyond the image."""
        there, inner = overlap(corner, tile, self.size)
        patch = np.zeros((len(self.image), *tile), np.float32)
        for channel, (scaling, mask) in enumerate(zip(self.scalings, self.masks, strict=True)):
            values = scaling.apply(self.image[channel][there])
            patch[channel][inner] = values if mask is None else values * mask[there]
        return patch


def overlap(corner: Three, tile: Three, size: Three) -> tuple[Box, Box]:
    """Where a tile lies on an image: in the image's voxels, and in its own."""
    lows = [max(k, 0) for k in corner]
    highs = [min(k + t, n) for k, t, n in zip(corner, tile, size, strict=True)]
    z, y, x = (slice(low, high) for low, high in zip(lows, highs, strict=True))
    c, b, a = corner
    inner = (
        slice(z.start - c, z.stop - c),
        slice(y.start - b, y.stop - b),
        slice(x.start - a, x.stop - a),
    )
    return (z, y, x), inner
