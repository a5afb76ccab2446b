"""The network of a model as an OpenVINO graph, up to the features that its last layer weighs.

The last layer, a 1 x 1 x 1 convolution, gives every label its logit. It is linear, and so is the
merging of overlapping tiles: the features can be merged and weighed once, instead of the logits of
118 labels. That gives the same labels with 32 numbers a voxel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tomodex.nnunet.architecture import Architecture, Three
from tomodex.nnunet.checkpoint import Weights
from tomodex.nnunet.silent_openvino import ops, ov
from tomodex.nnunet.unet import Channels, compute, last_layer, take

Node = Any  #: of OpenVINO, which has no types


def build_network(network: Architecture, weights: Weights, patch: Three) -> ov.Model:
    """A graph from (1, channels, *patch) to (1, *patch, features of the first stage).

    OpenVINO works with the features last; 200 MB would be turned round for every patch to have
    them first.

    Raises:
        Misconfigured: the weights are not of this network.
    """
    image = ops.parameter([1, network.channels, *patch], np.float32, "image")
    last = ops.constant(np.array([0, 2, 3, 4, 1], np.int64))
    features = compute(network, _Graph(network, weights), image)
    return ov.Model([ops.transpose(features, last)], [image], "nnunet")


def build_head(network: Architecture, weights: Weights, voxels: int) -> ov.Model:
    """A graph from sums (voxels, features) and weights (voxels, 1) to labels (voxels, 1).

    The bias counts as often as the sums have weight.

    Raises:
        Misconfigured: the weights are not of this network.
    """
    kernel, bias = last_layer(network, weights)
    sums = ops.parameter([voxels, network.features[0]], np.float32, "sums")
    weight = ops.parameter([voxels, 1], np.float32, "weights")
    logits = ops.add(
        ops.matmul(sums, ops.constant(kernel), False, True),
        ops.multiply(weight, ops.constant(bias[None])),
    )
    one, axis = ops.constant(np.int64(1)), 1
    best = ops.topk(logits, one, axis, "max", "none", index_element_type="i32").output(1)
    return ov.Model([ops.convert(best, "u8")], [sums, weight], "head")


class _Graph:
    """Layers that become nodes of a graph."""

    def __init__(self, network: Architecture, weights: Weights) -> None:
        self._network, self._weights = network, weights

    def convolve(
        self, node: Node, name: str, channels: Channels, kernel: Three, stride: Three
    ) -> Node:
        before, features = channels
        weight = take(self._weights, f"{name}.conv.weight", (features, before, *kernel))
        node = _convolution(node, weight, stride)
        if self._network.conv_bias:
            node = ops.add(node, self._per_channel(f"{name}.conv.bias", features))
        return self._norm(node, f"{name}.norm", features)

    def project(self, node: Node, name: str, channels: Channels) -> Node:
        before, features = channels
        weight = take(self._weights, f"{name}.conv.weight", (features, before, 1, 1, 1))
        return self._norm(_convolution(node, weight, (1, 1, 1)), f"{name}.norm", features)

    def activate(self, node: Node) -> Node:
        return ops.prelu(node, ops.constant(np.array([self._network.leak], np.float32)))

    def enlarge(self, node: Node, name: str, channels: Channels, stride: Three) -> Node:
        weight = take(self._weights, f"{name}.weight", (*channels, *stride))
        node = ops.convolution_backprop_data(
            node,
            ops.constant(weight),
            list(stride),
            pads_begin=[0] * 3,
            pads_end=[0] * 3,
            dilations=[1] * 3,
        )
        if not self._network.conv_bias:
            return node
        return ops.add(node, self._per_channel(f"{name}.bias", channels[1]))

    def join(self, node: Node, seen: Node) -> Node:
        return ops.concat([node, seen], 1)

    def shrink(self, node: Node, stride: Three) -> Node:
        return ops.avg_pool(node, stride, [0] * 3, [0] * 3, stride, exclude_pad=False)

    def add(self, node: Node, other: Node) -> Node:
        return ops.add(node, other)

    def _norm(self, node: Node, name: str, features: int) -> Node:
        """Instance norm: every channel of the patch to mean 0 and variance 1, then weighed."""
        # OpenVINO's own mvn adds up all voxels in single precision, one by one: where much of a
        # patch is padding, logits were off by up to 0.7 (stand-in weights, measured).
        mean = _mean(node)
        variance = _mean(ops.squared_difference(node, mean))
        spread = ops.sqrt(ops.add(variance, ops.constant(np.float32(self._network.norm_eps))))
        scale = ops.divide(self._per_channel(f"{name}.weight", features), spread)
        shift = ops.subtract(self._per_channel(f"{name}.bias", features), ops.multiply(mean, scale))
        return ops.add(ops.multiply(node, scale), shift)

    def _per_channel(self, name: str, features: int) -> Node:
        values = take(self._weights, name, (features,))
        return ops.constant(values.reshape(1, features, 1, 1, 1))


def _mean(node: Node) -> Node:
    """(1, channels, 1, 1, 1): of small blocks first, so that no sum has many terms."""
    sizes = list(node.get_output_shape(0))[2:]
    block = [max(k for k in range(1, 9) if size % k == 0) for size in sizes]
    means = ops.avg_pool(node, block, [0] * 3, [0] * 3, block, True)
    return ops.reduce_mean(means, ops.constant(np.array([2, 3, 4], np.int64)), True)


def _convolution(node: Node, weight: npt.NDArray[np.float32], stride: Sequence[int]) -> Node:
    """The image keeps its size but for the stride."""
    pads = [size // 2 for size in weight.shape[2:]]
    return ops.convolution(node, ops.constant(weight), list(stride), pads, pads, [1, 1, 1])
