"""The header of a DICOM file, read by pydicom from a copy of the file's first bytes.

pydicom finds the elements. What is here keeps it away from files that are no DICOM and from bytes
that a header only claims to have. No value is converted before somebody asks for it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import IO

from pydicom.datadict import keyword_dict
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import data_element_generator
from pydicom.tag import BaseTag
from pydicom.valuerep import VR

from tomodex.elements import BROKEN, CUT, Elements, quietly
from tomodex.errors import Unsuitable

MAX_HEADER = 64 * 2**20  #: bytes of one header that are held; 20,000 enhanced CT frames fit
#: Items of sequences. Each takes 0.8 kB when pydicom has read it (measured); a segmentation of
#: 65,000 frames has 500,000.
MAX_ITEMS = 2**20
FIRST_READ = 16 * 2**10  #: bytes; most classic headers end before
_PIECE = 2**20  # bytes of a deflated file that are inflated at a time

IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
EXPLICIT_BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"

_UNDEFINED = 0xFFFFFFFF
_ITEMS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")  #: (FFFE,E000), little and big endian
_PIXEL_DATA, _FIRST_PIXEL_TAG = 0x7FE00010, 0x7FE00008  # float and double float stand before
_VRS = frozenset(vr.value for vr in VR)
_TAGS = frozenset(keyword_dict.values())

_Found = dict[BaseTag, RawDataElement | DataElement]
_Stop = Callable[[int, str | None, int], bool]  #: whether to stop at this tag, VR and length


@dataclass(frozen=True, slots=True)
class _Form:
    """How the elements of a dataset are written (PS3.5 A.1 to A.4)."""

    explicit: bool  #: each element says its value representation
    little: bool = True  #: little endian


@dataclass(frozen=True, slots=True)
class _End:
    """The element at which reading stopped."""

    tag: int
    start: int  #: of the element, bytes
    value: int  #: where its value begins, bytes
    length: int  #: of its value as it claims; 0xFFFFFFFF: undefined


# --- a file -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Header:
    """What was found before the pixels."""

    meta: Elements  #: File Meta Information (group 0002); empty where the file has none
    elements: Elements
    transfer_syntax: str
    #: Where the value of Pixel Data (7FE0,0010) begins and how long it claims to be, bytes; of a
    #: deflated file, in what it inflates to. None: there is none.
    pixel_data: tuple[int, int] | None


def read_header(stream: IO[bytes]) -> Header | None:
    """The elements before the pixels; None if this is no DICOM file.

    Files without preamble, without file meta, or older than DICOM (ACR-NEMA) are read as well. A
    file that ends early has the elements before its end, and no pixels.

    Raises:
        Unsuitable: it is DICOM, but cannot be read, or ends within a sequence ("unreadable").
    """
    prefix = _Prefix(stream.read)
    if (start := _start_of_dicom(prefix.held)) is None:
        return None
    found, start = _scan_meta(prefix, start)
    meta = Elements(Dataset(found))
    syntax = meta.text("TransferSyntaxUID")
    if syntax == DEFLATED:
        inflated = _inflate(prefix.held[start:], stream, MAX_HEADER + 1)
        prefix, start = _Prefix(BytesIO(inflated).read), 0
    form = _form_of(prefix.held[start : start + 6], syntax)
    found, end = _scan(prefix, start, form, lambda tag, vr, length: tag >= _FIRST_PIXEL_TAG)
    return Header(
        meta=meta,
        elements=Elements(Dataset(found)),
        transfer_syntax=_syntax_of(form, syntax),
        pixel_data=(end.value, end.length) if end and end.tag == _PIXEL_DATA else None,
    )


def inflate(stream: IO[bytes], most: int) -> bytes:
    """The dataset of a deflated file (PS3.5 A.5), or its first `most` bytes.

    Raises:
        Unsuitable: it cannot be inflated ("unreadable").
    """
    prefix = _Prefix(stream.read)
    _, start = _scan_meta(prefix, _start_of_dicom(prefix.held) or 0)
    return _inflate(prefix.held[start:], stream, most)


def _inflate(begun: bytes, stream: IO[bytes], most: int) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated, packed = bytearray(), begun
    try:
        while packed and len(inflated) < most:
            inflated += inflater.decompress(packed, most - len(inflated))
            packed = stream.read(_PIECE)
    except zlib.error as broken:
        raise Unsuitable("unreadable", "its deflated dataset is broken") from broken
    return bytes(inflated)


def _start_of_dicom(held: bytes) -> int | None:
    """Where file meta or dataset begin; None if this is no DICOM file."""
    if held[128:132] == b"DICM":
        # The four letters may also stand in the text of a file without preamble.
        inside = held[132:134] != b"\x02\0" and _looks_like_elements(held)
        return 0 if inside else 132
    if held[:4] == b"DICM" and _looks_like_elements(held[4:]):
        return 4
    return 0 if _looks_like_elements(held) else None


def _looks_like_elements(held: bytes) -> bool:
    """Three elements in ascending order, short, in groups that a dataset can begin with.

    Strict on purpose: without the magic number, nothing else must be taken for DICOM.
    """
    if held[:2] not in (b"\x02\0", b"\x08\0", b"\0\x08"):
        return False
    form = _form_of(held[:6], "")
    tags = [-1]

    def is_odd(tag: int, vr: str | None, length: int) -> bool:
        known = vr in _VRS if form.explicit else length % 2 == 0
        follows = known and tags[-1] < tag <= 0x0010FFFF and length <= 1024
        tags.append(tag)
        return not follows

    try:
        found, _ = _scan_once(held, 0, form, is_odd)
    except (Unsuitable, *CUT):
        return False
    return len(found) >= 3


def _form_of(first: bytes, syntax: str) -> _Form:
    """How a dataset is written: what its first element shows counts more than the file meta."""
    explicit = first[4:6].decode("latin-1") in _VRS
    # The first groups are below 00FF, so one of their two bytes is 0: the high one.
    shows_little, shows_big = first[1:2] == b"\0", first[:1] == b"\0"
    big = shows_big and not shows_little and syntax in ("", EXPLICIT_BIG_ENDIAN)
    return _Form(explicit, not big)


def _syntax_of(form: _Form, named: str) -> str:
    """The transfer syntax that a file names, unless it names none or the wrong byte order."""
    if named and form.little == (named != EXPLICIT_BIG_ENDIAN):
        return named
    if not form.little:
        return EXPLICIT_BIG_ENDIAN
    return EXPLICIT if form.explicit else IMPLICIT


# --- its elements -----------------------------------------------------------------------------


class _Prefix:
    """The beginning of a stream: as many bytes as have been needed."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self.held = b""
        self.grow()

    def grow(self) -> bool:
        """Hold four times as many; False if there are no more.

        Raises:
            Unsuitable: they are more than a header can be meant to have ("unreadable").
        """
        size = len(self.held)
        more = self._read(min(max(FIRST_READ, 3 * size), MAX_HEADER + 1 - size))
        self.held += more
        if len(self.held) > MAX_HEADER:
            raise Unsuitable("unreadable", f"its header is longer than {MAX_HEADER} bytes")
        if sum(map(self.held.count, _ITEMS)) > MAX_ITEMS:
            raise Unsuitable("unreadable", f"its sequences have more than {MAX_ITEMS} items")
        return bool(more)


def _scan_meta(prefix: _Prefix, start: int) -> tuple[_Found, int]:
    """Group 0002, whatever its Group Length says; and where the dataset begins."""
    found, end = _scan(prefix, start, _Form(explicit=True), lambda tag, vr, length: tag >> 16 != 2)
    return found, end.start if end else len(prefix.held)


def _scan(prefix: _Prefix, start: int, form: _Form, stop: _Stop) -> tuple[_Found, _End | None]:
    """The elements from `start` to the one at which to `stop`, or to the end of the stream."""
    while True:
        try:
            found, end = _scan_once(prefix.held, start, form, stop)
        except CUT as cut:
            if not prefix.grow():
                raise Unsuitable("unreadable", "it ends within a sequence") from cut
        else:
            if end or not prefix.grow():
                return found, end


def _scan_once(held: bytes, start: int, form: _Form, stop: _Stop) -> tuple[_Found, _End | None]:
    """The same, as far as the bytes that are held have whole elements.

    Raises one of `CUT` where they end within a sequence.
    """
    found: _Found = {}
    ends: list[tuple[int, int, int]] = []
    stream = BytesIO(held)
    stream.seek(start)

    def at_end(tag: int, vr: str | None, length: int) -> bool:
        # Comparing pydicom's tags takes ten times as long.
        if not stop(int(tag), vr, length):
            return False
        ends.append((tag, stream.tell(), length))
        return True

    try:
        with quietly():
            for element in data_element_generator(stream, not form.explicit, form.little, at_end):
                if isinstance(element, RawDataElement) and _is_cut(element):
                    break
                # What has no keyword cannot be asked for.
                if int(element.tag) in _TAGS:
                    found[element.tag] = element
    except BROKEN as trouble:
        raise Unsuitable("unreadable", "its elements make no sense") from trouble
    return found, _End(ends[0][0], stream.tell(), *ends[0][1:]) if ends else None


def _is_cut(element: RawDataElement) -> bool:
    return len(element.value or b"") < element.length != _UNDEFINED
