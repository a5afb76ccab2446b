"""A model that is loaded and stays so: what a segmenter holds on to."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tomodex.errors import Misconfigured
from tomodex.nnunet.checkpoint import Weights
from tomodex.nnunet.devices import Device, Kernels, Precision
from tomodex.nnunet.inference import Progress, predict
from tomodex.nnunet.model import ModelFolder, read_model
from tomodex.nnunet.openvino import OpenVinoRuntime
from tomodex.nnunet.runtime import Labels, Runtime
from tomodex.nnunet.scaled import Image
from tomodex.nnunet.weights import load_weights


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Engine:
    """One model, one runtime, all cores. It labels one image at a time."""

    model: ModelFolder
    runtime: Runtime
    step: float  #: from tile to tile, as a share of the tile

    def segment(self, image: Image, progress: Progress | None = None) -> Labels:
        """The label of every voxel, (z, y, x), of an image (channels, z, y, x).

        The image lies on the model's grid (`model.spacing_mm`) and is not normalised: CT in HU.

        Raises:
            ValueError: the image has not the channels of the model, or no voxel.
            Unsuitable: it is too large for this engine (too_large).
            Unavailable: others have left too little of the GPU's memory.
        """
        return predict(self.runtime, self.model, image, step=self.step, progress=progress)


def load_engine(
    folder: Path,
    *,
    device: Device = "cpu",
    precision: Precision = "f32",
    step: float = 0.8,
    cache: Path,
    threads: int | None = None,
    batch: int | None = None,
    kernels: Kernels = "eager",
) -> Engine:
    """The model in `folder`, which nnU-Net trained, ready to be used.

    Args:
        device: "cuda" needs torch, which is not imported for "cpu".
        precision: "f32" gives the labels of the official package; "bf16" and, on a GPU, "f16" are
            faster where there are instructions for them, and a few voxels in a thousand differ.
        step: TotalSegmentator takes 0.8; nnU-Net's own default is 0.5.
        cache: where the weights are kept in a form that loads fast; made if it is not there.
        threads: None takes all cores that this process may use.
        batch: how many tiles a GPU works on at once, at most; None as its memory has it.
        kernels: how torch runs the layers.

    Raises:
        Misconfigured: the model cannot be read or run, or not so on this device.
        Unavailable: others have left too little of the GPU's memory.
    """
    if not 0 < step <= 1:
        raise Misconfigured(f"step {step}: tiles lie more than 0 and at most 1 tile apart")
    model = read_model(folder)
    weights = load_weights(model, cache)
    if device == "cpu":
        runtime = _openvino(model, weights, precision, threads or _usable_cores())
    else:
        runtime = _torch(model, weights, precision, device, batch, kernels)
    return Engine(model=model, runtime=runtime, step=step)


def _openvino(model: ModelFolder, weights: Weights, precision: Precision, threads: int) -> Runtime:
    if precision == "f16":
        raise Misconfigured("precision f16 is for GPUs; a CPU computes in f32 and, some, in bf16")
    return OpenVinoRuntime(model, weights, precision, threads)


def _torch(
    model: ModelFolder,
    weights: Weights,
    precision: Precision,
    device: Device,
    batch: int | None,
    kernels: Kernels,
) -> Runtime:
    # It takes seconds to import, and most installations have none.
    from tomodex.nnunet.torch_runtime import TorchRuntime

    place: Literal["cuda", "cpu"] = "cuda" if device == "cuda" else "cpu"
    return TorchRuntime(model, weights, precision, device=place, batch=batch, kernels=kernels)


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
