"""A segmentation: which voxel of a volume belongs to which structure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

# Named only in types: whoever reads a result does not need what decodes pixels.
if TYPE_CHECKING:
    from tomodex.volume import Volume


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm:
    """What made a segmentation, as DICOM's Algorithm Identification and FHIR's Device ask it."""

    name: str  #: such as "TotalSegmentator"
    version: str = ""
    model: str = ""  #: task or weights by name, such as "total 3 mm (Dataset297)"
    weights_sha256: str = ""  #: of the model's weights; "" where there are none
    options: Mapping[str, str] = field(default_factory=dict)  #: all that changes the labels
    segmentation_uids: tuple[str, ...] = ()  #: SOP Instance UIDs of the DICOM SEG it was read from


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """Labels for every voxel of a volume, in as many layers as structures overlap.

    A structure has one label in one layer, so that it cannot be measured by halves.

    Raises:
        ValueError: two labels have one name, or a layer does not lie on the volume's grid.
    """

    volume: Volume  #: the grid that the labels lie on, with its HU
    layers: tuple[npt.NDArray[np.uint8], ...]  #: each (slices, rows, columns), 0 is background
    names: tuple[Mapping[int, str], ...]  #: for each layer, label -> name in our terminology
    algorithm: Algorithm
    unmapped: tuple[str, ...] = ()  #: what the segmenter found and our terminology cannot name

    def __post_init__(self) -> None:
        labels = [(label, name) for names in self.names for label, name in names.items()]
        named = [name for _, name in labels]
        twice = sorted({name for name in named if named.count(name) > 1})
        if twice:
            raise ValueError(f"two labels have one name: {', '.join(twice)}")
        if any(not 1 <= label <= 255 for label, _ in labels):
            raise ValueError("labels are from 1 to 255; 0 is background")
        if len(self.names) != len(self.layers):
            raise ValueError(f"{len(self.names)} tables of names, {len(self.layers)} layers")
        grid = self.volume.shape
        for layer in self.layers:
            if layer.shape != grid or layer.dtype != np.uint8:
                raise ValueError(f"a layer is {layer.dtype} {layer.shape}, not uint8 {grid}")
