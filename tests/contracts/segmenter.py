"""What every segmenter promises; each adapter's tests inherit this."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tomodex.measurement import measure
from tomodex.segmenters import Segmenter
from tomodex.terminology import load_terminology
from tomodex.volume import Volume


class SegmenterContract:
    @pytest.fixture
    def segmenter(self) -> Segmenter:
        raise NotImplementedError

    @pytest.fixture
    def volume(self) -> Volume:
        """A volume with something to find in it, if the segmenter finds anything at all."""
        raise NotImplementedError

    @pytest.fixture
    def stored(self, volume: Volume) -> Sequence[Path]:
        return ()

    @pytest.fixture
    def structures(self) -> set[str]:
        """Names of what is to be found in the volume."""
        return set()

    def test_finds_what_is_there(
        self, segmenter: Segmenter, volume: Volume, stored: Sequence[Path], structures: set[str]
    ) -> None:
        found = segmenter.segment(volume, stored)
        assert set(measure(found) if found else ()) == structures
        assert (found is None) == (not structures)

    def test_labels_lie_on_the_volume_and_have_names_of_our_terminology(
        self, segmenter: Segmenter, volume: Volume, stored: Sequence[Path]
    ) -> None:
        found = segmenter.segment(volume, stored)
        if found is None:
            return
        assert found.volume is volume
        known = load_terminology().structures
        for layer, names in zip(found.layers, found.names, strict=True):
            assert layer.shape == volume.voxels.shape
            assert set(np.unique(layer).tolist()) <= {0, *names}
            assert set(names.values()) <= set(known)

    def test_the_same_volume_gives_the_same_labels(
        self, segmenter: Segmenter, volume: Volume, stored: Sequence[Path]
    ) -> None:
        one, other = (segmenter.segment(volume, stored) for _ in range(2))
        assert (one is None) == (other is None)
        if one and other:
            assert one.names == other.names
            assert one.algorithm == other.algorithm
            for first, second in zip(one.layers, other.layers, strict=True):
                assert np.array_equal(first, second)

    def test_leaves_the_volume_as_it_was(
        self, segmenter: Segmenter, volume: Volume, stored: Sequence[Path]
    ) -> None:
        before = volume.voxels.copy()
        segmenter.segment(volume, stored)
        assert np.array_equal(volume.voxels, before)

    def test_says_whether_it_reads_what_is_stored(self, segmenter: Segmenter) -> None:
        assert segmenter.reads_stored in (True, False)
