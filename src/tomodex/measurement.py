"""How large, how dense, where and how whole each segmented structure is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tomodex.instance import LPS

#: A face of the image, named by the patient direction it is nearest to.
Side = Literal["left", "right", "anterior", "posterior", "inferior", "superior"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Numbers for one structure in one series; lengths in the patient frame (LPS)."""

    voxel_count: int
    volume_ml: float  #: a lower bound where the structure is cut
    mean_hu: float
    sd_hu: float  #: of the population of its voxels
    centroid_mm: LPS
    box_min_mm: LPS  #: lowest LPS coordinates of any corner of its voxels
    box_max_mm: LPS  #: highest; box_max_mm[2] - box_min_mm[2] is the extent from foot to head
    cut: tuple[Side, ...] = ()  #: faces of the image that it touches, sorted; () is complete

    @property
    def complete(self) -> bool:
        """Whole inside the image."""
        return not self.cut
