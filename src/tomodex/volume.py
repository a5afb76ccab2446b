"""A CT volume in Hounsfield units, and how it is put together from DICOM instances."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """Voxels with their place in the patient.

    The affine may be sheared (gantry tilt) and point anywhere (coronal, oblique): it is exact, and
    nothing is resampled to make it simpler.
    """

    voxels: npt.NDArray[np.int16]  #: (slices, rows, columns), HU
    affine: npt.NDArray[np.float64]  #: (4, 4), (slice, row, column, 1) -> LPS position, mm

    @property
    def voxel_volume_ml(self) -> float:
        """Size of one voxel, also where the gantry is tilted."""
        return abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000.0
