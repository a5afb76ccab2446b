"""A network in torch, up to the features that its last layer weighs (see network.py for why).

Convolutions are computed in the type that is asked for, with the channels of a voxel side by side,
as GPUs want them. Means and variances of instance norms are always in single precision: in half
precision a variance above 65504 would be infinite.
"""

from __future__ import annotations

from math import prod

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from tomodex.nnunet.architecture import Architecture, Three
from tomodex.nnunet.checkpoint import Weights
from tomodex.nnunet.unet import Channels, compute, last_layer, take

SIDE_BY_SIDE = torch.channels_last_3d


class TorchNetwork:
    """Layers whose weights lie on a device.

    Raises:
        Misconfigured: the weights are not of this network.
    """

    def __init__(
        self, network: Architecture, weights: Weights, device: torch.device, kind: torch.dtype
    ) -> None:
        self.kind = kind
        self._network = network
        self._layers = _Layers(network, weights, device, kind)
        # Every layer takes its weights when it is first used.
        smallest = (1, network.channels, *_coarsest(network))
        self.features(torch.zeros(smallest, device=device, dtype=kind))
        kernel, bias = last_layer(network, weights)
        self._kernel = _tensor(kernel).to(device)
        self._bias = _tensor(bias).to(device)

    def features(self, images: Tensor) -> Tensor:
        """(images, *patch, features) of normalised images (images, channels, *patch)."""
        found: Tensor = compute(self._network, self._layers, images)
        return found.permute(0, 2, 3, 4, 1)

    def best(self, sums: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """The largest logit (voxels,) and its label; of equal ones the lowest.

        `sums` (voxels, features) are features times weights, and `weights` (voxels,) their sum.
        """
        logits = torch.addcmul(sums @ self._kernel.T, weights[:, None], self._bias)
        values, labels = logits.max(dim=1)
        return values, labels

    def compile(self) -> None:
        """Put layers together from the next call on, anew for every number of images."""
        self.features = torch.compile(self.features, dynamic=False)  # type: ignore[method-assign]

    @property
    def heads(self) -> int:
        """Labels with the background."""
        return self._network.heads


def _tensor(values: npt.NDArray[np.float32]) -> Tensor:
    """A copy: torch warns of memory that cannot be written, as a checkpoint's is."""
    return torch.from_numpy(values.copy())


def _coarsest(network: Architecture) -> Three:
    """The smallest patch: one voxel in the coarsest stage."""
    z, y, x = (prod(along) for along in zip(*network.strides, strict=True))
    return z, y, x


class _Layers:
    """Layers that compute at once; each brings its weights to the device when first used."""

    def __init__(
        self, network: Architecture, weights: Weights, device: torch.device, kind: torch.dtype
    ) -> None:
        self._network, self._weights, self._device, self._kind = network, weights, device, kind
        self._tensors: dict[str, Tensor] = {}

    def convolve(
        self, node: Tensor, name: str, channels: Channels, kernel: Three, stride: Three
    ) -> Tensor:
        before, features = channels
        weight = self._kernel(f"{name}.conv.weight", (features, before, *kernel))
        bias = self._bias(f"{name}.conv.bias", features)
        pads = [size // 2 for size in kernel]
        return self._norm(functional.conv3d(node, weight, bias, stride, pads), f"{name}.norm")

    def project(self, node: Tensor, name: str, channels: Channels) -> Tensor:
        before, features = channels
        weight = self._kernel(f"{name}.conv.weight", (features, before, 1, 1, 1))
        return self._norm(functional.conv3d(node, weight), f"{name}.norm")

    def activate(self, node: Tensor) -> Tensor:
        # Whoever made the node needs it for nothing else.
        return functional.leaky_relu(node, self._network.leak, inplace=True)

    def enlarge(self, node: Tensor, name: str, channels: Channels, stride: Three) -> Tensor:
        weight = self._kernel(f"{name}.weight", (*channels, *stride))
        bias = self._bias(f"{name}.bias", channels[1])
        return functional.conv_transpose3d(node, weight, bias, stride)

    def join(self, node: Tensor, seen: Tensor) -> Tensor:
        return torch.cat((node, seen), dim=1)

    def shrink(self, node: Tensor, stride: Three) -> Tensor:
        return functional.avg_pool3d(node, stride)

    def add(self, node: Tensor, other: Tensor) -> Tensor:
        return node.add_(other)

    def _norm(self, node: Tensor, name: str) -> Tensor:
        """Instance norm: every channel of every image to mean 0 and variance 1, then weighed."""
        features = node.shape[1]
        wide = node.float()
        variance, mean = torch.var_mean(wide, dim=(2, 3, 4), correction=0, keepdim=True)
        weight = self._per_channel(f"{name}.weight", features)
        scale = weight * torch.rsqrt(variance + self._network.norm_eps)
        shift = self._per_channel(f"{name}.bias", features) - mean * scale
        return torch.addcmul(shift, wide, scale).to(self._kind)

    def _kernel(self, name: str, shape: tuple[int, ...]) -> Tensor:
        if name not in self._tensors:
            values = _tensor(take(self._weights, name, shape))
            self._tensors[name] = values.to(self._device, self._kind, memory_format=SIDE_BY_SIDE)
        return self._tensors[name]

    def _bias(self, name: str, features: int) -> Tensor | None:
        if not self._network.conv_bias:
            return None
        if name not in self._tensors:
            values = _tensor(take(self._weights, name, (features,)))
            self._tensors[name] = values.to(self._device, self._kind)
        return self._tensors[name]

    def _per_channel(self, name: str, features: int) -> Tensor:
        """(1, features, 1, 1, 1), in single precision."""
        if name not in self._tensors:
            values = _tensor(take(self._weights, name, (features,)))
            self._tensors[name] = values.to(self._device).reshape(1, features, 1, 1, 1)
        return self._tensors[name]
