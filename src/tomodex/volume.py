"""A CT volume in Hounsfield units, and how it is put together from DICOM instances."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache, partial
from math import isfinite, prod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tomodex.errors import Unavailable, Unsuitable
from tomodex.geometry import Geometry
from tomodex.instance import Frame, Instance
from tomodex.pixels import UNCOMPRESSED, Pixels, decode_frame, find_pixels

#: Voxels of the largest volume: 512 x 512 x 6000, 3 GiB. A whole body at 0.4 mm has 5000 slices.
MAX_VOXELS = 512 * 512 * 6000

#: Slices that are decoded ahead of the one that is wanted, for each thread.
_AHEAD = 2
#: No pixels are packed more tightly. A uniform 512 x 512 slice has 182 bytes as JPEG 2000 (1 to
#: 2,900, measured), the best of all codecs here, and 1024 x 1024 hardly more.
_TIGHTEST = 15_000

Slice = npt.NDArray[np.int16]  #: (rows, columns), HU


class Volume:
    """Voxels with their place in the patient.

    The affine may be sheared (gantry tilt) and point anywhere (coronal, oblique): it is exact, and
    nothing is resampled to make it simpler.
    """

    affine: npt.NDArray[np.float64]  #: (4, 4), (slice, row, column, 1) -> LPS position, mm
    modality: str  #: (0008,0060): what the values mean, and which model understands them
    is_phantom: bool  #: `tomodex.phantom` drew it, by the header of each of its instances

    def __init__(
        self,
        voxels: npt.NDArray[np.int16],
        affine: npt.NDArray[np.float64],
        modality: str = "CT",
        *,
        is_phantom: bool = False,
    ) -> None:
        self._voxels = voxels
        self.affine = affine
        self.modality = modality
        self.is_phantom = is_phantom

    @property
    def voxels(self) -> npt.NDArray[np.int16]:
        """(slices, rows, columns), HU."""
        return self._voxels

    @property
    def shape(self) -> tuple[int, int, int]:
        """(slices, rows, columns)."""
        slices, rows, columns = self.voxels.shape
        return slices, rows, columns

    @property
    def voxel_volume_ml(self) -> float:
        """Size of one voxel, also where the gantry is tilted."""
        return abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    def slices(self) -> Iterator[Slice]:
        """Its slices in their order, for whoever takes one after the other and needs no two."""
        return iter(self.voxels)


class FiledVolume(Volume):
    """A volume whose voxels still lie in files.

    `slices` decodes them while they are taken, and holds a few. `voxels` decodes all when it is
    first asked for them, and keeps them. Both raise what `load_volume` raises.
    """

    def __init__(
        self, instances: Sequence[Instance], geometry: Geometry, threads: int | None = None
    ) -> None:
        self.affine = geometry.affine.copy()
        self.modality = instances[0].modality or "CT"
        self.is_phantom = all(instance.is_phantom for instance in instances)
        self._geometry = geometry
        self._decode_slices = partial(decode_slices, instances, geometry, threads)
        self._kept: npt.NDArray[np.int16] | None = None
        self._was_read = False

    @property
    def voxels(self) -> npt.NDArray[np.int16]:
        """(slices, rows, columns), HU."""
        if self._kept is None:
            slices = self._decode()
            voxels = np.empty(self.shape, np.int16)
            for k, hu in enumerate(slices):
                voxels[k] = hu
            self._kept = voxels
        return self._kept

    @property
    def shape(self) -> tuple[int, int, int]:
        """(slices, rows, columns), known from the headers."""
        return self._geometry.shape

    def slices(self) -> Iterator[Slice]:
        """Its slices in their order, decoded a few ahead."""
        return self._decode() if self._kept is None else iter(self._kept)

    def require_pixels(self) -> None:
        """Decode what nobody has taken: a broken series must not pass because nobody looked.

        Raises:
            Unsuitable: as `load_volume`.
            Unavailable: as `load_volume`.
        """
        if not self._was_read:
            deque(self._decode(), maxlen=0)

    def _decode(self) -> Iterator[Slice]:
        # Not a generator itself: files that are too small are refused before anybody makes room.
        return self._to_the_end(self._decode_slices())

    def _to_the_end(self, slices: Iterator[Slice]) -> Iterator[Slice]:
        yield from slices
        self._was_read = True


def open_volume(
    instances: Sequence[Instance],
    geometry: Geometry,
    max_voxels: int = MAX_VOXELS,
    threads: int | None = None,
) -> FiledVolume:
    """The volume of `geometry`, its pixels not looked at yet; None decodes on all cores.

    Raises:
        Unsuitable: there are more than `max_voxels` (too_large).
    """
    if prod(geometry.shape) > max_voxels:
        found = " x ".join(map(str, geometry.shape))
        raise Unsuitable("too_large", f"{found} voxels are more than {max_voxels}")
    return FiledVolume(instances, geometry, threads)


def load_volume(
    instances: Sequence[Instance], geometry: Geometry, max_voxels: int = MAX_VOXELS
) -> Volume:
    """The voxels of `geometry`, decoded on all cores; it holds a few slices besides the volume.

    Raises:
        Unsuitable: pixels are not there, not whole, not readable or not HU, with the reason
            no_pixels, truncated, unreadable or no_rescale; or there are too many (too_large).
        Unavailable: a file cannot be read.
    """
    filed = open_volume(instances, geometry, max_voxels)
    return Volume(filed.voxels, filed.affine, filed.modality, is_phantom=filed.is_phantom)


def decode_slices(
    instances: Sequence[Instance], geometry: Geometry, threads: int | None = None
) -> Iterator[Slice]:
    """The HU of `geometry`, one (rows, columns) slice after the other; see `load_volume`.

    Slices of a slightly uneven stack are resampled onto the even grid.
    """
    _require_backing(instances, geometry)
    slices = _decode_in_order(instances, geometry.slices, threads or _usable_cores())
    return slices if geometry.places is None else _resample(slices, geometry.places)


def _require_backing(instances: Sequence[Instance], geometry: Geometry) -> None:
    """Raises Unsuitable unless the files are large enough for what their headers claim."""
    for i, used in Counter(i for i, _ in geometry.slices).items():
        claimed = used * prod(geometry.shape[1:]) * (instances[i].bits_allocated // 8)
        tightest = 1 if instances[i].transfer_syntax in UNCOMPRESSED else _TIGHTEST
        present = _file_bytes(instances[i])
        if claimed > present * tightest:
            raise Unsuitable("truncated", f"{claimed} bytes of pixels in a file of {present}")


def _file_bytes(instance: Instance) -> int:
    try:
        return Path(instance.path).stat().st_size
    except OSError as trouble:
        raise Unavailable(f"a file cannot be read: {trouble.strerror}") from trouble


# --- decoding ---------------------------------------------------------------------------------


def _decode_in_order(
    instances: Sequence[Instance], slices: Sequence[tuple[int, int]], threads: int
) -> Iterator[Slice]:
    """Decode a few slices ahead of whoever takes them."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Slice]] = deque()
        for task in _tasks(instances, slices):
            waiting.append(pool.submit(task))
            if len(waiting) > _AHEAD * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _tasks(
    instances: Sequence[Instance], slices: Sequence[tuple[int, int]]
) -> Iterator[Callable[[], Slice]]:
    """What makes each slice. The pixels of an instance of many frames are found only once."""
    left = Counter(i for i, _ in slices)
    found: dict[int, Pixels] = {}
    shared = {i for i, uses in left.items() if uses > 1}
    for k, (i, frame) in enumerate(slices):
        name = f"slice {k + 1} of {len(slices)}"
        if i in shared and i not in found:
            with _named(name):
                found[i] = find_pixels(instances[i])
        yield partial(_decode_hu, instances[i], frame, found.get(i), name)
        left[i] -= 1
        if not left[i]:
            found.pop(i, None)


def _decode_hu(instance: Instance, frame: int, pixels: Pixels | None, name: str) -> Slice:
    """HU of one frame; `pixels` are found here where nobody else needs them."""
    with _named(name):
        slope, intercept = _rescale(instance, instance.frames[frame])
        known = pixels or find_pixels(instance)
        table = _hu_table(known.bits_stored, known.shift, known.signed, slope, intercept)
        hu: Slice = np.take(table, decode_frame(known, frame), mode="clip")
        return hu


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Says which slice it is that an error speaks of."""
    try:
        yield
    except Unsuitable as trouble:
        raise Unsuitable(trouble.reason, f"{name}: {trouble.sentence}") from trouble


def _rescale(instance: Instance, frame: Frame) -> tuple[float, float]:
    """Slope and intercept of a frame (PS3.3 C.11.1).

    Where the header has neither, signed values are taken for HU. Unsigned ones cannot be, as air
    is negative.
    """
    if frame.rescale_slope is None and frame.rescale_intercept is None:
        if instance.pixel_representation == 1:
            return 1.0, 0.0
        raise Unsuitable("no_rescale", "unsigned pixels, and nothing that makes them HU")
    slope = 1.0 if frame.rescale_slope is None else frame.rescale_slope
    intercept = frame.rescale_intercept
    if intercept is None or slope == 0 or not (isfinite(slope) and isfinite(intercept)):
        raise Unsuitable("no_rescale", "slope and intercept do not make HU of pixels")
    return slope, intercept


@lru_cache(maxsize=16)
def _hu_table(
    bits_stored: int, shift: int, signed: bool, slope: float, intercept: float
) -> npt.NDArray[np.int16]:
    """(65536,): the HU of every bit pattern, rounded to nearest and cut off to int16.

    Bits that are not stored ones are passed over: old files keep overlays in them (PS3.5 8.1.1).
    Values that mean padding are rescaled like all others; MONOCHROME1 is not turned round, as it
    says how to show values, not what they are.
    """
    stored = np.arange(2**16) >> shift & 2**bits_stored - 1
    if signed:
        stored = np.where(stored < 2 ** (bits_stored - 1), stored, stored - 2**bits_stored)
    with np.errstate(over="ignore"):
        hu = np.rint(stored * slope + intercept)
    table: npt.NDArray[np.int16] = np.clip(hu, -(2**15), 2**15 - 1).astype(np.int16)
    return table


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --- resampling -------------------------------------------------------------------------------


def _resample(slices: Iterator[Slice], places: npt.NDArray[np.float64]) -> Iterator[Slice]:
    """Slices at 0, 1, 2, ... of the grid, linear between the two that lie around each.

    The way from slice to slice is straight, so the same row and column lie on one line through all
    slices, sheared or not.
    """
    below, above = next(slices), next(slices)
    k = 0
    for place in range(len(places)):
        while places[k + 1] < place:
            below, above = above, next(slices)
            k += 1
        share = (place - places[k]) / (places[k + 1] - places[k])
        mixed = below + np.float32(share) * (above.astype(np.float32) - below)
        yield np.rint(mixed).astype(np.int16)
