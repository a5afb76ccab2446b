"""A model that is loaded and stays so: what a segmenter holds on to."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tomodex.errors import Misconfigured
from tomodex.nnunet.inference import Progress, predict
from tomodex.nnunet.model import ModelFolder, read_model
from tomodex.nnunet.openvino import OpenVinoRuntime, Precision
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
        """
        return predict(self.runtime, self.model, image, step=self.step, progress=progress)


def load_engine(
    folder: Path,
    *,
    precision: Precision = "f32",
    step: float = 0.8,
    cache: Path,
    threads: int | None = None,
) -> Engine:
    """The model in `folder`, which nnU-Net trained, ready to be used on the CPU.

    Args:
        precision: "f32" gives the labels of the official package; "bf16" is about twice as fast
            where the CPU has it, and a few voxels in a thousand differ.
        step: TotalSegmentator takes 0.8; nnU-Net's own default is 0.5.
        cache: where the weights are kept in a form that loads fast; made if it is not there.
        threads: None takes all cores that this process may use.

    Raises:
        Misconfigured: the model cannot be read or run, or the CPU has no bf16.
    """
    if not 0 < step <= 1:
        raise Misconfigured(f"step {step}: tiles lie more than 0 and at most 1 tile apart")
    model = read_model(folder)
    weights = load_weights(model, cache)
    count = threads or _usable_cores()
    return Engine(
        model=model,
        runtime=OpenVinoRuntime(model, weights, precision, count),
        step=step,
    )


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
