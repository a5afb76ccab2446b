"""Labels for every voxel of an image, tile by tile.

Tiles overlap, and what they say of a voxel is added up, with more weight for the tile in whose
middle it lies. Sums are kept only for the slices that a coming tile can still reach, so memory
does not grow with the length of the image.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise, product
from math import prod

import numpy as np

from tomodex.errors import Unsuitable
from tomodex.nnunet.model import ModelFolder
from tomodex.nnunet.nonzero import find_nonzero, find_nonzero_box
from tomodex.nnunet.normalisation import fit_scaling
from tomodex.nnunet.runtime import Labels, Runtime, open_size, sums_bytes
from tomodex.nnunet.scaled import Image, ScaledImage
from tomodex.nnunet.tiling import gaussian, plan_starts

Progress = Callable[[int, int], None]  #: is told how many tiles are done, and of how many

#: Most that the sums may take. For the 3 mm model of TotalSegmentator that is an image of
#: 1.6 m x 1.6 m, of any length.
MAX_BYTES = 4 * 2**30


def predict(
    runtime: Runtime,
    model: ModelFolder,
    image: Image,
    *,
    step: float,
    max_bytes: int = MAX_BYTES,
    progress: Progress | None = None,
) -> Labels:
    """The label of every voxel of `image`, which lies on the model's grid and is not normalised.

    `step` is the way from tile to tile as a share of the tile; nothing larger is taken.

    Raises:
        ValueError: the image has not the channels of the model, or no voxel.
        Unsuitable: the sums would take more than `max_bytes` (too_large); nothing is allocated.
    """
    if image.ndim != 4 or len(image) != len(model.channels) or 0 in image.shape:
        raise ValueError(f"an image of {image.shape} for the channels {model.channels}")
    turned = image.transpose(0, *(1 + axis for axis in model.transpose))
    box = find_nonzero_box(turned)
    inside = turned[:, *box]
    _require_budget(model, inside, max_bytes)
    labels = np.zeros(turned.shape[1:], np.uint8)
    _label(runtime, model, _scale(model, inside), labels[box], step, progress)
    return np.ascontiguousarray(labels.transpose(np.argsort(model.transpose)))


def _require_budget(model: ModelFolder, image: Image, max_bytes: int) -> None:
    slices, rows, columns = image.shape[1:]
    size = open_size((slices, rows, columns), model.patch)
    needed = sums_bytes(model.architecture.features[0], size)
    if needed > max_bytes:
        found = " x ".join(map(str, image.shape[1:]))
        raise Unsuitable(
            "too_large", f"{found} voxels would take {needed} bytes of sums, not {max_bytes}"
        )


def _scale(model: ModelFolder, image: Image) -> ScaledImage:
    masked = any(normalisation.masked for normalisation in model.normalisations)
    mask = find_nonzero(image) if masked else None
    masks = tuple(mask if normalisation.masked else None for normalisation in model.normalisations)
    fitted = map(fit_scaling, model.normalisations, image, masks)
    return ScaledImage(image, tuple(fitted), masks)


def _label(
    runtime: Runtime,
    model: ModelFolder,
    image: ScaledImage,
    labels: Labels,
    step: float,
    progress: Progress | None,
) -> None:
    """Write the label of every voxel, a row of tiles after the other along the first axis."""
    along = zip(labels.shape, model.patch, strict=True)
    starts = [plan_starts(size, tile, step) for size, tile in along]
    weights, features = gaussian(model.patch), model.architecture.features[0]
    tiles, done = prod(map(len, starts)), 0
    with runtime.open_slices(image, weights, features) as slices:
        for start, following in pairwise([*starts[0], len(labels)]):
            for more in slices.add([(start, y, x) for y, x in product(*starts[1:])]):
                done += more
                if progress:
                    progress(done, tiles)
            final = labels[max(start, 0) : following]
            final[...] = slices.close(len(final))
