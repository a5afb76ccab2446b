"""What it costs to run a network on one tile, counted from its shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from tomodex.nnunet.architecture import Architecture, Three
from tomodex.nnunet.unet import Channels, compute


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one step, such as a convolution."""

    flop: int  #: multiplications and additions
    numbers: int  #: read or written, each once; what a step writes is read anew by the next


def count_costs(network: Architecture, patch: Three) -> tuple[Cost, ...]:
    """The cost of every step for one tile, up to its features in the sums."""
    counting = _Counting()
    compute(network, counting, (network.channels, *patch))
    features = network.features[0] * prod(patch)
    return (*counting.costs, Cost(flop=2 * features, numbers=3 * features))


def least_seconds(
    costs: Sequence[Cost], flop_per_s: float, bytes_per_s: float, width: int
) -> float:
    """How long a machine takes at least, if every number is of `width` bytes.

    Each step is bound by what it computes or by what it moves.
    """
    return sum(max(c.flop / flop_per_s, c.numbers * width / bytes_per_s) for c in costs)


#: (channels, z, y, x)
_Shape = tuple[int, int, int, int]


class _Counting:
    """Layers that only count."""

    def __init__(self) -> None:
        self.costs: list[Cost] = []

    def convolve(
        self, node: _Shape, name: str, channels: Channels, kernel: Three, stride: Three
    ) -> _Shape:
        z, y, x = (size // step for size, step in zip(node[1:], stride, strict=True))
        found = (channels[1], z, y, x)
        self._count(2 * prod(kernel) * channels[0] * prod(found), node, found)
        # Read for mean and variance, read to apply them, written; activation comes with it.
        self._count(7 * prod(found), found, found, found)
        return found

    def project(self, node: _Shape, name: str, channels: Channels) -> _Shape:
        return self.convolve(node, name, channels, (1, 1, 1), (1, 1, 1))

    def activate(self, node: _Shape) -> _Shape:
        return node

    def enlarge(self, node: _Shape, name: str, channels: Channels, stride: Three) -> _Shape:
        z, y, x = (size * step for size, step in zip(node[1:], stride, strict=True))
        found = (channels[1], z, y, x)
        self._count(2 * channels[0] * prod(found), node, found)
        return found

    def join(self, node: _Shape, seen: _Shape) -> _Shape:
        found = (node[0] + seen[0], *node[1:])
        self._count(0, node, seen, found)
        return found

    def shrink(self, node: _Shape, stride: Three) -> _Shape:
        z, y, x = (size // step for size, step in zip(node[1:], stride, strict=True))
        found = (node[0], z, y, x)
        self._count(prod(node), node, found)
        return found

    def add(self, node: _Shape, other: _Shape) -> _Shape:
        self._count(prod(node), node, other, node)
        return node

    def _count(self, flop: int, *moved: _Shape) -> None:
        self.costs.append(Cost(flop=flop, numbers=sum(map(prod, moved))))
