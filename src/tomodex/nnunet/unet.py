"""In which order a U-Net of nnU-Net computes, whatever it is that computes.

OpenVINO makes a graph of it, torch computes at once, and `cost.py` only counts. Layers are named
as their weights are in a checkpoint.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from tomodex.errors import Misconfigured
from tomodex.nnunet.architecture import Architecture, Three
from tomodex.nnunet.checkpoint import Weights

#: Channels before and after a layer.
Channels = tuple[int, int]

_N = TypeVar("_N")


class Layers(Protocol[_N]):
    """What a U-Net is made of; a node is an image with channels, somewhere in it."""

    def convolve(self, node: _N, name: str, channels: Channels, kernel: Three, stride: Three) -> _N:
        """A convolution and its instance norm; the image keeps its size but for the stride."""

    def project(self, node: _N, name: str, channels: Channels) -> _N:
        """A 1 x 1 x 1 convolution without bias, and its instance norm."""

    def activate(self, node: _N) -> _N:
        """The leaky ReLU."""

    def enlarge(self, node: _N, name: str, channels: Channels, stride: Three) -> _N:
        """A transposed convolution: every voxel becomes a block of the size of the stride."""

    def join(self, node: _N, seen: _N) -> _N:
        """The channels of both."""

    def shrink(self, node: _N, stride: Three) -> _N:
        """The mean of every block of the size of the stride."""

    def add(self, node: _N, other: _N) -> _N:
        """The sum of both."""


def compute(network: Architecture, layers: Layers[_N], image: _N) -> _N:
    """The features that the network's last layer weighs, as many as its first stage has."""
    return _decode(network, layers, _encode(network, layers, image))


def last_layer(
    network: Architecture, weights: Weights
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Weights (heads, features) and bias (heads,) that make logits of features.

    Heads of coarser stages are left out: they helped in training only.

    Raises:
        Misconfigured: the weights are not of this network.
    """
    name, features = f"decoder.seg_layers.{len(network.features) - 2}", network.features[0]
    kernel = take(weights, f"{name}.weight", (network.heads, features, 1, 1, 1))[..., 0, 0, 0]
    return kernel, take(weights, f"{name}.bias", (network.heads,))


def take(weights: Weights, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """A tensor in single precision.

    Raises:
        Misconfigured: it is not there, or has another shape.
    """
    if name not in weights:
        raise Misconfigured(f"the checkpoint has no {name}, which the plans ask for")
    if weights[name].shape != shape:
        found = weights[name].shape
        raise Misconfigured(f"{name} is {found} in the checkpoint and {shape} by the plans")
    return np.ascontiguousarray(weights[name], np.float32)


def _encode(network: Architecture, layers: Layers[_N], image: _N) -> list[_N]:
    """What each stage sees, finest first."""
    if network.kind == "PlainConvUNet":
        return _plain_stages(network, layers, image)
    return _residual_stages(network, layers, image)


def _decode(network: Architecture, layers: Layers[_N], seen: list[_N]) -> _N:
    """The way back: each stage is enlarged and joined with what was seen at that size."""
    node, coarse = seen[-1], network.features[-1]
    for i, convs in enumerate(network.decoder_convs):
        k = len(seen) - 2 - i
        fine, stride = network.features[k], network.strides[k + 1]
        node = layers.enlarge(node, f"decoder.transpconvs.{i}", (coarse, fine), stride)
        node = layers.join(node, seen[k])
        name, kernel = f"decoder.stages.{i}.convs", network.kernels[k]
        node = _convolve(layers, node, name, convs, (2 * fine, fine), kernel, (1, 1, 1))
        coarse = fine
    return node


def _plain_stages(network: Architecture, layers: Layers[_N], image: _N) -> list[_N]:
    node, seen, before = image, [], network.channels
    for i, features in enumerate(network.features):
        name, blocks = f"encoder.stages.{i}.0.convs", network.encoder_blocks[i]
        kernel, stride = network.kernels[i], network.strides[i]
        node = _convolve(layers, node, name, blocks, (before, features), kernel, stride)
        seen.append(node)
        before = features
    return seen


def _residual_stages(network: Architecture, layers: Layers[_N], image: _N) -> list[_N]:
    seen, before = [], network.features[0]
    name, channels = "encoder.stem.convs", (network.channels, before)
    node = _convolve(layers, image, name, 1, channels, network.kernels[0], (1, 1, 1))
    for i, features in enumerate(network.features):
        for k in range(network.encoder_blocks[i]):
            stride = network.strides[i] if k == 0 else (1, 1, 1)
            name, channels = f"encoder.stages.{i}.blocks.{k}", (before, features)
            node = _residual(layers, node, name, channels, network.kernels[i], stride)
            before = features
        seen.append(node)
    return seen


def _residual(
    layers: Layers[_N], node: _N, name: str, channels: Channels, kernel: Three, stride: Three
) -> _N:
    """Two convolutions and a way round them, as `BasicBlockD`."""
    before, features = channels
    way = layers.activate(layers.convolve(node, f"{name}.conv1", channels, kernel, stride))
    way = layers.convolve(way, f"{name}.conv2", (features, features), kernel, (1, 1, 1))
    pooled = stride != (1, 1, 1)
    around = layers.shrink(node, stride) if pooled else node
    if before != features:
        around = layers.project(around, f"{name}.skip.{1 if pooled else 0}", channels)
    return layers.activate(layers.add(way, around))


def _convolve(
    layers: Layers[_N],
    image: _N,
    name: str,
    count: int,
    channels: Channels,
    kernel: Three,
    stride: Three,
) -> _N:
    """`count` convolutions one after the other; the first changes channels and size."""
    same = (channels[1], channels[1])
    node = layers.activate(layers.convolve(image, f"{name}.0", channels, kernel, stride))
    for k in range(1, count):
        node = layers.activate(layers.convolve(node, f"{name}.{k}", same, kernel, (1, 1, 1)))
    return node
