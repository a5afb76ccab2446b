"""Finds nothing: the series is findable by its tags and its geometry alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tomodex.segmentation import Segmentation
from tomodex.volume import Volume


class NoSegmenter:
    """`none:`"""

    reads_stored = False

    def __init__(self, url: str) -> None:
        pass

    def segment(self, volume: Volume, stored: Sequence[Path]) -> Segmentation | None:
        """Nothing, so that the series counts as not segmented."""
        return None
