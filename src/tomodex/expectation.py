"""How long a series is expected to take, by its size."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from tomodex.segmenters import Costly, Segmenter
from tomodex.series import Series
from tomodex.volume import Volume

#: For an instance to come and its header to be read: five a second is a slow archive.
INSTANCE_S = 0.2
#: An archive that does not say how many instances there are is taken to have so many.
INSTANCES = 2000

#: To decode and to measure a voxel: JPEG 2000, the slowest, takes a core 0.11 us (measured).
VOXEL_S = 0.3e-6


def expect_retrieval(series: Series) -> tuple[float, str]:
    """Seconds until the headers of a series are read, and its size for a person."""
    count = series.instance_count or INSTANCES
    return INSTANCE_S * count, f"a series of {count} instances"


def expect_work(volume: Volume, segmenters: Sequence[Segmenter]) -> tuple[float, str]:
    """Seconds to decode, segment and measure a volume, if every segmenter is asked; its size."""
    costs = [s.seconds(volume) for s in segmenters if isinstance(s, Costly)]
    size = " x ".join(map(str, volume.shape))
    return VOXEL_S * prod(volume.shape) + sum(costs), f"a volume of {size} voxels"
