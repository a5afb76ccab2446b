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

from tomodex.errors import Misconfigured
from tomodex.nnunet.architecture import Architecture, Three
from tomodex.nnunet.checkpoint import Weights
from tomodex.nnunet.silent_openvino import ops, ov

Node = Any  #: of OpenVINO, which has no types


def build_network(network: Architecture, weights: Weights, patch: Three) -> ov.Model:
    """A graph from (1, channels, *patch) to (1, *patch, features of the first stage).

    OpenVINO works with the features last; 200 MB would be turned round for every patch to have
    them first.

    Raises:
        Misconfigured: the weights are not of this network.
    """
    image = ops.parameter([1, network.channels, *patch], np.float32, "image")
    build = _Builder(network, weights)
    last = ops.constant(np.array([0, 2, 3, 4, 1], np.int64))
    return ov.Model([ops.transpose(build.decode(build.encode(image)), last)], [image], "nnunet")


def build_head(network: Architecture, weights: Weights, voxels: int) -> ov.Model:
    """A graph from sums (voxels, features) and weights (voxels, 1) to labels (voxels, 1).

    The bias counts as often as the sums have weight. Heads of coarser stages are left out: they
    helped in training only.

    Raises:
        Misconfigured: the weights are not of this network.
    """
    name, features = f"decoder.seg_layers.{len(network.features) - 2}", network.features[0]
    kernel = _take(weights, f"{name}.weight", (network.heads, features, 1, 1, 1))[..., 0, 0, 0]
    bias = _take(weights, f"{name}.bias", (network.heads,))
    sums = ops.parameter([voxels, features], np.float32, "sums")
    weight = ops.parameter([voxels, 1], np.float32, "weights")
    logits = ops.add(
        ops.matmul(sums, ops.constant(kernel), False, True),
        ops.multiply(weight, ops.constant(bias[None])),
    )
    one, axis = ops.constant(np.int64(1)), 1
    best = ops.topk(logits, one, axis, "max", "none", index_element_type="i32").output(1)
    return ov.Model([ops.convert(best, "u8")], [sums, weight], "head")


def _take(weights: Weights, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """A tensor in single precision."""
    if name not in weights:
        raise Misconfigured(f"the checkpoint has no {name}, which the plans ask for")
    if weights[name].shape != shape:
        found = weights[name].shape
        raise Misconfigured(f"{name} is {found} in the checkpoint and {shape} by the plans")
    return np.ascontiguousarray(weights[name], np.float32)


class _Builder:
    """Puts layers together, each named as in the checkpoint."""

    def __init__(self, network: Architecture, weights: Weights) -> None:
        self._network, self._weights = network, weights

    def encode(self, image: Node) -> list[Node]:
        """What each stage sees, finest first."""
        if self._network.kind == "PlainConvUNet":
            return self._plain_stages(image)
        return self._residual_stages(image)

    def decode(self, seen: list[Node]) -> Node:
        """The way back: each stage is enlarged and joined with what was seen at that size."""
        network = self._network
        node, coarse = seen[-1], network.features[-1]
        for i, convs in enumerate(network.decoder_convs):
            k = len(seen) - 2 - i
            name, fine, stride = (
                f"decoder.transpconvs.{i}",
                network.features[k],
                network.strides[k + 1],
            )
            node = self._enlarge(node, name, coarse, fine, stride)
            node = ops.concat([node, seen[k]], 1)
            name, kernel = f"decoder.stages.{i}.convs", network.kernels[k]
            node = self._convs(node, name, convs, (2 * fine, fine), kernel, (1, 1, 1))
            coarse = fine
        return node

    def _plain_stages(self, node: Node) -> list[Node]:
        network, seen, before = self._network, [], self._network.channels
        for i, features in enumerate(network.features):
            name, blocks = f"encoder.stages.{i}.0.convs", network.encoder_blocks[i]
            kernel, stride = network.kernels[i], network.strides[i]
            node = self._convs(node, name, blocks, (before, features), kernel, stride)
            seen.append(node)
            before = features
        return seen

    def _residual_stages(self, node: Node) -> list[Node]:
        network, seen, before = self._network, [], self._network.features[0]
        name, channels = "encoder.stem.convs", (network.channels, before)
        node = self._convs(node, name, 1, channels, network.kernels[0], (1, 1, 1))
        for i, features in enumerate(network.features):
            for k in range(network.encoder_blocks[i]):
                stride = network.strides[i] if k == 0 else (1, 1, 1)
                name, channels = f"encoder.stages.{i}.blocks.{k}", (before, features)
                node = self._residual(node, name, channels, network.kernels[i], stride)
                before = features
            seen.append(node)
        return seen

    def _residual(
        self, node: Node, name: str, channels: tuple[int, int], kernel: Three, stride: Three
    ) -> Node:
        """Two convolutions and a way round them, as `BasicBlockD`."""
        before, features = channels
        way = self._conv(node, f"{name}.conv1", channels, kernel, stride)
        way = self._relu(way)
        way = self._conv(way, f"{name}.conv2", (features, features), kernel, (1, 1, 1))
        pooled = stride != (1, 1, 1)
        if pooled:
            node = ops.avg_pool(node, stride, [0] * 3, [0] * 3, stride, exclude_pad=False)
        if before != features:
            place = f"{name}.skip.{1 if pooled else 0}"
            node = self._shortcut(node, place, channels)
        return self._relu(ops.add(way, node))

    def _convs(
        self,
        node: Node,
        name: str,
        count: int,
        channels: tuple[int, int],
        kernel: Three,
        stride: Three,
    ) -> Node:
        """`count` convolutions one after the other; the first changes channels and size."""
        before, features = channels
        for k in range(count):
            first = k == 0
            sizes = (before if first else features, features)
            node = self._conv(node, f"{name}.{k}", sizes, kernel, stride if first else (1, 1, 1))
            node = self._relu(node)
        return node

    def _conv(
        self, node: Node, name: str, channels: tuple[int, int], kernel: Three, stride: Three
    ) -> Node:
        """A convolution and its instance norm."""
        before, features = channels
        weight = _take(self._weights, f"{name}.conv.weight", (features, before, *kernel))
        node = _convolution(node, weight, stride)
        if self._network.conv_bias:
            node = ops.add(node, self._per_channel(f"{name}.conv.bias", features))
        return self._norm(node, f"{name}.norm", features)

    def _shortcut(self, node: Node, name: str, channels: tuple[int, int]) -> Node:
        """Other channels by a 1 x 1 x 1 convolution without bias, and its norm."""
        before, features = channels
        weight = _take(self._weights, f"{name}.conv.weight", (features, before, 1, 1, 1))
        return self._norm(_convolution(node, weight, (1, 1, 1)), f"{name}.norm", features)

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

    def _relu(self, node: Node) -> Node:
        return ops.prelu(node, ops.constant(np.array([self._network.leak], np.float32)))

    def _enlarge(self, node: Node, name: str, before: int, features: int, stride: Three) -> Node:
        weight = _take(self._weights, f"{name}.weight", (before, features, *stride))
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
        return ops.add(node, self._per_channel(f"{name}.bias", features))

    def _per_channel(self, name: str, features: int) -> Node:
        values = _take(self._weights, name, (features,))
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
