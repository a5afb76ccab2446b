"""What finds structures in a volume.

    dicomseg:          DICOM SEG objects that the archive holds already    dicomseg/
    totalsegmentator:  TotalSegmentator's published models                 totalsegmentator/
    nnunet:            any other model that nnU-Net trained                totalsegmentator/
    reference:         the official TotalSegmentator package, to compare   reference/
    phantom:           a small model that is shipped, for our phantoms     phantom/
    none:              nothing: the series is findable by its tags alone   none.py

The scheme of a URL picks one of these; see `registry.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

from tomodex.registry import find_adapter, open_adapter
from tomodex.segmentation import Segmentation
from tomodex.volume import Volume

ADAPTERS = {
    "dicomseg": "tomodex.segmenters.dicomseg:DicomSegSegmenter",
    "totalsegmentator": "tomodex.segmenters.totalsegmentator:TotalSegmentator",
    "nnunet": "tomodex.segmenters.totalsegmentator:NnUNet",
    "reference": "tomodex.segmenters.reference:Reference",
    "phantom": "tomodex.segmenters.phantom:PhantomSegmenter",
    "none": "tomodex.segmenters.none:NoSegmenter",
}


class Segmenter(Protocol):
    """Loads its model when it is made, and keeps it."""

    reads_stored: bool  #: it needs the DICOM SEG objects that refer to the series

    def segment(self, volume: Volume, stored: Sequence[Path]) -> Segmentation | None:
        """Label `volume`; None where this segmenter has nothing to say and the next may try.

        Raises:
            Unsuitable: the volume cannot be segmented, now or later.
        """


@runtime_checkable
class Costly(Protocol):
    """A segmenter that takes longer than it takes to decode a series."""

    def seconds(self, volume: Volume) -> float:
        """How long `segment` takes, roughly, on a machine without a GPU; pixels are not read."""


def open_segmenter(url: str) -> Segmenter:
    """Open the segmenter that `url` names."""
    return cast(Segmenter, open_adapter("segmenter", url, ADAPTERS))


def require_segmenter(url: str) -> None:
    """See to it that there is a segmenter for `url`, without loading any model.

    Raises:
        Misconfigured: there is none, or what it needs is not installed.
    """
    find_adapter("segmenter", url, ADAPTERS)
