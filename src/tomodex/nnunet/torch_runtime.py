"""Runs a network with torch: on a GPU, or on the CPU to see that both say the same."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Literal

import torch

from tomodex.nnunet.architecture import Three
from tomodex.nnunet.checkpoint import Weights
from tomodex.nnunet.devices import Kernels, Precision
from tomodex.nnunet.model import ModelFolder
from tomodex.nnunet.runtime import OpenSlices, TileWeights
from tomodex.nnunet.scaled import ScaledImage
from tomodex.nnunet.torch_memory import count_fitting, is_full, let_go, naming_trouble
from tomodex.nnunet.torch_merging import SlicesOnDevice
from tomodex.nnunet.torch_network import TorchNetwork

log = logging.getLogger(__name__)

#: What numbers of each precision are in torch.
_KINDS = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


class TorchRuntime:
    """A network on a device, and how many tiles at once that has been found to hold.

    Raises:
        Misconfigured: the weights are not of this network, or the device cannot run it.
        Unavailable: others have left too little of the device's memory.
    """

    description: Mapping[str, str]

    def __init__(
        self,
        model: ModelFolder,
        weights: Weights,
        precision: Precision,
        *,
        device: Literal["cuda", "cpu"],
        batch: int | None = None,
        kernels: Kernels = "eager",
    ) -> None:
        self._device, self._precision = torch.device(device), precision
        with self._at_work():
            kind = _KINDS[precision]
            self._network = TorchNetwork(model.architecture, weights, self._device, kind)
            used = _compile(self._network, device) if kernels == "compiled" else kernels
            self._most = batch or self._try_tile(model)
        self.description = {
            "runtime": "torch",
            "runtime_version": torch.__version__,
            "device": _name(self._device),
            "precision": precision,
            "tf32": "off",
            "kernels": used,
        }

    @contextmanager
    def open_slices(
        self, image: ScaledImage, weights: TileWeights, features: int
    ) -> Iterator[OpenSlices]:
        """Slices whose sums are kept on the device.

        Raises:
            Unavailable: it has no memory left for one tile.
            Misconfigured: it failed.
        """
        with self._at_work():
            yield SlicesOnDevice(
                self._network, image, weights, features, self._device, self._in_batches
            )

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """TensorFloat-32 is off; only where labels need not be exact, the fastest way is sought."""
        exact = self._precision == "f32"
        cudnn = torch.backends.cudnn.flags(
            enabled=True, benchmark=not exact, deterministic=exact, allow_tf32=False
        )
        with naming_trouble(self._device), cudnn, torch.inference_mode():
            yield

    def _in_batches(
        self, corners: Sequence[Three], add: Callable[[Sequence[Three]], None]
    ) -> Iterator[int]:
        """Tiles, so many at once as there is memory for; half as many from when there is not."""
        left = list(corners)
        while left:
            some = left[: self._most]
            if _fits(add, some):
                del left[: len(some)]
                yield len(some)
            else:
                let_go(self._device)
                self._most = len(some) // 2
                log.warning("gpu memory short", extra={"tiles_at_once": self._most})

    def _try_tile(self, model: ModelFolder) -> int:
        """How many tiles there is room for, by what one of nothing takes."""
        if self._device.type != "cuda":
            return 1
        shape = (1, model.architecture.channels, *model.patch)
        before = torch.cuda.memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        tile = torch.zeros(shape, dtype=self._network.kind, device=self._device)
        self._network.features(tile).float()
        taken = torch.cuda.max_memory_allocated(self._device) - before
        return count_fitting(taken, self._device)


def _fits(add: Callable[[Sequence[Three]], None], some: Sequence[Three]) -> bool:
    """False where there is no memory for so many at once."""
    try:
        add(some)
    except RuntimeError as error:
        if len(some) > 1 and is_full(error):
            return False
        raise
    return True


def _compile(network: TorchNetwork, device: str) -> Kernels:
    """What came of it: where there is no compiler, all stays as it is."""
    if not can_compile(device):
        log.warning("not compiled", extra={"sentence": "no C++ compiler or no Triton is here"})
        return "eager"
    network.compile()
    return "compiled"


def can_compile(device: str) -> bool:
    """Whether torch finds what it compiles with."""
    compiler = any(map(shutil.which, ("g++", "c++", "clang++")))
    return compiler and (device == "cpu" or find_spec("triton") is not None)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
