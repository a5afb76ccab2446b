"""Labels for every voxel of an image, tile by tile.

Tiles overlap, and what they say of a voxel is added up, with more weight for the tile in whose
middle it lies. Sums are kept only for the slices that a coming tile can still reach, so memory
does not grow with the length of the image.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise, product
from math import prod

import numpy as np
import numpy.typing as npt

from tomodex.errors import Unsuitable
from tomodex.nnunet.architecture import Three
from tomodex.nnunet.merging import OpenSlices, sums_bytes
from tomodex.nnunet.model import ModelFolder
from tomodex.nnunet.nonzero import Box, Mask, find_nonzero, find_nonzero_box
from tomodex.nnunet.normalisation import Scaling, fit_scaling
from tomodex.nnunet.runtime import Runtime
from tomodex.nnunet.tiling import gaussian, plan_starts

Image = npt.NDArray[np.float32]  #: (channels, z, y, x)
Labels = npt.NDArray[np.uint8]  #: (z, y, x), 0 is background
Progress = Callable[[int, int], None]  #: is told how many tiles are done, and of how many

#: Most that the sums may take. For the 3 mm model of TotalSegmentator that is an image of
#: 1.6 m x 1.6 m, of any length.
MAX_BYTES = 4 * 2**30


@dataclass(frozen=True, slots=True, eq=False)
class _Scaled:
    """An image as the network takes it, scaled only where it is cut: no copy is kept."""

    image: Image
    scalings: tuple[Scaling, ...]  #: of each channel
    masks: tuple[Mask | None, ...]  #: of each channel; outside of it everything becomes 0


def predict(
    runtime: Runtime,
    model: ModelFolder,
    image: Image,
    *,
    step: float,
    threads: int,
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
    with ThreadPoolExecutor(threads) as pool:
        _label(runtime, model, _scale(model, inside), labels[box], step, pool, progress)
    return np.ascontiguousarray(labels.transpose(np.argsort(model.transpose)))


def _require_budget(model: ModelFolder, image: Image, max_bytes: int) -> None:
    needed = sums_bytes(model.architecture.features[0], _open_shape(model, image))
    if needed > max_bytes:
        found = " x ".join(map(str, image.shape[1:]))
        raise Unsuitable(
            "too_large", f"{found} voxels would take {needed} bytes of sums, not {max_bytes}"
        )


def _open_shape(model: ModelFolder, image: Image) -> Three:
    """The slices that one row of tiles reaches."""
    slices, rows, columns = image.shape[1:]
    return min(slices, model.patch[0]), rows, columns


def _scale(model: ModelFolder, image: Image) -> _Scaled:
    masked = any(normalisation.masked for normalisation in model.normalisations)
    mask = find_nonzero(image) if masked else None
    masks = tuple(mask if normalisation.masked else None for normalisation in model.normalisations)
    fitted = map(fit_scaling, model.normalisations, image, masks)
    return _Scaled(image, tuple(fitted), masks)


def _label(
    runtime: Runtime,
    model: ModelFolder,
    scaled: _Scaled,
    labels: Labels,
    step: float,
    pool: ThreadPoolExecutor,
    progress: Progress | None,
) -> None:
    """Write the label of every voxel, a row of tiles after the other along the first axis."""
    starts = [
        plan_starts(size, tile, step) for size, tile in zip(labels.shape, model.patch, strict=True)
    ]
    weights = gaussian(model.patch)
    slices = OpenSlices(model.architecture.features[0], _open_shape(model, scaled.image), pool)
    tiles, done = prod(map(len, starts)), 0
    for start, following in pairwise([*starts[0], len(labels)]):
        first = max(start, 0)
        for y, x in product(*starts[1:]):
            _add_tile(runtime, scaled, slices, weights, (start, y, x), first)
            done += 1
            if progress:
                progress(done, tiles)
        final = labels[first:following]
        final[...] = runtime.labels(*slices.first(len(final))).reshape(final.shape)
        slices.move(len(final))


def _add_tile(
    runtime: Runtime,
    scaled: _Scaled,
    slices: OpenSlices,
    weights: npt.NDArray[np.float32],
    corner: Three,
    first: int,
) -> None:
    """Add what the network says of the tile at `corner`, as far as it lies on the image."""
    there, inner = _overlap(corner, weights.shape, scaled.image.shape[1:])
    patch = np.zeros((len(scaled.image), *weights.shape), np.float32)
    for channel, (scaling, mask) in enumerate(zip(scaled.scalings, scaled.masks, strict=True)):
        values = scaling.apply(scaled.image[channel][there])
        patch[channel][inner] = values if mask is None else values * mask[there]
    features = runtime.features(patch)
    z, y, x = (along.start for along in there)
    slices.add(features[inner], weights[inner], (z - first, y, x))


def _overlap(corner: Three, tile: tuple[int, ...], size: tuple[int, ...]) -> tuple[Box, Box]:
    """Where a tile lies on the image: in the image's voxels, and in its own."""
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
