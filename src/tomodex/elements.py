"""The values of a DICOM dataset by keyword, as far as they are what DICOM says they should be.

pydicom has found the elements and knows what they mean. Their bytes become text and numbers here,
because pydicom repeats the values that are none in warnings, and they may be a patient's.
"""

from __future__ import annotations

import math
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from threading import Lock

from pydicom.charset import convert_encodings, decode_bytes, default_encoding
from pydicom.config import logger
from pydicom.datadict import dictionary_has_tag, dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.filereader import read_sequence_item
from pydicom.tag import BaseTag
from pydicom.valuerep import VR

#: What pydicom raises where elements end before they should.
CUT = (EOFError, OSError, struct.error)
#: What else it raises where they make no sense, or are nested too deeply.
BROKEN = (
    ArithmeticError,
    AttributeError,
    BytesLengthException,
    LookupError,
    NotImplementedError,
    RecursionError,
    TypeError,
    ValueError,
)

_BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}
_PADDING = " \0\t\r\n"


class Elements:
    """Elements of one dataset by keyword; their values are read when asked for."""

    __slots__ = ("_charset", "_dataset", "_firsts")

    def __init__(self, dataset: Dataset, charset: str = "") -> None:
        self._dataset = dataset
        own = self._raw("SpecificCharacterSet")
        self._charset = _plain(_value(own)) if own else charset
        #: Shared functional groups are asked for again with every frame.
        self._firsts: dict[str, Elements | None] = {}

    def __contains__(self, keyword: str) -> bool:
        return _tag(keyword) in self._dataset

    def texts(self, keyword: str) -> tuple[str, ...]:
        """The values of a text element, stripped; () where it is missing or empty."""
        raw = self._raw(keyword)
        text = self._decode(_value(raw)).strip(_PADDING) if raw else ""
        return tuple([part.strip(_PADDING) for part in text.split("\\")]) if text else ()

    def text(self, keyword: str) -> str:
        """The values joined by backslashes as DICOM does; "" where there are none."""
        return "\\".join(self.texts(keyword))

    def numbers(self, keyword: str) -> tuple[float, ...]:
        """The values of a number element; () where one of them is missing or no finite number."""
        raw = self._raw(keyword)
        if raw is None:
            return ()
        if code := _BINARY.get(_representation(raw)):
            numbers: tuple[float, ...] = _unpack(raw, code)
        else:
            # "1_0" is a number to Python only.
            text = _plain(_value(raw)).replace("_", "?")
            try:
                numbers = tuple(map(float, text.split("\\")))
            except ValueError:
                return ()
        return numbers if all(map(math.isfinite, numbers)) else ()

    def number(self, keyword: str) -> float | None:
        """The first value of a number element."""
        numbers = self.numbers(keyword)
        return numbers[0] if numbers else None

    def integer(self, keyword: str) -> int | None:
        """The value of an element that must have exactly one, a whole one of 32 bits at most."""
        numbers = self.numbers(keyword)
        if len(numbers) != 1 or numbers[0] % 1 != 0 or abs(numbers[0]) > 0xFFFFFFFF:
            return None
        return int(numbers[0])

    def words(self, keyword: str, *, signed: bool) -> tuple[int, ...]:
        """16-bit values of an element that is US or SS, as PixelRepresentation says."""
        raw = self._raw(keyword)
        return _unpack(raw, "h" if signed else "H") if raw else ()

    def items(self, keyword: str) -> Iterator[Elements]:
        """The items of a sequence, as far as they can be read."""
        return self._items(_tag(keyword))

    def first(self, keyword: str) -> Elements | None:
        """The first item of a sequence."""
        if keyword not in self._firsts:
            self._firsts[keyword] = next(self.items(keyword), None)
        return self._firsts[keyword]

    def flat(self) -> Iterator[Elements]:
        """This dataset, then the first item of each sequence in it: macros of a frame."""
        yield self
        for tag in self._dataset.keys():  # noqa: SIM118  a Dataset iterates over values
            if item := next(self._items(tag), None):
                yield item

    def _raw(self, keyword: str) -> RawDataElement | None:
        """An element that is no sequence and has a value."""
        element = self._dataset.get_item(_tag(keyword), keep_deferred=True)
        return element if isinstance(element, RawDataElement) and element.value else None

    def _items(self, tag: BaseTag) -> Iterator[Elements]:
        element = self._dataset.get_item(tag, keep_deferred=True)
        if isinstance(element, DataElement):  # a sequence of undefined length, read already
            yield from (Elements(item, self._charset) for item in element.value)
        elif element and element.value and _representation(element) == "SQ":
            yield from (Elements(item, self._charset) for item in _read_items(element))

    def _decode(self, raw: bytes) -> str:
        if raw.isascii() and b"\x1b" not in raw:
            return raw.decode("ascii")
        return _decode_foreign(raw, self._charset)


@cache
def _tag(keyword: str) -> BaseTag:
    """The tag of a keyword of ours."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    return BaseTag(tag)


def _value(raw: RawDataElement) -> bytes:
    return raw.value or b""


def _representation(raw: RawDataElement) -> str:
    """The VR that an element says, else the one that it has (PS3.6)."""
    if raw.VR not in (None, VR.UN):
        return str(raw.VR)
    return dictionary_VR(raw.tag)[:2] if dictionary_has_tag(raw.tag) else "UN"


def _unpack(raw: RawDataElement, code: str) -> tuple[int, ...]:
    count = len(_value(raw)) // struct.calcsize(code)
    return struct.unpack_from(f"{'<' if raw.is_little_endian else '>'}{count}{code}", _value(raw))


def _read_items(raw: RawDataElement) -> Iterator[Dataset]:
    """The items of a sequence of defined length, one at a time."""
    stream = BytesIO(_value(raw))
    # UN is written in implicit VR, whatever is around it (PS3.5 6.2.2).
    implicit = raw.is_implicit_VR or raw.VR != VR.SQ
    while stream.tell() < len(_value(raw)):
        try:
            with quietly():
                item = read_sequence_item(stream, implicit, raw.is_little_endian, default_encoding)
        except (*CUT, *BROKEN):
            return
        if item is None:
            return
        yield item


def _plain(raw: bytes) -> str:
    return raw.decode("ascii", "replace").strip(_PADDING)


def _decode_foreign(raw: bytes, charset: str) -> str:
    """Decode text that is not ASCII; what its character set does not know becomes U+FFFD."""
    if not charset:
        # Nothing else may be there (PS3.3 C.12.1.1.2), but is: UTF-8 cannot be met by chance.
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return raw.decode("latin-1")
    terms = [term.strip() for term in charset.split("\\")]
    try:
        with quietly():
            return decode_bytes(raw, convert_encodings(terms), {0x5C, 0x0A, 0x0C, 0x0D})
    except (LookupError, UnicodeError, ValueError):
        return raw.decode("latin-1")


_silence = Lock()


@contextmanager
def quietly() -> Iterator[None]:
    """Keeps pydicom from repeating values of a header in warnings and log lines.

    Python silences warnings for all threads at once, so that one at a time does.
    """
    with _silence, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        was_disabled, logger.disabled = logger.disabled, True
        try:
            yield
        finally:
            logger.disabled = was_disabled
