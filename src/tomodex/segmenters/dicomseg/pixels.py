"""The stored values of the frames of a DICOM SEG: bits, fractions or segment numbers.

one bit         eight pixels to a byte, frames following each other within a byte
deflated        each frame on its own (PS3.5 A.4.14)
anything else   whole bytes, as CT may have them too: `tomodex.pixels`
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from math import ceil
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tomodex.errors import Unavailable, Unsuitable
from tomodex.instance import Instance
from tomodex.pixels import NATIVE, Pixels, decode_frame, find_pixels
from tomodex.segmenters.dicomseg.seg import Seg

#: Deflated Image Frame Compression.
DEFLATED_FRAMES = "1.2.840.10008.1.2.8.1"
#: JPEG-LS: the fragments of deflated frames are found as if they held it.
_ENCAPSULATED = "1.2.840.10008.1.2.4.80"

Values = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

#: Gives the (rows, columns) values of a frame by its index.
ReadFrame = Callable[[int], Values]


def find_frames(seg: Seg) -> ReadFrame:
    """Find the frames of a SEG in its file; what is returned reads one at a time.

    Raises, as does what is returned:
        Unsuitable: they are not there, not whole, or written as no SEG may be.
        Unavailable: the file cannot be read.
    """
    if seg.transfer_syntax == DEFLATED_FRAMES:
        return _deflated(seg)
    if seg.bits_allocated == 1 and seg.transfer_syntax in NATIVE:
        return _packed(seg)
    pixels = find_pixels(
        _as_ct(
            seg,
            rows=seg.rows,
            columns=seg.columns,
            number_of_frames=len(seg.frames),
            bits_allocated=seg.bits_allocated,
            bits_stored=seg.bits_stored,
        )
    )
    # Bits that are not stored may hold anything.
    stored = np.uint16((1 << seg.bits_stored) - 1)
    return lambda index: decode_frame(pixels, index) & stored


def _as_ct(
    seg: Seg,
    *,
    rows: int,
    columns: int,
    number_of_frames: int,
    bits_allocated: int,
    bits_stored: int,
    transfer_syntax: str = "",
) -> Instance:
    """A CT instance that has its pixels where the SEG has them."""
    return Instance(
        path=str(seg.path),
        series_uid="",
        study_uid="",
        sop_uid=seg.sop_uid,
        sop_class="",
        modality="SEG",
        transfer_syntax=transfer_syntax or seg.transfer_syntax,
        rows=rows,
        columns=columns,
        number_of_frames=number_of_frames,
        bits_allocated=bits_allocated,
        bits_stored=bits_stored,
        has_pixels=True,
        pixel_data=seg.pixel_data,
    )


# --- one bit ------------------------------------------------------------------------------------


def _packed(seg: Seg) -> ReadFrame:
    pixels_of_frame = seg.rows * seg.columns
    # As one row of bytes, because a frame need not begin with a byte.
    size = ceil(pixels_of_frame * len(seg.frames) / 8)
    whole = _as_ct(
        seg, rows=1, columns=size, number_of_frames=1, bits_allocated=8, bits_stored=seg.bits_stored
    )
    pixels = find_pixels(whole)
    ((start, _),) = pixels.frames[0]

    def read(index: int) -> Values:
        first, end = index * pixels_of_frame, (index + 1) * pixels_of_frame
        packed = _read(pixels, start + first // 8, ceil(end / 8) - first // 8)
        return _unpack(packed, first % 8, seg)

    return read


def _unpack(packed: bytes, skip: int, seg: Seg) -> Values:
    """The lowest bit of a byte is the first pixel (PS3.5 8.1.1); `skip` bits are not ours."""
    end = skip + seg.rows * seg.columns
    bits = np.unpackbits(np.frombuffer(packed, np.uint8), count=end, bitorder="little")
    return bits[skip:].reshape(seg.rows, seg.columns)


# --- deflated -----------------------------------------------------------------------------------


def _deflated(seg: Seg) -> ReadFrame:
    if seg.bits_allocated not in (1, 8, 16):
        raise Unsuitable("unreadable", f"a segmentation has {seg.bits_allocated} bits a pixel")
    size = ceil(seg.rows * seg.columns * seg.bits_allocated / 8)
    raw = _as_ct(
        seg,
        rows=1,
        columns=size,
        number_of_frames=len(seg.frames),
        bits_allocated=8,
        bits_stored=8,
        transfer_syntax=_ENCAPSULATED,
    )
    pixels = find_pixels(raw)

    def read(index: int) -> Values:
        pieces = pixels.frames[index]
        packed = _inflate(b"".join(_read(pixels, *piece) for piece in pieces), size)
        if seg.bits_allocated == 1:
            return _unpack(packed, 0, seg)
        values = np.frombuffer(packed, f"<u{seg.bits_allocated // 8}", seg.rows * seg.columns)
        return values.reshape(seg.rows, seg.columns)

    return read


def _inflate(frame: bytes, size: int) -> bytes:
    """The `size` bytes that a frame inflates to, and perhaps one that makes their number even."""
    try:
        inflated = zlib.decompressobj(-zlib.MAX_WBITS).decompress(frame, size + 1)
    except zlib.error as trouble:
        raise Unsuitable("unreadable", "a frame cannot be inflated") from trouble
    if len(inflated) < size:
        raise Unsuitable("truncated", f"a frame inflates to {len(inflated)} bytes of {size}")
    return inflated


def _read(pixels: Pixels, start: int, length: int) -> bytes:
    if pixels.content is not None:
        return pixels.content[start : start + length]
    try:
        with Path(pixels.path).open("rb", buffering=0) as file:
            file.seek(start)
            return file.read(length)
    except OSError as refused:
        raise Unavailable(f"a file cannot be read: {refused.strerror}") from refused
