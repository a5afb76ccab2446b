"""What overlapping tiles say of each voxel, added up and labelled on a device.

The image goes to the device once, and labels come back: one byte a voxel. All between stays there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tomodex.nnunet.architecture import Three
from tomodex.nnunet.normalisation import Scaling
from tomodex.nnunet.runtime import Labels, TileWeights, open_size
from tomodex.nnunet.scaled import ScaledImage, overlap
from tomodex.nnunet.torch_network import SIDE_BY_SIDE, TorchNetwork

#: The logits of some voxels are made at once; they take so much.
_LOGITS_BYTES = 256 * 2**20
#: An image is brought in pieces of this size: memory that a device can read stays reserved.
_PIECE_BYTES = 32 * 2**20

#: Runs a number of things as many at once as there is memory for.
Batches = Callable[[Sequence[Three], Callable[[Sequence[Three]], None]], Iterator[int]]


class SlicesOnDevice:
    """The sums for slices that a tile can still reach, and how much weight is in them."""

    def __init__(
        self,
        network: TorchNetwork,
        image: ScaledImage,
        weights: TileWeights,
        features: int,
        device: torch.device,
        batches: Batches,
    ) -> None:
        self._network, self._device, self._batches = network, device, batches
        self._size = image.size
        z, y, x = weights.shape
        self._tile = (z, y, x)
        self._image = bring(image, device)
        self._tile_weights = torch.from_numpy(weights).to(device)
        size = open_size(image.size, self._tile)
        self._sums = torch.zeros((*size, features), device=device)
        self._weights = torch.zeros(size, device=device)
        self._first = 0

    def add(self, corners: Sequence[Three]) -> Iterator[int]:
        """Several tiles at once, as many as there is memory for."""
        return self._batches(corners, self._add)

    def close(self, count: int) -> Labels:
        """The labels of the first slices; those behind move up, and empty ones follow.

        Raises:
            FloatingPointError: numbers became too large for the precision.
        """
        sums = self._sums[:count].reshape(-1, self._sums.shape[-1])
        labels = self._label(sums, self._weights[:count].reshape(-1))
        self._move(count)
        found: Labels = take_back(labels).reshape(count, *self._weights.shape[1:])
        return found

    def _add(self, corners: Sequence[Three]) -> None:
        """All of these tiles or, if there is no memory for them, none."""
        features = self._network.features(self._cut(corners))
        weighed = features.float().mul_(self._tile_weights[..., None])
        # Nothing from here on takes memory.
        for corner, said in zip(corners, weighed, strict=True):
            (z, y, x), inner = overlap(corner, self._tile, self._size)
            place = slice(z.start - self._first, z.stop - self._first), y, x
            self._sums[place].add_(said[inner])
            self._weights[place].add_(self._tile_weights[inner])

    def _cut(self, corners: Sequence[Three]) -> Tensor:
        """The tiles at these corners, with 0 where they lie beyond the image."""
        shape = (len(corners), len(self._image), *self._tile)
        images = torch.empty(
            shape, dtype=self._network.kind, device=self._device, memory_format=SIDE_BY_SIDE
        ).zero_()
        for image, corner in zip(images, corners, strict=True):
            (z, y, x), (a, b, c) = overlap(corner, self._tile, self._size)
            image[:, a, b, c] = self._image[:, z, y, x]
        return images

    def _label(self, sums: Tensor, weights: Tensor) -> Tensor:
        labels = torch.empty(len(sums), dtype=torch.uint8, device=self._device)
        finite = torch.ones((), dtype=torch.bool, device=self._device)
        step = _LOGITS_BYTES // (4 * self._network.heads)
        for start in range(0, len(sums), step):
            some = slice(start, start + step)
            largest, labels[some] = self._network.best(sums[some], weights[some])
            finite &= largest.isfinite().all()
        require_finite(finite, self._network.kind)
        return labels

    def _move(self, count: int) -> None:
        self._first += count
        for slices in (self._sums, self._weights):
            kept = len(slices) - count
            slices[:kept] = slices[count:].clone()
            slices[kept:] = 0


def require_finite(finite: Tensor, kind: torch.dtype) -> None:
    """Raises FloatingPointError unless all logits are numbers: else a label would mean nothing."""
    if not finite:
        raise FloatingPointError(f"{kind} is too small for this network")


def bring(image: ScaledImage, device: torch.device) -> Tensor:
    """The image (channels, z, y, x) on the device, normalised."""
    brought = send(image.image, torch.float32, device)
    for values, scaling, mask in zip(brought, image.scalings, image.masks, strict=True):
        _scale(values, scaling)
        if mask is not None:
            values.mul_(send(mask[np.newaxis], torch.bool, device)[0])
    return brought


def _scale(values: Tensor, scaling: Scaling) -> None:
    """As `Scaling.apply`, in place."""
    values.clamp_(scaling.low, scaling.high).sub_(scaling.shift)
    # A GPU multiplies by the inverse of a plain number, which rounds another way.
    values.div_(torch.full((), scaling.scale, dtype=values.dtype, device=values.device))


def send(values: npt.NDArray[Any], kind: torch.dtype, device: torch.device) -> Tensor:
    """An array (channels, z, y, x) on the device, slices by slices."""
    sent = torch.empty(values.shape, dtype=kind, device=device)
    plane = values[0, 0].nbytes
    step = max(1, _PIECE_BYTES // plane)
    for channel, start in np.ndindex(len(values), -(-values.shape[1] // step)):
        some = slice(start * step, (start + 1) * step)
        piece = values[channel, some]
        # Memory that stays where it is can be read while the device is at work on other things.
        here = torch.empty(piece.shape, dtype=kind, pin_memory=device.type == "cuda")
        np.copyto(here.numpy(), piece)
        sent[channel, some].copy_(here, non_blocking=True)
    return sent


def take_back(values: Tensor) -> npt.NDArray[np.uint8]:
    """Bytes from the device, once all before is done."""
    here = torch.empty(values.shape, dtype=values.dtype, pin_memory=values.is_cuda)
    here.copy_(values)
    found: npt.NDArray[np.uint8] = here.numpy()
    return found
