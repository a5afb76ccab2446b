"""The stored values of DICOM frames, in whatever way they are encoded.

    native      implicit, explicit, big endian, deflated      as they lie in the file
    fragments   RLE, JPEG, JPEG-LS, JPEG 2000, HTJ2K, raw     decoded by imagecodecs

What a header or a compressed frame claims is compared with what is there, before any memory is
asked for it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from io import SEEK_CUR, SEEK_END, BytesIO
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import imagecodecs
import numpy as np
import numpy.typing as npt

from tomodex.errors import Unavailable, Unsuitable
from tomodex.header import (
    DEFLATED,
    EXPLICIT,
    EXPLICIT_BIG_ENDIAN,
    IMPLICIT,
    MAX_HEADER,
    inflate,
)
from tomodex.instance import Instance

#: Single-frame files up to this size are read at once: a slice of 1024 x 1024 has 2 MiB.
_READ_AT_ONCE = 8 * 2**20
#: A compressed frame may have this many times the bytes of its pixels, and some more; JPEG of pure
#: noise has 1.1 (measured).
_COMPRESSED_TIMES, _COMPRESSED_MORE = 2, 2**20
#: Fragments of one instance: 6000 frames in pieces of 16 KiB have 200,000.
_MAX_FRAGMENTS = 250_000
#: Tiles of one JPEG 2000 frame: 1024 x 1024 in tiles of 64 x 64 has 256.
_MAX_TILES = 4096

_UNDEFINED = 0xFFFFFFFF
_ITEM, _END_OF_ITEMS = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
#: Last marker of JPEG, JPEG-LS and JPEG 2000; nothing but padding follows.
_END_OF_IMAGE = b"\xff\xd9"
#: JPEG's Start of Frame markers, and JPEG-LS's: size and precision stand behind them.
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
#: JPEG 2000's Start of Codestream and the Size marker that must follow it.
_START_OF_CODESTREAM = b"\xff\x4f\xff\x51"

Stored = npt.NDArray[np.uint16]
Piece = tuple[int, int]  #: (offset, length), bytes


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Pixels:
    """Where the frames of one instance lie, and how their values are written."""

    path: str
    content: bytes | None  #: the file, or what it inflates to; None: read frame by frame
    frames: Sequence[Sequence[Piece]]  #: of each frame its pieces
    transfer_syntax: str
    rows: int
    columns: int
    bits_allocated: int  #: 8 or 16
    big_endian: bool
    bits_stored: int
    shift: int  #: unused bits below the stored ones; more than 0 only in very old files
    signed: bool


def find_pixels(instance: Instance) -> Pixels:
    """Find the frames of an instance in its file, without decoding them.

    Raises:
        Unsuitable: they are not there (no_pixels), not whole (truncated), written as CT never is
            (unreadable), or become HU by a table (no_rescale).
        Unavailable: the file cannot be read.
    """
    _require_ct_pixels(instance)
    real = _as_it_lies(instance)
    try:
        content = _content(real)
        with _open(real.path, content) as file:
            frames = _find_frames(file, real)
    except OSError as trouble:
        raise Unavailable(f"a file cannot be read: {trouble.strerror}") from trouble
    return Pixels(
        path=real.path,
        content=content,
        frames=frames,
        transfer_syntax=real.transfer_syntax,
        rows=real.rows,
        columns=real.columns,
        bits_allocated=real.bits_allocated,
        big_endian=real.transfer_syntax == EXPLICIT_BIG_ENDIAN,
        bits_stored=real.bits_stored,
        shift=_shift(real),
        signed=real.pixel_representation == 1,
    )


def decode_frame(pixels: Pixels, frame: int) -> Stored:
    """The (rows, columns) values of one frame as they are stored: bit patterns of 16 bits.

    What they mean (`bits_stored`, `shift`, `signed`) is left to whoever makes numbers of them, and
    bits that are not stored ones may hold anything.

    Raises:
        Unsuitable: the frame cannot be decoded (unreadable) or ends too early (truncated).
        Unavailable: the file cannot be read.
    """
    if pixels.transfer_syntax in NATIVE:
        stored = _decode_raw(_read(pixels, pixels.frames[frame]), pixels)
        _require_shifted(stored, pixels)
        return stored
    most = _COMPRESSED_TIMES * _frame_bytes(pixels) + _COMPRESSED_MORE
    if sum(length for _, length in pixels.frames[frame]) > most:
        raise Unsuitable("unreadable", "a compressed frame is larger than its pixels")
    decode = _DECODERS[pixels.transfer_syntax]
    try:
        return decode(_read(pixels, pixels.frames[frame]), pixels)
    # imagecodecs has an error for each codec; all are RuntimeErrors.
    except (RuntimeError, ValueError) as trouble:
        raise Unsuitable("unreadable", "a compressed frame cannot be decoded") from trouble


# --- finding ----------------------------------------------------------------------------------


def _require_ct_pixels(instance: Instance) -> None:
    """Raises Unsuitable unless the pixels are what PS3.3 C.8.2.1.1 and C.8.15.2 let CT have.

    8 bits are there because lossy JPEG is usually written with them.
    """
    if not instance.has_pixels:
        raise Unsuitable("no_pixels", "no pixel data")
    if instance.transfer_syntax not in TRANSFER_SYNTAXES:
        raise Unsuitable("unreadable", "pixels are in a transfer syntax that CT does not use")
    if instance.samples_per_pixel != 1 or instance.photometric not in (
        "MONOCHROME1",
        "MONOCHROME2",
        "",
    ):
        raise Unsuitable("unreadable", "pixels are not grey values")
    if instance.bits_allocated not in (8, 16) or not (
        1 <= instance.bits_stored <= instance.bits_allocated
    ):
        found = f"{instance.bits_stored} bits stored in {instance.bits_allocated}"
        raise Unsuitable("unreadable", f"pixels have {found}; CT has up to 16 in 16")
    if min(instance.rows, instance.columns, instance.number_of_frames) < 1:
        raise Unsuitable("unreadable", "an instance has no rows, columns or frames")
    if instance.has_table and any(frame.rescale_slope is None for frame in instance.frames):
        raise Unsuitable("no_rescale", "values become HU by a table, not by slope and intercept")
    if instance.transfer_syntax == EXPLICIT_BIG_ENDIAN and instance.bits_allocated == 8:
        # Two pixels to a word, swapped or not depending on who wrote it.
        raise Unsuitable("unreadable", "8 bits in big endian are ambiguous")


def _as_it_lies(instance: Instance) -> Instance:
    """The instance with the transfer syntax that its pixels are really in.

    Some archives decompress and do not say so: what is as long as the pixels, is them.
    """
    if instance.transfer_syntax in NATIVE or instance.pixel_data is None:
        return instance
    raw = _pixel_bytes(instance)
    if instance.pixel_data[1] != raw + raw % 2:
        return instance
    return replace(instance, transfer_syntax=EXPLICIT)


def _content(instance: Instance) -> bytes | None:
    """All of a small single-frame file, or what a deflated one inflates to; else None."""
    path = Path(instance.path)
    if instance.transfer_syntax == DEFLATED:
        return _inflated(path, MAX_HEADER + _pixel_bytes(instance))
    if instance.number_of_frames > 1 or path.stat().st_size > _READ_AT_ONCE:
        return None
    return path.read_bytes()


def _inflated(path: Path, most: int) -> bytes:
    with path.open("rb") as stream:
        dataset = inflate(stream, most + 1)
    if len(dataset) > most:
        raise Unsuitable("unreadable", f"a deflated file grows beyond {most} bytes")
    return dataset


def _shift(instance: Instance) -> int:
    """How many unused bits lie below the stored ones (PS3.5 8.1.1).

    Codecs that know the precision give the stored bits alone, so there nothing lies below.
    """
    high_bit = instance.high_bit
    if high_bit is None or instance.transfer_syntax not in NATIVE | _BIT_EXACT:
        return 0
    shift = high_bit + 1 - instance.bits_stored
    if not 0 <= shift <= instance.bits_allocated - instance.bits_stored:
        raise Unsuitable(
            "unreadable", f"high bit {high_bit} does not fit {instance.bits_stored} stored bits"
        )
    return shift


def _find_frames(file: BinaryIO, instance: Instance) -> list[list[Piece]]:
    """The pieces of every frame; all lie within the file."""
    if instance.pixel_data is None:
        raise Unsuitable("no_pixels", "no pixel data, or none of whole numbers")
    start, length = instance.pixel_data
    end = file.seek(0, SEEK_END)
    if instance.transfer_syntax not in NATIVE:
        if length != _UNDEFINED:
            raise Unsuitable("unreadable", "pixels should be in fragments, and are not")
        file.seek(start)
        return _encapsulated_frames(file, end, instance.number_of_frames)
    size = _pixel_bytes(instance) // instance.number_of_frames
    if length == _UNDEFINED:
        raise Unsuitable("unreadable", "pixels are in fragments, and should not be")
    present = max(0, min(length, end - start))
    if present < _pixel_bytes(instance):
        raise Unsuitable(
            "truncated", f"{_pixel_bytes(instance)} bytes of pixels expected, {present} found"
        )
    return [[(start + k * size, size)] for k in range(instance.number_of_frames)]


def _encapsulated_frames(file: BinaryIO, end: int, count: int) -> list[list[Piece]]:
    """The fragments of every frame (PS3.5 A.4), from where the file stands."""
    table, *fragments = _fragments(file, end)
    if len(fragments) < count:
        raise Unsuitable("truncated", f"{count} frames expected, {len(fragments)} fragments found")
    # One each is unmistakable, and all that RLE and the Extended Offset Table allow.
    if len(fragments) == count:
        return [[fragment] for fragment in fragments]
    firsts = [0] if count == 1 else _firsts(file, table, fragments)
    if len(firsts) != count:
        raise Unsuitable("unreadable", f"{count} frames expected, {len(firsts)} found")
    return [fragments[a:b] for a, b in pairwise([*firsts, len(fragments)])]


def _fragments(file: BinaryIO, end: int) -> list[Piece]:
    """All items of encapsulated pixels: the Basic Offset Table, then the fragments."""
    found: list[Piece] = []
    while len(head := file.read(8)) == 8 and head[:4] != _END_OF_ITEMS:
        start, length = file.tell(), int.from_bytes(head[4:], "little")
        if head[:4] != _ITEM or len(found) > _MAX_FRAGMENTS:
            raise Unsuitable("unreadable", "pixels are in fragments that make no sense")
        if start + length > end:
            raise Unsuitable("truncated", f"the file ends {start + length - end} bytes too early")
        found.append((start, length))
        file.seek(length, SEEK_CUR)
    if not found:
        raise Unsuitable("truncated", "pixels should be in fragments, and there are none")
    return found


def _firsts(file: BinaryIO, table: Piece, fragments: Sequence[Piece]) -> list[int]:
    """Index of the first fragment of every frame, by the offset table, else by end markers."""
    if table[1]:
        file.seek(table[0])
        offsets = np.frombuffer(file.read(table[1] // 4 * 4), "<u4").tolist()
        index = {start - fragments[0][0]: k for k, (start, _) in enumerate(fragments)}
        return sorted({index[offset] for offset in offsets if offset in index})
    ends = [k for k, fragment in enumerate(fragments) if _ends_image(file, fragment)]
    return [0, *(k + 1 for k in ends if k + 1 < len(fragments))]


def _ends_image(file: BinaryIO, fragment: Piece) -> bool:
    start, length = fragment
    file.seek(start + max(0, length - 10))
    return _END_OF_IMAGE in file.read(min(length, 10))


# --- reading ----------------------------------------------------------------------------------


def _open(path: str, content: bytes | None) -> BinaryIO:
    return Path(path).open("rb") if content is None else BytesIO(content)


def _read(pixels: Pixels, pieces: Sequence[Piece]) -> bytes:
    """The bytes of one frame."""
    try:
        with _open(pixels.path, pixels.content) as file:
            return b"".join(_piece(file, piece) for piece in pieces)
    except OSError as trouble:
        raise Unavailable(f"a file cannot be read: {trouble.strerror}") from trouble


def _piece(file: BinaryIO, piece: Piece) -> bytes:
    file.seek(piece[0])
    return file.read(piece[1])


def _pixel_bytes(instance: Instance) -> int:
    """What all frames of an instance take uncompressed."""
    frame = instance.rows * instance.columns * (instance.bits_allocated // 8)
    return frame * instance.number_of_frames


def _frame_bytes(pixels: Pixels) -> int:
    return pixels.rows * pixels.columns * (pixels.bits_allocated // 8)


# --- decoding ---------------------------------------------------------------------------------


def _decode_raw(frame: bytes | bytearray, pixels: Pixels) -> Stored:
    if len(frame) < _frame_bytes(pixels):
        raise Unsuitable("truncated", f"a frame has {len(frame)} bytes of {_frame_bytes(pixels)}")
    order = ">" if pixels.big_endian else "<"
    values = np.frombuffer(
        frame, f"{order}u{pixels.bits_allocated // 8}", count=pixels.rows * pixels.columns
    )
    return _as_patterns(values.reshape(pixels.rows, pixels.columns), pixels)


def _require_shifted(stored: Stored, pixels: Pixels) -> None:
    """Raises Unsuitable where High Bit says the top of a word, and the values lie at its bottom."""
    if not pixels.shift:
        return
    below, above = stored & 2**pixels.shift - 1, stored >> pixels.bits_stored
    sign = 2 ** (16 - pixels.bits_stored) - 1 if pixels.signed else 0
    if below.any() and np.isin(above, (0, sign)).all():
        raise Unsuitable("unreadable", "the high bit is not where the values have theirs")


def _decode_rle(frame: bytes, pixels: Pixels) -> Stored:
    """PS3.5 Annex G; a frame that decodes to more than its pixels is refused by the codec."""
    values = imagecodecs.dicomrle_decode(
        frame, f"<u{pixels.bits_allocated // 8}", out=_frame_bytes(pixels)
    )
    return _decode_raw(values, pixels)


def _decode_jpeg(frame: bytes, pixels: Pixels) -> Stored:
    """Every process of ISO/IEC 10918-1 that DICOM names: 8 and 12 bits, and lossless up to 16."""
    _require_jpeg_size(frame, pixels)
    return _as_patterns(imagecodecs.jpeg8_decode(frame), pixels)


def _decode_jpegls(frame: bytes, pixels: Pixels) -> Stored:
    _require_jpeg_size(frame, pixels)
    return _as_patterns(imagecodecs.jpegls_decode(frame), pixels)


def _decode_jpeg2k(frame: bytes, pixels: Pixels) -> Stored:
    """JPEG 2000 and HTJ2K by OpenJPEG.

    OpenJPH is twice as fast on HTJ2K, but through imagecodecs 2026.3 a broken frame comes back as
    whatever was in memory, without an error.
    """
    _require_jpeg2k_size(frame, pixels)
    return _as_patterns(imagecodecs.jpeg2k_decode(frame), pixels)


def _as_patterns(values: npt.NDArray[np.generic], pixels: Pixels) -> Stored:
    """Decoded values as 16 bits each; negative ones in two's complement."""
    if values.shape != (pixels.rows, pixels.columns):
        raise Unsuitable("unreadable", f"a frame decodes to {values.shape}")
    if values.dtype.itemsize > 2 or values.dtype.kind not in "iu":
        raise Unsuitable("unreadable", f"a frame decodes to {values.dtype} values")
    if values.dtype.kind == "i":
        return values.astype(np.int16, copy=False).view(np.uint16)
    return values.astype(np.uint16, copy=False)


def _require_jpeg_size(frame: bytes, pixels: Pixels) -> None:
    """Raises Unsuitable unless a JPEG or JPEG-LS frame is whole and as large as the header says.

    libjpeg fills up a frame that ends early with grey, so that its end must be looked for.
    """
    at = 2
    while frame[:2] == b"\xff\xd8" and at + 10 <= len(frame) and frame[at] == 0xFF:
        marker, length = struct.unpack_from(">xBH", frame, at)
        if marker in _START_OF_FRAME:
            bits, rows, columns, components = struct.unpack_from(">BHHB", frame, at + 4)
            _require_claim(rows, columns, components, bits, pixels)
            return _require_end(frame)
        at += 1 if marker == 0xFF else 2 + length
    raise Unsuitable("unreadable", "a frame is no JPEG")


def _require_jpeg2k_size(frame: bytes, pixels: Pixels) -> None:
    """The same for JPEG 2000 (ISO/IEC 15444-1 A.5.1), bare or in a JP2 file."""
    at = frame.find(_START_OF_CODESTREAM, 0, 4096)
    if at < 0 or len(frame) < at + 43:
        raise Unsuitable("unreadable", "a frame is no JPEG 2000")
    x, y, x0, y0, wide, high = struct.unpack_from(">6I", frame, at + 8)
    components, bits = struct.unpack_from(">HB", frame, at + 40)
    _require_claim(y - y0, x - x0, components, (bits & 0x7F) + 1, pixels)
    if not wide or not high or -(-x // wide) * -(-y // high) > _MAX_TILES:
        raise Unsuitable("unreadable", f"a frame has tiles of {high} x {wide}")
    _require_end(frame)


def _require_claim(rows: int, columns: int, components: int, bits: int, pixels: Pixels) -> None:
    if (rows, columns, components) != (pixels.rows, pixels.columns, 1) or bits > 16:
        raise Unsuitable(
            "unreadable",
            f"a compressed frame is {rows} x {columns} x {components} of {bits} bits,"
            f" its header says {pixels.rows} x {pixels.columns}",
        )


def _require_end(frame: bytes) -> None:
    if frame.rfind(_END_OF_IMAGE, max(0, len(frame) - 64)) < 0:
        raise Unsuitable("truncated", "a compressed frame has no end")


#: UIDs of the transfer syntaxes whose pixels are not compressed on their own.
NATIVE = frozenset({IMPLICIT, EXPLICIT, EXPLICIT_BIG_ENDIAN, DEFLATED})

_DECODERS: Mapping[str, Callable[[bytes, Pixels], Stored]] = {
    "1.2.840.10008.1.2.1.98": _decode_raw,  # Encapsulated Uncompressed
    "1.2.840.10008.1.2.5": _decode_rle,
    "1.2.840.10008.1.2.4.50": _decode_jpeg,  # baseline, 8 bits
    "1.2.840.10008.1.2.4.51": _decode_jpeg,  # extended, 12 bits
    "1.2.840.10008.1.2.4.53": _decode_jpeg,  # spectral selection, retired
    "1.2.840.10008.1.2.4.55": _decode_jpeg,  # full progression, retired
    "1.2.840.10008.1.2.4.57": _decode_jpeg,  # lossless
    "1.2.840.10008.1.2.4.70": _decode_jpeg,  # lossless, first-order prediction
    "1.2.840.10008.1.2.4.80": _decode_jpegls,
    "1.2.840.10008.1.2.4.81": _decode_jpegls,  # near-lossless
    "1.2.840.10008.1.2.4.90": _decode_jpeg2k,  # lossless
    "1.2.840.10008.1.2.4.91": _decode_jpeg2k,
    "1.2.840.10008.1.2.4.201": _decode_jpeg2k,  # HTJ2K lossless
    "1.2.840.10008.1.2.4.202": _decode_jpeg2k,  # HTJ2K lossless, RPCL
    "1.2.840.10008.1.2.4.203": _decode_jpeg2k,  # HTJ2K
}

#: UIDs of those whose files hold every byte of their pixels.
UNCOMPRESSED = NATIVE - {DEFLATED} | {"1.2.840.10008.1.2.1.98"}

#: Those of the above that keep every allocated bit where it was.
_BIT_EXACT = frozenset({"1.2.840.10008.1.2.1.98", "1.2.840.10008.1.2.5"})

#: UIDs of all transfer syntaxes that can be decoded.
TRANSFER_SYNTAXES = NATIVE | frozenset(_DECODERS)
