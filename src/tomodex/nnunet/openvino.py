"""Runs a network on the CPU with OpenVINO."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import numpy.typing as npt

from tomodex.errors import Misconfigured
from tomodex.nnunet.checkpoint import Weights
from tomodex.nnunet.devices import Precision
from tomodex.nnunet.merging import open_slices_here
from tomodex.nnunet.model import ModelFolder
from tomodex.nnunet.network import build_head, build_network
from tomodex.nnunet.runtime import OpenSlices, TileWeights
from tomodex.nnunet.scaled import ScaledImage
from tomodex.nnunet.silent_openvino import ov

#: Voxels that get their labels at once: their logits fit into the cache of a core. 1.4 million
#: voxels and 118 labels take 0.27 s, in numpy 1.3 s (measured).
_VOXELS = 4096


class OpenVinoRuntime:
    """A compiled network, with the memory that it works in."""

    description: Mapping[str, str]

    def __init__(
        self, model: ModelFolder, weights: Weights, precision: Precision, threads: int
    ) -> None:
        core = ov.Core()
        _require_precision(core, precision)
        network = build_network(model.architecture, weights, model.patch)
        head = build_head(model.architecture, weights, _VOXELS)
        self._network = _compile(core, network, precision, threads)
        # The last layer takes hardly any time, so that it is always exact.
        self._head = _compile(core, head, "f32", threads)
        self._sums = np.zeros((_VOXELS, model.architecture.features[0]), np.float32)
        self._weights = np.zeros((_VOXELS, 1), np.float32)
        self._threads = threads
        self.description = {
            "runtime": "OpenVINO",
            "runtime_version": ov.get_version(),
            "device": "CPU",
            "precision": precision,
        }

    def open_slices(
        self, image: ScaledImage, weights: TileWeights, features: int
    ) -> AbstractContextManager[OpenSlices]:
        """Slices whose sums are kept in this machine's memory, one tile at a time."""
        return open_slices_here(self, image, weights, features, self._threads)

    def features(self, patch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(*patch, features), in memory that the next call writes anew."""
        found: npt.NDArray[np.float32] = _infer(self._network, patch[None])[0]
        return found

    def labels(
        self, sums: npt.NDArray[np.float32], weights: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.uint8]:
        """The label (voxels,) with the largest logit; of equal ones the lowest."""
        labels = np.empty(len(sums), np.uint8)
        for start in range(0, len(sums), _VOXELS):
            some = slice(start, min(start + _VOXELS, len(sums)))
            count = some.stop - start
            self._sums[:count], self._weights[:count, 0] = sums[some], weights[some]
            labels[some] = _infer(self._head, self._sums, self._weights)[:count, 0]
        return labels


def _compile(core: ov.Core, model: ov.Model, precision: Precision, threads: int) -> Any:
    """A request, which OpenVINO has no type for; it keeps its memory from run to run."""
    options = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        # Pinned threads of two workers would share some cores and leave others.
        "ENABLE_CPU_PINNING": False,
    }
    return core.compile_model(model, "CPU", options).create_infer_request()


def _infer(request: Any, *inputs: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    # Unless both are shared, 200 MB are copied for every patch.
    request.infer(dict(enumerate(inputs)), share_inputs=True, share_outputs=True)
    found: npt.NDArray[Any] = request.get_output_tensor(0).data
    return found


def _require_precision(core: ov.Core, precision: Precision) -> None:
    """Raises Misconfigured where the CPU would only imitate bf16, slowly."""
    if precision == "bf16" and "BF16" not in capabilities(core):
        raise Misconfigured("this CPU has no bf16 instructions; precision f32 runs everywhere")


def capabilities(core: ov.Core) -> list[str]:
    """What the CPU computes with instructions of its own, such as "BF16"."""
    return list(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
