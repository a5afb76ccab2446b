"""Where the slices of a series lie in the patient, from their headers alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Plane = Literal["axial", "coronal", "sagittal"]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Geometry:
    """An even grid of slices: what a volume will be once its pixels are decoded."""

    slices: tuple[tuple[int, int], ...]  #: (index into the instances, frame), along the normal
    shape: tuple[int, int, int]  #: (slices, rows, columns) of the grid
    affine: npt.NDArray[np.float64]  #: (4, 4), (slice, row, column, 1) -> LPS position, mm
    plane: Plane  #: the patient axis that the slice normal is nearest to
    oblique_deg: float  #: between the slice normal and that axis
    tilt_deg: float  #: between the slice normal and the way from slice to slice: gantry tilt
    places: npt.NDArray[np.float64] | None = None  #: (len(slices),) where the slices lie on the
    #: grid's first axis, in grid steps; None: slice k lies at k, nothing needs resampling
